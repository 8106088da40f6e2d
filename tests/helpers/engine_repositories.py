"""Writes repositories with the engine, and reads them with the independent reader, which shares no code with it."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import lamina
from lamina.repository.dtypes import as_bytes
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.sources import open_artifact_directory, resolve
from lamina.writing import body
from travel_writer import restore, restored

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Tensor:
    """A tensor to save; the array is C-contiguous, ``dtype`` its name in the format."""

    name: str
    dtype: str
    array: Array
    role: str = "weights"

    @property
    def data(self) -> bytes:
        return self.array.tobytes()


@dataclass(frozen=True)
class File:
    """A file to save: tensors, literal bytes before each, and a tail."""

    path: str
    parts: tuple[tuple[bytes, Tensor], ...] = ()
    tail: bytes = b""

    @property
    def data(self) -> bytes:
        return b"".join(gap + tensor.data for gap, tensor in self.parts) + self.tail

    @property
    def plan(self) -> tuple[str, int, list[Any]]:
        """The arguments for the engine."""
        listed, at = [], 0
        for gap, tensor in self.parts:
            at += len(gap)
            listed.append(_plan(tensor, at if tensor.array.nbytes else 0))
            at += tensor.array.nbytes
        return self.path, at + len(self.tail), listed


@dataclass(frozen=True)
class Saved:
    """What a snapshot must restore."""

    files: Sequence[File]
    training: Sequence[Tensor] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)


def _plan(tensor: Tensor, offset: int) -> tuple[Any, ...]:
    return tensor.name, tensor.dtype, tensor.array.shape, tensor.role, offset


def save_memory(repository: Repository, saved: Saved, *, codec: str = "auto") -> Snapshot:
    """Save from memory, including training tensors."""
    groups = [[tensor for _, tensor in file.parts] for file in saved.files] + [list(saved.training)]
    core = repository._core.save_memory(
        body({"series": "default", "kind": "files", **saved.fields}),
        [file.plan for file in saved.files],
        [_plan(tensor, 0) for tensor in saved.training],
        [[_flat(tensor.array) for tensor in group] for group in groups],
        [_bytes(b"".join(gap for gap, _ in file.parts) + file.tail) for file in saved.files],
        codec,
    )
    return Snapshot(core, repository=repository)


def save_files(repository: Repository, saved: Saved, folder: Path, *, codec: str = "auto") -> Snapshot:
    """Write a folder and save it; it cannot have training tensors."""
    assert not saved.training
    paths = []
    for number, file in enumerate(saved.files):
        paths.append(folder / str(number))
        paths[-1].write_bytes(file.data)
    text = body({"series": "default", "kind": "files", **saved.fields})
    core = repository._core.save_files(text, [file.plan for file in saved.files], paths, codec)
    return Snapshot(core, repository=repository)


def _bytes(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(data, np.uint8)


def _flat(array: Array) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return as_bytes(array) if array.size else np.empty(0, np.uint8)


def write_artifact(snapshot: Snapshot, folder: Path) -> Path:
    """The files of a snapshot in a W&B artifact with ``layout="packs"``."""
    repository = snapshot._repository
    assert repository is not None
    (folder / "packs").mkdir(parents=True)
    (folder / "lamina.json").write_bytes(repository._core.snapshot_bytes(snapshot.number or 0))
    (folder / "lamina.placement").write_bytes(repository._core.placement_bytes(snapshot._core))
    for name, _ in repository._core.packs_of(snapshot._core):
        shutil.copyfile(repository.path / "packs" / f"{name}.pack", folder / "packs" / f"{name}.pack")
    return folder


def check_saved(snapshot: Snapshot, saved: Saved, source: Any = None) -> None:
    """Check that a restore from the repository, or from ``source``, equals what was saved."""
    with tempfile.TemporaryDirectory() as folder:
        lamina.export(source or snapshot, folder)
        assert restored(Path(folder)) == {file.path: file.data for file in saved.files}
    found = [(file.path, tensor) for file in saved.files for _, tensor in file.parts]
    unique = len({tensor.name for _, tensor in found}) == len(found)
    expected = {tensor.name if unique else f"{path}:{tensor.name}": tensor for path, tensor in found}
    check_arrays(lamina.read_tensors(source or snapshot), expected)
    content = resolve(snapshot).content
    names = list(content.training)
    arrays = content.read(content.training.values())
    check_arrays(dict(zip(names, arrays, strict=True)), {tensor.name: tensor for tensor in saved.training})


def check_arrays(found: Mapping[str, Array], expected: Mapping[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.array.dtype, name
        assert found[name].shape == tensor.array.shape, name
        assert found[name].tobytes() == tensor.data, name


def check_with_travel(repository_dir: str | os.PathLike[str]) -> int:
    """Restore every snapshot by both readers, from the repository and from artifacts; all must agree.

    Gives the number of snapshots.
    """
    path = Path(repository_dir)
    repository, source = lamina.open(path), restore.open_source(path)
    snapshots = repository.snapshots()
    listed = [(snapshot["number"], snapshot["id"]) for snapshot in source.snapshots()]
    assert listed == [(snapshot.number, snapshot.id) for snapshot in snapshots]
    for snapshot in snapshots:
        with tempfile.TemporaryDirectory() as folder:
            _compare(snapshot, source, Path(folder))
    return len(snapshots)


def _compare(snapshot: Snapshot, source: Any, folder: Path) -> None:
    artifact = write_artifact(snapshot, folder / "artifact")
    lamina.export(snapshot, folder / "engine")
    open_artifact_directory(artifact).content.export(folder / "engine-artifact")
    source.restore(folder / "travel", snapshot.id)
    travelling = restore.open_source(artifact)
    travelling.restore(folder / "travel-artifact")
    expected = restored(folder / "engine")
    for reader in ("engine-artifact", "travel", "travel-artifact"):
        assert restored(folder / reader) == expected, reader
    source.verify(snapshot.id)
    travelling.verify()
    content = resolve(snapshot).content
    training = dict(zip(content.training, content.read(content.training.values()), strict=True))
    for mine, theirs in [
        (lamina.read_tensors(snapshot), source.tensors(snapshot.id)),
        (lamina.read_tensors(snapshot), travelling.tensors()),
        (training, source.training(snapshot.id)),
    ]:
        _same_arrays(mine, theirs)


def _same_arrays(mine: Mapping[str, Array], theirs: Mapping[str, Array]) -> None:
    assert list(mine) == list(theirs)
    for name, array in mine.items():
        assert (array.dtype, array.shape) == (theirs[name].dtype, theirs[name].shape), name
        assert array.tobytes() == theirs[name].tobytes(), name


def random_tensor(
    random: np.random.Generator, name: str, dtype: np.dtype[Any], shape: Iterable[int], role: str = "weights"
) -> Tensor:
    """Elements like those of weights, or compressible, or of arbitrary bits."""
    sides = tuple(shape)
    length = math.prod(sides) * dtype.itemsize
    if dtype.kind == "U":
        array = np.full(sides, "é", dtype)
    else:
        data = random.bytes(length) if random.integers(2) else bytes(random.integers(0, 3, length, np.uint8))
        array = np.frombuffer(bytearray(data), np.uint8).view(dtype).reshape(sides)
    if dtype.kind == "f" and dtype.itemsize in (4, 8) and random.integers(2):
        array = random.normal(0, 0.05, sides).astype(dtype)
    return Tensor(name, format_name(dtype), np.ascontiguousarray(array).reshape(sides), role)


def format_name(dtype: np.dtype[Any]) -> str:
    """numpy's ``dtype.str``, or the name of a dtype of ml_dtypes."""
    return dtype.name if dtype.isbuiltin == 2 else dtype.str
