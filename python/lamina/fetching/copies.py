"""Copies of files, as cheap as the file system allows: reflinks, hard links, or real copies."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path

# linux/fs.h: _IOW(0x94, 9, int)
FICLONE = 0x40049409


def reflink(source: Path, target: Path) -> bool:
    """Copy a file by sharing its blocks; False if the file system cannot."""
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
    """Copy a file, so that later writes to ``source`` do not change ``target``."""
    if not reflink(source, target):
        shutil.copyfile(source, target)


def immutable_copy(source: Path, target: Path) -> None:
    """Copy or link a file that is never written to again; the copy stays if ``source`` is deleted."""
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
            temporary.unlink()  # a rename onto a link of the same file does nothing
