"""A captured save, and how it is committed."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lamina.errors import StorageError
from lamina.keras.remote import is_remote
from lamina.keras.saving.commit import Commit
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot

#: If a save might leave less disk space than this, no snapshot is written.
RESERVE_BYTES = 1 << 30


class PendingCheckpoint(Protocol):
    """A captured checkpoint; it can write Keras's file and a snapshot."""

    nbytes: int

    def store(self, repository: Repository, fields: Mapping[str, Any], *, codec: str, threads: int) -> Snapshot: ...

    def write(self, path: str) -> None: ...

    def copy_to(self, path: Path) -> None: ...

    def release(self) -> None: ...


@dataclass
class Facts:
    """The metadata of a save, which become the snapshot's fields of the same names."""

    epoch: int
    batch: int | None
    logs: dict[str, Any]
    monitor: str
    mode: str | None
    value: float | None
    best: bool
    series: str
    run: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    checkpoint: dict[str, Any] = field(default_factory=dict)  # what the checkpoint callback needs to resume
    # Set by the saver:
    step: int | None = None
    training: dict[str, Any] = field(default_factory=dict)
    blocked_seconds: float = 0.0  # the sum of the next two
    capture_seconds: float = 0.0
    wait_seconds: float = 0.0  # for an earlier save

    def fields(self) -> dict[str, Any]:
        known = {name: value for name, value in vars(self).items() if name != "checkpoint"}
        return {**known, "next_epoch": self.epoch + (self.batch is None)}


@dataclass(frozen=True)
class SaveSettings:
    """Where a save goes besides the repository, and how."""

    path: str
    keep_file: bool = True
    file_as_fallback: bool = True  # if there is no space for a snapshot
    codec: str = "auto"
    threads: int = 0  # of the engine; 0: its default


@dataclass
class SaveJob:
    """A captured save that a `Pipeline` commits."""

    repository: Repository | None
    settings: SaveSettings
    facts: Facts
    checkpoint: PendingCheckpoint
    committed: Callable[[Commit], None]
    replaced: int = 0
    nbytes: int = field(init=False)
    best: bool = field(init=False)
    target: str = field(init=False)  # absolute: the process may change its directory

    def __post_init__(self) -> None:
        path = self.settings.path
        self.target = path if is_remote(path) else os.path.abspath(path)
        self.nbytes = self.checkpoint.nbytes
        self.best = self.facts.best

    def run(self) -> None:
        try:
            snapshot = self._store()
            writes_file = self.settings.keep_file or snapshot is None
            if writes_file:
                self._write()
            # A Path would turn gs:// into gs:/.
            path = self.settings.path if is_remote(self.target) else Path(self.settings.path)
            self.committed(self._commit(path if writes_file else None, snapshot))
        finally:
            self.checkpoint.release()

    def discard(self) -> None:
        self.checkpoint.release()

    def _store(self) -> Snapshot | None:
        repository, settings = self.repository, self.settings
        try:
            if repository is None or not self._has_space(repository):
                return None
            return self.checkpoint.store(
                repository, self.facts.fields(), codec=settings.codec, threads=settings.threads
            )
        except BaseException:
            if settings.keep_file:  # write the plain file even if the snapshot fails
                self._write()
            raise

    def _write(self) -> None:
        if not is_remote(self.target):
            os.makedirs(os.path.dirname(self.target), exist_ok=True)
        self.checkpoint.write(self.target)

    def _has_space(self, repository: Repository) -> bool:
        try:
            free = shutil.disk_usage(repository.path).free
        except OSError as error:
            raise StorageError(f"cannot read the free space of {repository.path}: {error.strerror or error}") from error
        wanted = RESERVE_BYTES + self.nbytes * (1 + self.settings.keep_file)
        if free >= wanted:
            return True
        found = (
            f"{repository.path} has {free >> 20} MiB free, and a save may need {wanted >> 20} MiB "
            f"(with a reserve of {RESERVE_BYTES >> 20} MiB)"
        )
        if not self.settings.file_as_fallback:
            raise StorageError(f"{found}: nothing was saved. Free disk space, or delete old snapshots: lamina prune")
        warnings.warn(f"{found}: saved only the plain file {self.settings.path}, no snapshot", stacklevel=2)
        return False

    def _commit(self, path: Path | str | None, snapshot: Snapshot | None) -> Commit:
        facts = self.facts
        return Commit(
            path=path,
            snapshot=snapshot,
            epoch=facts.epoch,
            batch=facts.batch,
            step=facts.step,
            logs=facts.logs,
            monitor=facts.monitor,
            mode=facts.mode,
            value=facts.value,
            best=facts.best,
            blocked_seconds=facts.blocked_seconds,
            bytes=self.nbytes,
            replaced=self.replaced,
            _copy=self.checkpoint.copy_to,
        )
