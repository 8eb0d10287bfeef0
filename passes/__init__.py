"""The built-in passes, one file or folder each. They reach graphopt by its entry points alone."""
