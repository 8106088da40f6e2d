"""Second names and copies of files that cost as little as the file system allows."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path

# linux/fs.h: _IOW(0x94, 9, int)
FICLONE = 0x40049409


def reflink(source: Path, target: Path) -> bool:
    """Make ``target`` a file of its own that shares its blocks with ``source``; False where that does not work."""
    if not sys.platform.startswith("linux"):
        return False
    import fcntl

    try:
        with source.open("rb") as old, target.open("xb") as new:
            fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
        return True
    except FileExistsError:
        raise
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
        return False


def own_copy(source: Path, target: Path) -> None:
    """Make ``target`` a file of its own: what is later written to ``source`` does not reach it."""
    if not reflink(source, target):
        shutil.copyfile(source, target)


def immutable_copy(source: Path, target: Path) -> None:
    """Give a file that nobody ever writes to another name; it outlives the first one."""
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return
    temporary = target.with_name(f".{target.name}-{os.urandom(6).hex()}")
    try:
        if not reflink(source, temporary):
            try:
                os.link(source, temporary)
            except OSError:
                shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()  # a rename onto the same inode leaves it
