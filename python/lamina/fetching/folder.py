"""Where a download stands as long as somebody reads it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lamina import _core
from lamina.cache import cache_folder


def new_folder() -> _core.Temporary:
    """A folder in the cache that nobody else reads, for one download; the next one removes what a kill left of it."""
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        held = _core.Temporary(cache_folder())
    except OSError:
        held = _core.Temporary(Path(tempfile.gettempdir()))
    held.path.chmod(0o700)
    return held
