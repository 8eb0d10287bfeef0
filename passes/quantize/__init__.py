"""Passes that store and compute in integers and in short floating-point numbers."""
