"""What a callback reports of a save that is on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lamina.repository.snapshot import Snapshot


@dataclass(frozen=True)
class Commit:
    """One committed save; given to ``on_commit`` on the thread that saved, before the next save begins there."""

    path: Path | str | None  # the plain file; text if it is on another machine; None with keep_file=False
    snapshot: Snapshot | None  # None without a repository
    epoch: int  # 0-based, as Keras passes it
    batch: int | None  # 0-based; None for a save at the end of an epoch
    step: int | None  # optimizer steps done
    logs: Mapping[str, Any]
    monitor: str
    mode: str | None  # None where the better direction is unknown
    value: float | None
    best: bool
    blocked_seconds: float
    bytes: int  # of the file that Keras would have written
    replaced: int = 0  # saves that gave way to this one since the commit before it
    _copy: Callable[[Path], None] | None = field(default=None, repr=False, compare=False)

    def copy_to(self, path: Path) -> None:
        """Write the plain file a second time, as a file of its own; only while ``on_commit`` runs."""
        assert self._copy is not None
        self._copy(path)
