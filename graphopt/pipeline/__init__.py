"""Passes, pipelines as text, and the manager that runs them under instruments."""
