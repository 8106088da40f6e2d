"""To the server: versions journaled, staged and logged."""
