"""Upload times: a line per version in ``uploads.jsonl`` of its repository. If a line is lost, only its time is lost."""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from pathlib import Path

_NAME = "uploads.jsonl"
#: Bytes of the file that are read; a line has about 80 bytes.
_LIMIT = 64 << 20


def note(repository: Path, snapshot: str, seconds: float) -> None:
    """Append the upload time of a snapshot, from logging it to the server's commit; never raises an error."""
    with contextlib.suppress(OSError), open(repository / _NAME, "a", opener=_regular) as file:
        file.write(json.dumps({"snapshot": snapshot, "seconds": round(seconds, 3)}) + "\n")


def _regular(path: str, flags: int) -> int:
    """Open a regular file only: a pipe could block, and a link could lead to a file that is not ours."""
    opened = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)
    if stat.S_ISREG(os.fstat(opened).st_mode):
        return opened
    os.close(opened)
    raise OSError(f"{path} is not a regular file")


def known(repository: Path) -> dict[str, float]:
    """Snapshot id → seconds; malformed lines are skipped."""
    try:
        with open(repository / _NAME, "rb", opener=_regular) as file:
            lines = file.read(_LIMIT).splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            entry = json.loads(line)
            seconds = float(entry["seconds"])
            if isinstance(entry["snapshot"], str) and math.isfinite(seconds) and seconds >= 0:
                found[entry["snapshot"]] = seconds
    return found
