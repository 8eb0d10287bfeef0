"""What pass authors build with: uses, constants, shapes, names, weights."""
