"""What verify, repair, prune and stats tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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
