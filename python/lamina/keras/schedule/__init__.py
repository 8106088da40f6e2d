"""When to save, and which save is the best."""
