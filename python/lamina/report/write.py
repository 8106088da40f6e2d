"""Writes a report to a file."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from lamina.errors import InvalidInputError, NotFoundError, StorageError
from lamina.report.data import Report
from lamina.report.page import BEGIN, page
from lamina.schemes import local_path


def check_target(target: str | os.PathLike[str]) -> Path:
    """Check the target file, before anything is read.

    Raises:
        NotFoundError: if its folder does not exist.
        InvalidInputError: if another file than a report exists there.
    """
    path = local_path(target, "a file")
    try:
        if not path.absolute().parent.is_dir():
            raise NotFoundError(f"the folder {path.absolute().parent} does not exist")
        if path.is_dir() or (path.exists() and not _is_page(path)):
            raise InvalidInputError(f"{path} exists and is not a lamina report; not overwritten")
    except OSError as error:
        raise StorageError(f"cannot access {path}: {error.strerror or error}") from error
    return path


def write(report: Report, target: str | os.PathLike[str]) -> int:
    """Write the page atomically; returns its size in bytes."""
    path = check_target(target)
    data = page(report).encode(errors="backslashreplace")
    temporary = path.with_name(f".{path.name}-{os.urandom(4).hex()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    return len(data)


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(BEGIN)).lower() == BEGIN.encode()
