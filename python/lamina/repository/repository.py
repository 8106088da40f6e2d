"""`Repository`: snapshots in a directory, deduplicated against each other."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina import _core
from lamina.errors import CorruptDataError, InvalidInputError, NotFoundError, StorageError
from lamina.repository.keep import Keep
from lamina.repository.results import PruneReport, RepairReport, Stats, VerifyReport, losses
from lamina.repository.snapshot import Snapshot
from lamina.schemes import bucket_of, check_name, local_path, native_path, opener_of

if TYPE_CHECKING:
    import pandas

    from lamina.repository.content import Content
    from lamina.repository.diff import TensorDiffs

#: The parts of a repository. A folder with at least two of them is a repository, perhaps a damaged one.
_PARTS = ("config.json", "packs", "snapshots")
_MEND = "restore it from another copy with lamina verify --repair --from OTHER"

#: At most this many names are listed in an error.
_LISTED = 20


class Repository:
    """An open repository. Several threads and processes may use the same directory at the same time.

    Examples:
        >>> import keras, lamina
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> snapshot = lamina.save(model, "runs/a")
        >>> repository = lamina.open("runs/a")
        >>> repository.set_alias(snapshot, "paper")
        >>> [snapshot.aliases for snapshot in repository.snapshots()]
        [['latest', 'paper']]
        >>> repository.prune(lamina.Keep(last=1)).snapshots
        []
    """

    __module__ = "lamina"

    def __init__(self, core: _core.Repository) -> None:
        self._core = core

    @property
    def path(self) -> Path:
        """Its directory."""
        return native_path(self._core.root)

    @property
    def place(self) -> str:
        """Its directory, or its address in a bucket, as a user names it."""
        return str(self.path)

    @property
    def series(self) -> list[str]:
        """Names of its series, sorted."""
        return sorted({snapshot.series for snapshot in self.snapshots()})

    def snapshots(self, series: str | None = None) -> list[Snapshot]:
        """All snapshots, or those of one series, oldest first."""
        found = [Snapshot(core, repository=self) for core in self._core.snapshots()]
        return [snapshot for snapshot in found if series is None or snapshot.series == series]

    def snapshot(self, ref: str | int = "latest", *, series: str | None = None) -> Snapshot:
        """The snapshot that ``ref`` names: an alias, ``latest``, ``best``, ``epoch_N``, a number, an id, or
        ``SERIES:`` followed by one of these.

        Raises:
            NotFoundError: if there is none.
            InvalidInputError: if the repository has several series and ``ref`` names none.
        """
        ref = check_name(str(ref), "the name of a snapshot")
        check_name(series or "", "the name of a series")
        if series is None and ":" in ref:
            series, ref = ref.rsplit(":", 1)
        try:
            return Snapshot(self._core.resolve(series, ref or "latest"), repository=self)
        except NotFoundError as error:
            raise self._explained(error, ref, series) from None

    def best(self, metric: str | None = None, mode: str | None = None, *, series: str | None = None) -> Snapshot:
        """The snapshot with the best value of ``metric``, or without ``metric`` the one that the alias ``best`` names.

        ``mode`` is ``"min"`` or ``"max"``; by default the one that training used for this metric.

        Raises:
            NotFoundError: if no snapshot has a value of ``metric``.
            InvalidInputError: if it is unknown whether a higher value is better.
        """
        if metric is None:
            return self.snapshot("best", series=series)
        if mode not in (None, "min", "max"):
            raise InvalidInputError(f"mode must be 'min' or 'max'. Received: {mode!r}")
        found = self.snapshots(series)
        valued = [(s.logs[metric], s) for s in found if isinstance(s.logs.get(metric), (int, float))]
        valued = [(value, s) for value, s in valued if value == value]
        if not valued:
            raise NotFoundError(f"no snapshot in {self.place} has a value of {metric!r}")
        mode = mode or next((s.mode for s in reversed(found) if s.monitor == metric and s.mode), None)
        if mode is None:
            mode = "min" if metric.removeprefix("val_").endswith("loss") else None
        if mode is None:
            raise InvalidInputError(f"cannot tell whether a higher {metric!r} is better; pass mode='max' or mode='min'")
        pick = min if mode == "min" else max
        return pick(valued, key=lambda pair: pair[0])[1]

    def diff(self, a: Snapshot | str | int, b: Snapshot | str | int) -> TensorDiffs:
        """How each tensor changed from ``a`` to ``b``, the largest change in bytes first. Tensors with the same chunks
        are not read.
        """
        before, after = (self._open(s if isinstance(s, Snapshot) else self.snapshot(s)) for s in (a, b))
        from lamina.repository.diff import diff

        return diff(before, after)

    def verify(self, full: bool = False, *, sample: float | None = None, seed: int = 0) -> VerifyReport:
        """Check the repository: quickly, or with ``full`` by reading every byte.

        Args:
            full: read every byte.
            sample: read about this fraction of the chunks, between 0 and 1; the same ones for the same ``seed``.
            seed: an integer from 0 to 2⁶⁴ - 1.

        Raises:
            CorruptDataError: if anything is damaged; its ``report`` lists every problem, and the snapshots, files and
                tensors that are damaged.
        """
        if full and sample is not None:
            raise InvalidInputError("full and sample cannot be combined; use one of them")
        if not 0 <= seed < 1 << 64:
            raise InvalidInputError(f"seed must be between 0 and 2**64 - 1. Received: {seed}")
        found = self._core.verify(full) if sample is None else self._core.verify_sample(sample, seed)
        lost = losses(json.loads(found.lost))
        report = VerifyReport(found.snapshots, found.packs, found.chunks, found.bytes, found.problems, lost)
        if report.problems:
            more = f" (and {len(report.problems) - 1} more problems)" if len(report.problems) > 1 else ""
            hit = ", ".join(str(lost.snapshot) for lost in report.lost)
            error = CorruptDataError(f"{report.problems[0]}{more}{f'; damaged snapshots: {hit}' if hit else ''}")
            error.report = report
            raise error
        return report

    def repair(self, *sources: Any) -> RepairReport:
        """Restore what is damaged or missing from other copies, and move damaged files to ``quarantine``.

        Every byte is read. Nothing is deleted, and what could be read before stays readable. Saves may run meanwhile.

        Args:
            sources: other copies: a `Repository` or its directory, an artifact directory, ``"wandb:…"``, or a
                `wandb.Artifact` with packs.

        Raises:
            UnsupportedFormatError: if file locks do not work here; nothing was changed.
            StorageError: if a prune is running; nothing was changed.
        """
        return _repair(self, sources)

    def prune(self, keep: Keep | None = None, *, series: str | None = None, dry_run: bool = False) -> PruneReport:
        """Delete the snapshots that ``keep`` does not keep (of ``series``, or of every series), and unused packs.

        Without ``keep`` no snapshot is deleted. Snapshots with a user alias or a pending upload are always kept.

        Raises:
            UnsupportedFormatError: if file locks do not work here; nothing was deleted.
            CorruptDataError: if something that is kept is damaged; nothing was deleted.
        """
        if not isinstance(keep, Keep | None):
            raise InvalidInputError(f"keep must be a lamina.Keep. Received: {keep!r}")
        rules = None if keep is None else (keep.last, keep.best, keep.every)
        check_name(series or "", "the name of a series")
        done = self._core.prune(rules, series, dry_run)
        return PruneReport(done.snapshots, done.packs, done.bytes, done.waiting)

    def forget(self, snapshot: Snapshot | str | int, *, dry_run: bool = False) -> PruneReport:
        """Delete one snapshot, or what `snapshot` finds, and packs that nothing needs any more.

        Raises:
            InvalidInputError: if it has a user alias, or its upload is under way; nothing was deleted.
            UnsupportedFormatError: where file locks do not work; nothing was deleted.
        """
        done = self._core.forget(self._meant(snapshot).number or 0, dry_run)
        return PruneReport(done.snapshots, done.packs, done.bytes, done.waiting)

    def to_dataframe(self, series: str | None = None) -> pandas.DataFrame:
        """A row for each snapshot, or each of a series: its fields, its aliases, and a column for each metric.

        Examples:
            >>> import keras, lamina
            >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
            >>> with lamina.Checkpointer(model, "runs/a") as checkpointer:
            ...     checkpointer.save(epoch=0, logs={"val_loss": 0.5})
            >>> lamina.open("runs/a").to_dataframe()[["epoch", "val_loss"]].values.tolist()
            [[0.0, 0.5]]

        Raises:
            LaminaError: if pandas is not installed.
        """
        from lamina.repository.notebook import frame_of

        return frame_of(self.snapshots(series), self._core.aliases())

    def stats(self) -> Stats:
        """Counts and sizes of the repository."""
        found = self.snapshots()
        if not _has(self.path, "packs"):
            raise CorruptDataError(f"the folder {self.path / 'packs'} is missing; {_MEND}")
        sizes = [entry.stat().st_size for entry in os.scandir(self.path / "packs") if entry.name.endswith(".pack")]
        total = sum(snapshot.bytes_total for snapshot in found)
        return Stats(len(found), len({s.series for s in found}), len(sizes), sum(sizes), total)

    def set_alias(self, snapshot: Snapshot | str | int, alias: str) -> None:
        """Give a snapshot, or the one that a reference names, an alias. The alias moves inside the series, and
        retention keeps the snapshot.
        """
        self._core.set_alias(self._meant(snapshot)._core, check_name(alias, "an alias"))

    def remove_alias(self, snapshot: Snapshot | str | int, alias: str) -> bool:
        """Delete a user alias of a snapshot, or of the one that a reference names; False if it has no such alias.

        ``snapshot`` may also be the name of a series: then the alias is deleted, whatever it names in it.
        """
        check_name(alias, "an alias")
        if isinstance(snapshot, str) and snapshot in self.series:
            return self._core.remove_alias(snapshot, alias)
        found = self._meant(snapshot)
        return alias in self._aliases_of(found) and self._core.remove_alias(found.series, alias)

    def _meant(self, snapshot: Snapshot | str | int) -> Snapshot:
        return snapshot if isinstance(snapshot, Snapshot) else self.snapshot(snapshot)

    def _explained(self, error: NotFoundError, ref: str, series: str | None) -> NotFoundError:
        """Add the existing names to the error for a missing one."""
        numbers = {snapshot.number for snapshot in self.snapshots(series)}
        names = {name for number, given in self._core.aliases().items() if number in numbers for name in given}
        if not names:
            return error
        why = ": no snapshot has a value of its monitored metric" if ref == "best" and "best" not in names else ""
        listed = ", ".join(sorted(names)[:_LISTED]) + (", …" if len(names) > _LISTED else "")
        return NotFoundError(
            f"no snapshot {ref!r} in {self.place}{why}; existing names: {listed}; a number or an id works too"
        )

    def _aliases_of(self, snapshot: Snapshot) -> list[str]:
        return self._core.aliases().get(snapshot.number or 0, [])

    def _open(self, snapshot: Snapshot) -> Content:
        from lamina.repository.content import Content  # the command line starts without numpy

        return Content(self._core.reader(snapshot._core))

    def _name(self, snapshot: Snapshot, aliases: Iterable[str]) -> None:
        for alias in aliases:
            self._core.set_alias(snapshot._core, alias)

    def _repr_html_(self) -> str:
        from lamina.repository.notebook import repository_html

        return repository_html(repr(self), self.snapshots(), self._core.aliases())

    def __repr__(self) -> str:
        return f"Repository({str(self.path)!r})"


def open(path: str | os.PathLike[str]) -> Repository:
    """Open an existing repository: its directory, or its address in a bucket, such as ``"s3://BUCKET/PREFIX"``.

    One in a bucket is read as it is now, and written to by `lamina.push`.

    Examples:
        >>> import keras, lamina
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> lamina.save(model, "runs/a").number
        1
        >>> lamina.open("runs/a").snapshot("latest").series
        'default'

    Raises:
        NotFoundError: if there is no repository in the directory.
        CorruptDataError: if its folder of snapshots is missing.
    """
    if isinstance(path, str) and (bucket := bucket_of(path)) is not None:
        found: Repository = bucket.open_repository(path)
        return found
    opened = _open(path)
    if not _has(opened.path, "snapshots"):
        raise CorruptDataError(f"the folder {opened.path / 'snapshots'} is missing; {_MEND}")
    return opened


def _open(path: str | os.PathLike[str]) -> Repository:
    return Repository(_core.Repository.open(_directory(path)))


open.__module__ = "lamina"


def open_or_create(path: str | os.PathLike[str]) -> Repository:
    """Open a repository; if the directory is new or empty, create it first."""
    return Repository(_core.Repository.open_or_create(_directory(path), now()))


def check_alias(alias: str) -> None:
    """Check a user alias.

    Raises:
        InvalidInputError: if it is empty, too long, not text, or a name that lamina itself sets.
    """
    _core.check_alias(check_name(alias, "an alias"))


def stands_in(folder: Path) -> bool:
    """Whether a folder is a repository. If only one of its three parts is missing, it is a damaged repository.

    Raises:
        StorageError: if the folder may not be read.
    """
    return sum(_has(folder, part) for part in _PARTS) >= 2


def _has(folder: Path, part: str) -> bool:
    path = folder / part
    try:
        kind = path.stat().st_mode
    except PermissionError as error:
        raise StorageError(f"cannot read {folder}: {error.strerror}") from error
    except (OSError, ValueError):  # it does not exist, or is not a valid path
        return False
    return stat.S_ISDIR(kind) or part == "config.json"


def _directory(path: object) -> str:
    return str(local_path(path, "the directory of a repository"))


def now() -> str:
    """The current time: RFC 3339, UTC, with milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def repair_at(path: str | os.PathLike[str], sources: Sequence[Any]) -> RepairReport:
    """Repair the repository in a directory. A missing or damaged ``config.json`` is restored first."""
    folders = [_folder(source) for source in sources if opener_of(source) is None]
    config = _report(_core.Repository.restore_config(_directory(path), folders, now()))
    rest = _repair(_open(path), sources)
    quarantined, restored = config.quarantined + rest.quarantined, config.restored + rest.restored
    return replace(rest, quarantined=quarantined, restored=restored)


def _repair(repository: Repository, sources: Sequence[Any]) -> RepairReport:
    """Find the damage first, so that only the damaged or missing packs of an artifact are downloaded."""
    folders = [_folder(source) for source in sources if opener_of(source) is None]
    damaged = repository._core.damaged_packs()
    held: list[Any] = []  # downloads are deleted together with their reader
    for source in sources:
        if (opener := opener_of(source)) is not None:
            there = {path.stem for path in (repository.path / "packs").glob("*.pack")}
            folder, opened = opener.fetch_packs(source, there - set(damaged))
            folders.append(folder)
            held.append(opened)
    return _report(repository._core.repair(damaged, folders))


def _folder(source: Any) -> Path:
    if isinstance(source, Repository):
        return source.path
    folder = local_path(source, "a repository, an artifact directory or 'wandb:…'")
    if not folder.exists():
        raise NotFoundError(f"{folder} does not exist; expected a repository or an artifact directory")
    if not (folder / "packs").is_dir():
        raise InvalidInputError(f"{folder} is neither a repository nor an artifact directory: it has no folder packs")
    return folder


def _report(text: str) -> RepairReport:
    found = json.loads(text)
    return RepairReport(lost=losses(found.pop("lost")), **found)


if hasattr(os, "register_at_fork"):
    # A forked data loader worker must not keep the lock of its parent's save.
    os.register_at_fork(
        before=_core.fork_begins, after_in_parent=_core.fork_ended, after_in_child=_core.close_inherited_locks
    )
