"""The cache folder, where downloads go."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from lamina.schemes import local_path


def cache_folder() -> Path:
    """``LAMINA_CACHE_DIR``, or the user's cache folder on this system."""
    if given := os.environ.get("LAMINA_CACHE_DIR"):
        return local_path(given, "LAMINA_CACHE_DIR: a directory")
    return platformdirs.user_cache_path("lamina", appauthor=False)
