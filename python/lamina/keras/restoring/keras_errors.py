"""Turns the errors of Keras's readers for a damaged file into `CorruptDataError`."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lamina.errors import CorruptDataError

#: These raise almost any exception for a damaged file, so the raising package decides.
_READERS = ("h5py", "zipfile")
_WEIGHTS = {"model.weights.h5", "model.weights.npz"}


@contextmanager
def as_corrupt_data(what: str) -> Iterator[None]:
    """Raise `CorruptDataError` if h5py or zipfile raises; other errors pass."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if _origin(error) not in _READERS:
            raise
        raise CorruptDataError(f"{what} is damaged, or not a Keras file: {error}") from error


def check_archive(file: Path) -> None:
    """Raise `CorruptDataError` if the file is not a ``.keras`` archive; Keras's own message would mislead."""
    if not file.name.endswith(".keras"):
        return
    if not zipfile.is_zipfile(file):
        raise CorruptDataError(f"{file.name} is damaged: it is not a whole zip archive")
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    if "config.json" not in names or not set(names) & _WEIGHTS:
        raise CorruptDataError(f"{file.name} is damaged, or not a Keras file: it has no model or no weights")


def _origin(error: Exception) -> str:
    """The package whose code raised the error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return name.partition(".")[0]
