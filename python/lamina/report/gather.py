"""Collects a `Report` from a source, in one pass over the versions, with at most two of them open at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lamina.files.plain import PlainContent
from lamina.report import notes
from lamina.report.costs import Costs, largest_first
from lamina.report.data import NO_DISTANCE, LayerRow, Report, TensorRow, VersionRow
from lamina.report.layer_names import HEADERS, layer_of, own_layers
from lamina.report.movement import Movement
from lamina.report.version_chunks import VersionChunks
from lamina.repository import repository, upload_times
from lamina.repository.content import Content
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.repository.tensor import TensorInfo, tensor_bytes
from lamina.repository.tensor_names import shown_names
from lamina.schemes import native_path
from lamina.sources import Source, in_repository, resolve


@dataclass(frozen=True)
class History:
    """The versions of a source, oldest first."""

    source: str
    snapshots: list[Snapshot]
    content: Content | PlainContent | None = None  # of a single version outside a repository

    @property
    def bytes(self) -> int:
        """Total size of all versions."""
        return sum(snapshot.bytes_total for snapshot in self.snapshots)


def history(source: Source, series: str | None = None) -> History:
    """The series that ``source`` names, up to the version that it names; for another source, its one version.

    Raises:
        NotFoundError: if it does not exist.
        InvalidInputError: if the repository has several series and none is named.
    """
    named = _in_repository(source, series)
    if named is None:
        opened = resolve(source)
        return History(_shown(source), [opened.snapshot], opened.content)
    home = _home(named)
    number = named.number or 0
    return History(_shown(source), [s for s in home.snapshots(named.series) if (s.number or 0) <= number])


def gather(found: History, *, distances: bool = True, advance: Callable[[int], None] = lambda _: None) -> Report:
    """Collect the data of a report. Without ``distances`` no tensor is read.

    ``advance`` is called with the bytes of each finished part; together they are `History.bytes`.
    """
    versions = _versions(found)
    if isinstance(found.content, PlainContent):
        return _of_file(found, found.content, versions)
    costs, movement, tensors = Costs(), Movement(len(versions)), dict[str, TensorInfo]()
    before: VersionChunks | None = None
    for number, snapshot in enumerate(found.snapshots):
        state = VersionChunks(found.content or _opened(snapshot), before)
        costs.add(state)
        movement.add(number, before if distances else None, state, advance)
        tensors |= state.form.tensors
        before = state
    layers = costs.layers(own_layers(tensors))
    return _report(found, versions, _tensors(tensors), layers, movement.matrix(), distances)


def _in_repository(source: Source, series: str | None) -> Snapshot | None:
    """The snapshot that a source names in a repository; None for another source."""
    if isinstance(source, Snapshot):
        return source if source._repository is not None else None
    if isinstance(source, Repository):
        return source.snapshot(series=series)
    named = in_repository(source)
    if named is None:
        return None
    folder, ref = named
    return repository.open(folder).snapshot(ref, series=series)


def _opened(snapshot: Snapshot) -> Content:
    """Open a snapshot's content; the snapshot does not keep it."""
    return _home(snapshot)._open(snapshot)


def _home(snapshot: Snapshot) -> Repository:
    assert isinstance(snapshot._repository, Repository)
    return snapshot._repository


def _shown(source: Source) -> str:
    """The name of the source on the page. The page may be shared, so absolute paths are cut to their last part."""
    if isinstance(source, Repository):
        source = source.place
    if isinstance(source, (str, os.PathLike)):
        text = os.fspath(source)
        return os.path.basename(text.rstrip(os.sep)) or text if os.path.isabs(text) else text
    return getattr(source, "name", None) or repr(source)


def _versions(found: History) -> list[VersionRow]:
    home = found.snapshots[0]._repository
    aliases, times = dict[int, list[str]](), dict[str, float]()
    if isinstance(home, Repository):
        aliases, times = home._core.aliases(), upload_times.known(native_path(home._core.root))
    return [_version(s, aliases.get(s.number or 0, []), times.get(s.id)) for s in found.snapshots]


def _version(s: Snapshot, aliases: list[str], upload: float | None) -> VersionRow:
    kept = bool(s.id)  # False for a plain file, which has no recorded cost
    return VersionRow(
        number=s.number,
        id=s.id or None,
        created_at=s.created_at or None,
        epoch=s.epoch,
        batch=s.batch,
        step=s.step,
        monitor=s.monitor,
        mode=s.mode,
        value=s.value,
        best_so_far=s.best,
        aliases=aliases,
        logs=s.logs,
        bytes_total=s.bytes_total,
        bytes_new=s.bytes_new if kept else None,
        bytes_stored=s.bytes_stored if kept else None,
        blocked_seconds=s.blocked_seconds or None,
        upload_seconds=upload,
    )


def _best(versions: list[VersionRow]) -> int | None:
    """Index of the version with the alias ``best``; if none has it, the newest that was the best when saved."""
    named = [i for i, version in enumerate(versions) if "best" in version.aliases]
    marked = [i for i, version in enumerate(versions) if version.best_so_far]
    found = named or marked
    return found[-1] if found else None


def _tensors(tensors: dict[str, TensorInfo]) -> list[TensorRow]:
    names, layers = shown_names(tensors), own_layers(tensors)
    return [
        TensorRow(names[path], layers[layer_of(path, t)], t.role, t.dtype, list(t.shape), tensor_bytes(t))
        for path, t in tensors.items()
    ]


def _report(
    found: History,
    versions: list[VersionRow],
    tensors: list[TensorRow],
    layers: list[LayerRow],
    moved: np.ndarray[Any, np.dtype[np.float32]],
    distances: bool = True,
) -> Report:
    newest = found.snapshots[-1]
    report = Report(
        found.source, newest.series, newest.run, versions, _best(versions), tensors, layers, moved, distances
    )
    report.notes.extend(notes.of(report))
    return report


def _of_file(found: History, content: PlainContent, versions: list[VersionRow]) -> Report:
    tensors = _tensors(content.tensors.by_path)
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.layer] = sizes.get(tensor.layer, 0) + (tensor.bytes or 0)
    sizes[HEADERS] = sum(content.files.values()) - sum(sizes.values())
    layers = [LayerRow(name, size, size, None, None) for name, size in sizes.items()]
    moved = np.full((len(tensors), 1), NO_DISTANCE, np.float32)
    return _report(found, versions, tensors, largest_first(layers), moved)
