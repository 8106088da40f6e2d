"""Checkpoint files as sources. They have no digests, so only their structure can be checked."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lamina import _core
from lamina.errors import StorageError
from lamina.files import keras_archive
from lamina.files.plan import FilePlan
from lamina.repository import memory
from lamina.repository.content import Content, Empty
from lamina.repository.dtypes import as_bytes, to_numpy
from lamina.repository.snapshot import Snapshot
from lamina.repository.tensor import TensorInfo
from lamina.repository.tensor_names import NamedArrays, Tensors


class PlainContent:
    """Files on disk, with the interface of `lamina.repository.content.Content`."""

    def __init__(self, plans: list[tuple[Path, FilePlan]], names: Mapping[str, str] | None = None) -> None:
        self._plans = plans
        self._names = names or {}  # of variables, by path in the file; no file holds them
        self.training: dict[str, TensorInfo] = {}

    @cached_property
    def files(self) -> dict[str, int]:
        """Path → bytes."""
        return {plan.path: plan.size for _, plan in self._plans}

    @cached_property
    def tensors(self) -> Tensors:
        """Tensors of all files; offsets count from the file's start."""
        found = [
            TensorInfo(t.name, t.dtype, t.shape, t.role, plan.path, t.offset, self._names.get(t.name))
            for _, plan in self._plans
            for t in plan.tensors
        ]
        return Tensors(found)

    def read(
        self, tensors: Iterable[TensorInfo], *, threads: int = 0, empty: Empty = memory.empty
    ) -> list[np.ndarray[Any, Any]]:
        """Read tensors, each into new memory from ``empty``."""
        paths = {plan.path: path for path, plan in self._plans}
        arrays = []
        for tensor in tensors:
            array = empty(tensor.shape, to_numpy(tensor.dtype))
            if array.size:
                _fill(paths[tensor.file or ""], tensor.offset, as_bytes(array))
            arrays.append(array)
        return arrays

    def read_part(self, tensor: TensorInfo, start: int, into: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Read bytes of a tensor from ``start`` on, as many as ``into`` has."""
        place = next(path for path, plan in self._plans if plan.path == tensor.file)
        _fill(place, tensor.offset + start, into)

    def read_named(self, names: Iterable[str] | None = None, *, threads: int = 0) -> dict[str, np.ndarray[Any, Any]]:
        """Read the tensors of these names, or all of them."""
        wanted = self.tensors if names is None else self.tensors.find(names)
        return NamedArrays(wanted, self.read(wanted.values()), self.tensors)

    def open(self, path: str) -> BinaryIO:
        """Open one of the files for reading."""
        return next(file for file, plan in self._plans if plan.path == path).open("rb")

    def export(self, directory: Path, *, threads: int = 0) -> list[Path]:
        """Copy the files; each copy is complete or absent."""
        written = []
        for path, plan in self._plans:
            target = directory / plan.path
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                if not (target.exists() and os.path.samefile(path, target)):
                    _copy(path, target)
            except OSError as error:
                raise StorageError(f"cannot copy {path} to {target}: {error.strerror or error}") from error
            written.append(target)
        return written


@dataclass(frozen=True)
class Opened:
    """An open source: its structure has been read, its content has not."""

    content: Content | PlainContent
    snapshot: Snapshot


def _copy(path: Path, target: Path) -> None:
    held = _core.Temporary(target.parent)
    try:
        shutil.copyfile(path, held.path / target.name)
        os.replace(held.path / target.name, target)
    finally:
        held.remove()


def _fill(path: Path, offset: int, buffer: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            if file.readinto(buffer.data) != buffer.nbytes:
                raise StorageError(f"{path} ends inside a tensor; it was truncated after it was opened")
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error}") from error


class _FileSnapshot:
    """Stands in for the engine's snapshot: a file knows its name, and the optimizer of a model."""

    id = ""
    number = 0
    file_bytes = 0

    def __init__(self, path: Path, kind: str, total: int) -> None:
        empty: dict[str, Any] = dict.fromkeys(
            ["run", "epoch", "batch", "step", "next_epoch", "monitor", "mode", "value"]
        )
        empty |= {"logs": {}, "metadata": {}, "training": keras_archive.training(path), "software": {}, "best": False}
        empty |= {"created_at": "", "series": path.name, "kind": kind, "blocked_seconds": 0.0}
        self._body = json.dumps(empty | {"bytes_total": total, "bytes_new": 0, "bytes_stored": 0})

    def body(self) -> str:
        return self._body


def open_plain(path: Path, names: Mapping[str, str] | None = None) -> Opened:
    """Open a checkpoint file, a sharded one by its index, or a directory of files; ``names`` of variables if known."""
    from lamina.files import h5  # the command line looks at repositories without h5py

    plans = h5.plan_source(path)
    content = PlainContent(plans, names)
    core: Any = _FileSnapshot(path, kind_of(plan.path for _, plan in plans), sum(content.files.values()))
    return Opened(content, Snapshot(core, content=content))  # type: ignore[arg-type]


def kind_of(paths: Iterable[str]) -> str:
    """The kind of a snapshot of these files."""
    names = list(paths)
    if len(names) == 1 and names[0].endswith((".keras", ".h5")):
        return "weights" if names[0].endswith(".weights.h5") else "model"
    if keras_archive.is_unpacked(names):
        return "model"
    if any(name.endswith(".weights.json") for name in names) and len(names) > 1:
        return "weights"
    return "files"
