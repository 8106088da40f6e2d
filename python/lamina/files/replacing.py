"""Replacing a file whole or not at all; its links and its mode stay, as if a program had written into it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from lamina import _core

#: Who may read a file that nobody has restricted.
_READ_BY_ALL = 0o044


def behind_links(path: Path) -> Path:
    """The file that a path leads to: a link stays, and what it points at is replaced."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def mode_of(path: Path) -> int | None:
    """Who may read and write the file that is there; None if there is none."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None


def put_in_place(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make the file, and give it the mode of the one that it replaces."""
    path = behind_links(path)
    mode = mode_of(path)
    if mode is not None and mode & _READ_BY_ALL != _READ_BY_ALL:
        _put_privately(path, write, mode)
        return
    write(path)
    if mode is not None and mode_of(path) not in (mode, None):
        os.chmod(path, mode)


def flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows has no handle for it
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_privately(path: Path, write: Callable[[Path], None], mode: int) -> None:
    """Nobody may read it for a moment who could not read the one before."""
    temporary = _core.Temporary(path.parent)
    try:
        made = temporary.path / path.name
        write(made)
        os.chmod(made, mode)
        os.replace(made, path)
        flush(path.parent)
    finally:
        temporary.remove()
