"""Saves a model: capture, queue, commit."""
