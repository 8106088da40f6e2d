"""Restores a snapshot into a model."""
