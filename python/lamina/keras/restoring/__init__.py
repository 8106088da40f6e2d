"""A snapshot back into a model."""
