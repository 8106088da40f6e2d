"""One training step's state: which variables make a file, and a copy of their values."""
