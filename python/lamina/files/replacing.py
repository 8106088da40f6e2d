"""Replacing a file atomically. Links to it and its mode stay, as if a program had written into it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from lamina import _core

#: Mode bits of a file that everyone may read.
_READ_BY_ALL = 0o044


def behind_links(path: Path) -> Path:
    """The file behind a symbolic link: the link stays, and the file that it points to is replaced."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def mode_of(path: Path) -> int | None:
    """The permission bits of a file; None if it does not exist."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None


def put_in_place(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` create the file at a path, and give it the mode of the file that it replaces."""
    path = behind_links(path)
    mode = mode_of(path)
    if mode is not None and mode & _READ_BY_ALL != _READ_BY_ALL:
        _put_privately(path, write, mode)
        return
    write(path)
    if mode is not None and mode_of(path) not in (mode, None):
        os.chmod(path, mode)


def flush(path: Path) -> None:
    """Flush a file or a directory to disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot flush a directory
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_privately(path: Path, write: Callable[[Path], None], mode: int) -> None:
    """Write in a private folder first: at no moment may a user read it who could not read the old file."""
    temporary = _core.Temporary(path.parent)
    try:
        made = temporary.path / path.name
        write(made)
        os.chmod(made, mode)
        os.replace(made, path)
        flush(path.parent)
    finally:
        temporary.remove()
