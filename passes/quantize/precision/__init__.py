"""Mixed precision: which nodes compute in another float type, and the casts between them."""
