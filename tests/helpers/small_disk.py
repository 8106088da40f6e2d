"""A disk of a few MiB that gets full or read-only: a tmpfs, if this process may mount one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REASON = "mounting a tmpfs needs root on Linux"


@contextmanager
def small_disk(folder: Path, mebibytes: int = 4) -> Iterator[Path | None]:
    """Mount it at ``folder``; None if this process may not."""
    folder.mkdir()
    mounted = _run("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "lamina-tests", str(folder))
    try:
        yield folder if mounted else None
    finally:
        if mounted and not _run("umount", str(folder)):
            raise RuntimeError(f"{folder} is in use: a file there was left open")
        folder.rmdir()


def remount(disk: Path, how: str) -> None:
    """Remount it as ``"ro"`` or ``"rw"``."""
    if not _run("mount", "-o", f"remount,{how}", str(disk)):
        raise RuntimeError(f"{disk} is in use: a file there is open for writing")


def _run(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
