"""Checkpoint files: plans of `.h5` and `.keras`, read and written tensor by tensor."""
