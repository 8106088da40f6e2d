"""The engine's objects in Python: repository, snapshot, content."""
