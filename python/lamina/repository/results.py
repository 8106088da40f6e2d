"""The results of verify, repair, prune and stats."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class LostContent:
    """What a snapshot has lost. With ``everything``, none of its content can be read any more."""

    snapshot: int
    id: str | None
    series: str | None
    epoch: int | None
    everything: bool
    files: list[str]
    tensors: list[tuple[str | None, str]]  # (file, name); the file is None for the training state

    def __str__(self) -> str:
        where = f" ({self.series}{'' if self.epoch is None else f', epoch {self.epoch}'})" if self.series else ""
        names = [name if file is None else f"{file}:{name}" for file, name in self.tensors]
        parts = [f"tensors {', '.join(names)}"] * bool(names) + [f"files {', '.join(self.files)}"] * bool(self.files)
        return f"snapshot {self.snapshot}{where}: {'all of it' if self.everything else '; '.join(parts)}"


def losses(found: list[dict[str, Any]]) -> list[LostContent]:
    """The lost content in the engine's report."""
    return [LostContent(**(one | {"tensors": [tuple(t) for t in one["tensors"]]})) for one in found]


@dataclass(frozen=True)
class VerifyReport:
    """What a verify checked and found. A quick verify reads no chunks: ``chunks`` and ``bytes`` are 0. A repair may
    bring back what is ``lost``.
    """

    snapshots: int
    packs: int
    chunks: int
    bytes: int
    problems: list[str] = field(default_factory=list)
    lost: list[LostContent] = field(default_factory=list)


@dataclass(frozen=True)
class RepairReport:
    """What a repair did and could not do. Paths are relative to the repository."""

    quarantined: list[str]
    restored: list[str]
    chunks_rescued: int  # intact chunks of damaged packs, stored again
    chunks_fetched: int  # chunks that came from another copy
    lost: list[LostContent]
    problems: list[str]  # what a quick verify still finds

    @property
    def ok(self) -> bool:
        """Whether the repository is intact now."""
        return not self.lost and not self.problems


@dataclass(frozen=True)
class PruneReport:
    """What prune deleted, or would delete with ``dry_run``."""

    snapshots: list[int]  # their numbers
    packs: int
    bytes: int
    waiting: int  # packs that are deleted once the running saves have ended


@dataclass(frozen=True)
class Stats:
    """Counts and sizes of a repository; sizes in bytes."""

    snapshots: int
    series: int
    packs: int
    bytes_packs: int
    bytes_total: int  # of all states, as if each were saved without deduplication
