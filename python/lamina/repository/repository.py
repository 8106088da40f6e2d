"""A repository: snapshots in a directory, deduplicated against each other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lamina import _core
from lamina.errors import CorruptDataError, InvalidInputError, NotFoundError
from lamina.repository.content import Content
from lamina.repository.keep import Keep
from lamina.repository.snapshot import Snapshot, TensorInfo
from lamina.timestamps import now


@dataclass(frozen=True)
class LostContent:
    """What a snapshot has lost. ``everything``: nothing of it can be told, or located, any more."""

    snapshot: int
    id: str | None
    series: str | None
    epoch: int | None
    everything: bool
    files: list[str]
    tensors: list[tuple[str | None, str]]  # file, name; no file for the training state

    def __str__(self) -> str:
        where = f" ({self.series}{'' if self.epoch is None else f', epoch {self.epoch}'})" if self.series else ""
        names = [name if file is None else f"{file}:{name}" for file, name in self.tensors]
        parts = [f"tensors {', '.join(names)}"] * bool(names) + [f"files {', '.join(self.files)}"] * bool(self.files)
        return f"snapshot {self.snapshot}{where}: {'all of it' if self.everything else '; '.join(parts)}"


def losses(found: list[dict[str, Any]]) -> list[LostContent]:
    """What the engine's report says is lost."""
    return [LostContent(**(one | {"tensors": [tuple(t) for t in one["tensors"]]})) for one in found]


@dataclass(frozen=True)
class VerifyReport:
    """What a verify looked at. ``chunks`` and ``bytes`` are 0 for a quick one. A repair may still bring back what is
    ``lost``."""

    snapshots: int
    packs: int
    chunks: int
    bytes: int
    problems: list[str] = field(default_factory=list)
    lost: list[LostContent] = field(default_factory=list)


@dataclass(frozen=True)
class RepairReport:
    """What a repair did, and what it could not do. Paths are those in the repository."""

    quarantined: list[str]
    restored: list[str]
    chunks_rescued: int  # whole chunks of damaged packs, stored anew
    chunks_fetched: int  # chunks that came from another copy
    lost: list[LostContent]
    problems: list[str]  # that a verify still finds, contents not read

    @property
    def ok(self) -> bool:
        """Whether everything is whole now."""
        return not self.lost and not self.problems


@dataclass(frozen=True)
class PruneReport:
    """What prune deleted, or with ``dry_run`` would delete."""

    snapshots: list[int]
    packs: int
    bytes: int
    waiting: int  # packs that go once the saves that are under way have ended


@dataclass(frozen=True)
class Stats:
    """What a repository holds. All sizes in bytes."""

    snapshots: int
    series: int
    packs: int
    bytes_packs: int
    bytes_total: int  # of all states, as if each had been saved on its own


@dataclass(frozen=True)
class TensorDiff:
    """How a tensor of two snapshots differs: ``"added"``, ``"removed"``, ``"changed"`` or ``"same"``."""

    name: str
    status: str
    nbytes: int
    changed_bytes: int  # in chunks that differ
    before: TensorInfo | None
    after: TensorInfo | None


class Repository:
    """An open repository. Several threads and processes may use the same directory at once."""

    def __init__(self, core: _core.Repository) -> None:
        self._core = core

    @property
    def path(self) -> Path:
        """Its directory."""
        return Path(self._core.root)

    @property
    def series(self) -> list[str]:
        """Names of its series, sorted."""
        return sorted({snapshot.series for snapshot in self.snapshots()})

    def snapshots(self, series: str | None = None) -> list[Snapshot]:
        """All snapshots, or those of a series, from the oldest to the newest."""
        found = [Snapshot(core, repository=self) for core in self._core.snapshots()]
        return [snapshot for snapshot in found if series is None or snapshot.series == series]

    def snapshot(self, ref: str | int = "latest", *, series: str | None = None) -> Snapshot:
        """The snapshot that ``ref`` names: an alias, ``latest``, ``best``, ``epoch_N``, a number or an id, or
        ``SERIES:`` and one of these.

        Raises:
            NotFoundError: if there is none.
            InvalidInputError: if the repository has several series and none is named.
        """
        ref = str(ref)
        if series is None and ":" in ref:
            series, ref = ref.rsplit(":", 1)
        return Snapshot(self._core.resolve(series, ref or "latest"), repository=self)

    def best(self, metric: str | None = None, mode: str | None = None, *, series: str | None = None) -> Snapshot:
        """The snapshot with the best value of ``metric``; without one, what the alias ``best`` names.

        ``mode`` is ``"min"`` or ``"max"``; without it, the one that training used for this metric.
        """
        if metric is None:
            return self.snapshot("best", series=series)
        if mode not in (None, "min", "max"):
            raise InvalidInputError(f"mode must be 'min' or 'max'. Received: {mode!r}")
        found = self.snapshots(series)
        valued = [(s.logs[metric], s) for s in found if isinstance(s.logs.get(metric), (int, float))]
        valued = [(value, s) for value, s in valued if value == value]
        if not valued:
            raise NotFoundError(f"no snapshot in {self.path} has a value of {metric!r}")
        mode = mode or next((s.mode for s in reversed(found) if s.monitor == metric and s.mode), None)
        if mode is None:
            mode = "min" if metric.removeprefix("val_").endswith("loss") else None
        if mode is None:
            raise InvalidInputError(f"is a larger {metric!r} better? Say mode='max' or mode='min'")
        pick = min if mode == "min" else max
        return pick(valued, key=lambda pair: pair[0])[1]

    def diff(self, a: Snapshot | str | int, b: Snapshot | str | int) -> list[TensorDiff]:
        """How each tensor changed from ``a`` to ``b``, the most changed first; of large ones only names are read."""
        before, after = (self._open(s if isinstance(s, Snapshot) else self.snapshot(s)) for s in (a, b))
        names = list(dict.fromkeys([*before.tensors, *after.tensors]))
        moved = _changed_small(before, after)
        return sorted((_diff(name, before, after, moved) for name in names), key=lambda d: -d.changed_bytes)

    def verify(self, full: bool = False, *, sample: float | None = None, seed: int = 0) -> VerifyReport:
        """Check everything that can be checked without, or with ``full`` with, reading every byte.

        Args:
            full: read every byte.
            sample: read about this share of the chunks, between 0 and 1; the same ones for the same ``seed``.
            seed: 0 to 2⁶⁴ - 1.

        Raises:
            CorruptDataError: if anything is damaged; its ``report`` lists every problem, and the snapshots, files and
                tensors that are not whole.
        """
        if full and sample is not None:
            raise InvalidInputError("full and sample exclude each other")
        if not 0 <= seed < 1 << 64:
            raise InvalidInputError(f"a seed is between 0 and 2**64 - 1. Received: {seed}")
        found = self._core.verify(full) if sample is None else self._core.verify_sample(sample, seed)
        snapshots, packs, chunks, read, problems, lost = found
        report = VerifyReport(snapshots, packs, chunks, read, problems, losses(json.loads(lost)))
        if report.problems:
            more = f" (and {len(report.problems) - 1} more problems)" if len(report.problems) > 1 else ""
            hit = ", ".join(str(lost.snapshot) for lost in report.lost)
            error = CorruptDataError(f"{report.problems[0]}{more}{f'; not whole: snapshots {hit}' if hit else ''}")
            error.report = report
            raise error
        return report

    def repair(self, *sources: Any) -> RepairReport:
        """Bring back what is damaged or missing from other copies, and move aside what is damaged (to ``quarantine``).

        Every byte is read. Nothing is deleted, and what could be read stays readable. Saves may go on meanwhile.

        Args:
            sources: where to look: a `Repository` or its directory, an artifact directory, ``"wandb:…"``, or a
                `wandb.Artifact` with packs.

        Raises:
            UnsupportedFormatError: where file locks do not work; nothing was changed.
            StorageError: if a prune is running; nothing was changed.
        """
        from lamina.repository.repairing import repair

        return repair(self, sources)

    def prune(self, keep: Keep | None = None, *, series: str | None = None, dry_run: bool = False) -> PruneReport:
        """Delete the snapshots that ``keep`` does not hold (of ``series``, or of each), and packs that nothing needs.

        Without ``keep`` no snapshot is deleted. Snapshots with a user alias and uploads under way are held.

        Raises:
            UnsupportedFormatError: where file locks do not work; nothing was deleted.
            CorruptDataError: if something that stays is damaged; nothing was deleted.
        """
        if not isinstance(keep, Keep | None):
            raise InvalidInputError(f"keep must be a lamina.Keep. Received: {keep!r}")
        rules = None if keep is None else (keep.last, keep.best, keep.every)
        return PruneReport(*self._core.prune(rules, series, dry_run))

    def stats(self) -> Stats:
        """What it holds."""
        found = self.snapshots()
        sizes = [entry.stat().st_size for entry in os.scandir(self.path / "packs") if entry.name.endswith(".pack")]
        total = sum(snapshot.bytes_total for snapshot in found)
        return Stats(len(found), len({s.series for s in found}), len(sizes), sum(sizes), total)

    def set_alias(self, snapshot: Snapshot | str, alias: str) -> None:
        """Let ``alias`` name a snapshot of its series; it moves there if it exists. It holds the snapshot."""
        found = self.snapshot(snapshot) if isinstance(snapshot, str) else snapshot
        self._core.set_alias(found._core, alias)

    def remove_alias(self, series: str, alias: str) -> bool:
        """Delete a user alias; False if there was none."""
        return self._core.remove_alias(series, alias)

    def _aliases_of(self, snapshot: Snapshot) -> list[str]:
        return self._core.aliases().get(snapshot.number or 0, [])

    def _open(self, snapshot: Snapshot) -> Content:
        return Content(self._core.reader(snapshot._core))

    def _name(self, snapshot: Snapshot, aliases: Iterable[str]) -> None:
        for alias in aliases:
            self._core.set_alias(snapshot._core, alias)

    def __repr__(self) -> str:
        return f"Repository({str(self.path)!r})"


def open(path: str | os.PathLike[str]) -> Repository:
    """Open an existing repository.

    Raises:
        NotFoundError: if the directory is none.
    """
    return Repository(_core.Repository.open(_directory(path)))


def open_or_create(path: str | os.PathLike[str]) -> Repository:
    """Open a repository, and make it first where the directory is new or empty."""
    return Repository(_core.Repository.open_or_create(_directory(path), now()))


def stands_in(folder: Path) -> bool:
    """Whether a folder is a repository; one without its ``config.json`` is damaged, not something else."""
    return (folder / "snapshots").is_dir() and (folder / "packs").is_dir()


def _directory(path: object) -> str:
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise InvalidInputError(f"expected the directory of a repository. Received: {path!r}")
    return os.fspath(path)


if hasattr(os, "register_at_fork"):
    # A worker of a data loader must not keep the lock of a save alive that its parent has begun.
    os.register_at_fork(after_in_child=_core.close_inherited_locks)


def _small(tensor: TensorInfo) -> bool:
    """Whether a tensor shares chunks with others, so that their ids say nothing of it alone (docs/format.md §5.2)."""
    return tensor.nbytes < 16 << 10


def _changed_small(before: Content, after: Content) -> set[str]:
    """The small tensors of both whose bytes differ; these are read."""
    both = [(before.tensors[n], after.tensors[n]) for n in before.tensors.keys() & after.tensors.keys()]
    both = [(old, new) for old, new in both if _small(old) and (old.dtype, old.shape) == (new.dtype, new.shape)]
    old_values, new_values = before.read(old for old, _ in both), after.read(new for _, new in both)
    values = zip(both, old_values, new_values, strict=True)
    return {names[1].name for names, old, new in values if old.tobytes() != new.tobytes()}


def _diff(name: str, before: Content, after: Content, moved: set[str]) -> TensorDiff:
    old, new = before.tensors.get(name), after.tensors.get(name)
    if old is None or new is None:
        there = old or new
        assert there is not None
        return TensorDiff(name, "removed" if new is None else "added", there.nbytes, there.nbytes, old, new)
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        return TensorDiff(name, "changed", new.nbytes, new.nbytes, old, new)
    if _small(new):
        changed = new.nbytes if new.name in moved else 0
    else:
        pairs = zip(before.chunks(old), after.chunks(new), strict=True)
        changed = sum(length for (was, _), (now_, length) in pairs if was != now_)
    return TensorDiff(name, "changed" if changed else "same", new.nbytes, changed, old, new)
