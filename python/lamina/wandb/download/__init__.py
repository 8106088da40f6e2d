"""From the server: artifacts opened, files fetched."""
