"""A TensorFlow SavedModel for inference, exported into a hidden staging folder."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from lamina import _core
from lamina.errors import InvalidInputError
from lamina.files.replacing import flush
from lamina.keras import private, remote
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.writing import save_path

#: The parts of a SavedModel of TensorFlow 2 or Keras 2. A folder with anything else is never replaced.
_PARTS = {
    "saved_model.pb",
    "saved_model.cpb",
    "fingerprint.pb",
    "keras_metadata.pb",
    "variables",
    "assets",
    "assets.extra",
    "debug",
}
#: Loaders look for this file: without it, the folder is not a SavedModel.
_MARK = "saved_model.pb"
# linux/fs.h and fcntl.h
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100


class SavedModelFolder:
    """A pending checkpoint of a SavedModel's files. It has no training state, because it cannot be trained."""

    def __init__(self, model: Any, path: str, *, beside: Path, options: Any) -> None:
        beside.mkdir(parents=True, exist_ok=True)
        self._temporary = _core.Temporary(beside)
        self.folder = self._temporary.path / os.path.basename(path)
        try:
            _export(model, self.folder, options)
            self.nbytes = sum(file.stat().st_size for file in _files(self.folder))
        except BaseException:
            self.release()
            raise

    def store(self, repository: Repository, fields: Mapping[str, Any], *, codec: str, threads: int) -> Snapshot:
        return save_path(repository, self.folder, fields, codec=codec, threads=threads)

    def write(self, path: str) -> None:
        """Move the whole SavedModel to its path."""
        check_replaceable(path)
        if remote.is_remote(path):
            remote.copy_folder(self.folder, path, last=_MARK)
            return
        for file in (*_files(self.folder), *_folders(self.folder)):
            flush(file)
        target = Path(path)
        if target.exists():
            # The old SavedModel is now in the staging folder, and is removed with it.
            _swap(self.folder, target)
        else:
            os.rename(self.folder, target)
        self.folder = target
        flush(target.parent)

    def copy_to(self, path: Path) -> None:
        shutil.copytree(self.folder, path)

    def release(self) -> None:
        self._temporary.remove()


def check_replaceable(path: str) -> None:
    """Refuse to replace anything but a SavedModel or an empty directory."""
    if not remote.exists(path) and not os.path.islink(path):
        return
    if os.path.islink(path) or not remote.is_folder(path):
        raise InvalidInputError(f"a SavedModel is a directory, but {path} is not one: choose another filepath")
    if strange := remote.names_in(path) - _PARTS:
        raise InvalidInputError(
            f"cannot replace the directory {path} with a SavedModel: it holds other files, such as {min(strange)!r}. "
            "Choose another filepath"
        )


def _export(model: Any, folder: Path, options: Any) -> None:
    """As `Model.export`, which takes no options."""
    if options is not None and (reason := private.why_not("export_options")):
        warnings.warn(f"the SavedModel is exported without `options`: {reason}", stacklevel=2)
        options = None
    if options is None:
        model.export(str(folder), format="tf_saved_model", verbose=False)
        return
    archive = keras.export.ExportArchive()
    archive.track_and_add_endpoint("serve", model, private.input_signature(model))
    archive.write_out(str(folder), options=options, verbose=False)


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _folders(folder: Path) -> list[Path]:
    return [*(path for path in folder.rglob("*") if path.is_dir()), folder]


def _swap(first: Path, second: Path) -> None:
    """Swap two directories: atomically if the system can, otherwise with a moment in which one is missing."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
                return
    aside = first.with_name(f"{first.name}-before")
    os.rename(second, aside)
    try:
        os.rename(first, second)
    except BaseException:
        os.rename(aside, second)
        raise
