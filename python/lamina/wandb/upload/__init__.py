"""Uploads: versions are recorded in the journal, staged and logged."""
