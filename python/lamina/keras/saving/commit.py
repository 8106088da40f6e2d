"""`Commit`: what ``on_commit`` gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lamina.repository.snapshot import Snapshot


@dataclass(frozen=True)
class Commit:
    """A committed save. ``on_commit`` gets it on the saving thread, before the next save is written."""

    path: Path | str | None  # the plain file; a str if it is remote; None with keep_file=False
    snapshot: Snapshot | None  # None without a repository
    epoch: int  # 0-based, as Keras passes it
    batch: int | None  # 0-based; None for a save at the end of an epoch
    step: int | None  # optimizer steps done
    logs: Mapping[str, Any]
    monitor: str
    mode: str | None  # None if it is unknown
    value: float | None
    best: bool
    blocked_seconds: float
    bytes: int  # size of Keras's file
    replaced: int = 0  # queued saves that were skipped since the commit before
    _copy: Callable[[Path], None] | None = field(default=None, repr=False, compare=False)

    def copy_to(self, path: Path) -> None:
        """Write another copy of the plain file; works only while ``on_commit`` runs."""
        assert self._copy is not None
        self._copy(path)
