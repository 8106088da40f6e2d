"""One save on its way: what is known of it, what was captured, and how both are committed."""

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

#: A repository save that might leave less than this free keeps only the plain file.
RESERVE_BYTES = 1 << 30


class PendingCheckpoint(Protocol):
    """A captured checkpoint that is not on disk yet: Keras's file, or a snapshot, can be written from it."""

    nbytes: int

    def store(self, repository: Repository, fields: Mapping[str, Any], *, codec: str, threads: int) -> Snapshot: ...

    def write(self, path: str) -> None: ...

    def copy_to(self, path: Path) -> None: ...

    def release(self) -> None: ...


@dataclass
class Facts:
    """What is known of a save; fields of the snapshot with the same names."""

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
    checkpoint: dict[str, Any] = field(default_factory=dict)  # what who decided must know to continue
    # What the saver finds out:
    step: int | None = None
    training: dict[str, Any] = field(default_factory=dict)
    blocked_seconds: float = 0.0

    def fields(self) -> dict[str, Any]:
        known = {name: value for name, value in vars(self).items() if name != "checkpoint"}
        return {**known, "next_epoch": self.epoch + (self.batch is None)}


@dataclass(frozen=True)
class SaveSettings:
    """Where a save goes besides the repository, and how."""

    path: str
    keep_file: bool = True
    file_as_fallback: bool = True  # where a snapshot finds no room
    codec: str = "auto"
    threads: int = 0  # of the engine; 0 stands for its default


@dataclass
class SaveJob:
    """A captured save; `lamina.keras.saving.pipeline` runs it."""

    repository: Repository | None
    settings: SaveSettings
    facts: Facts
    checkpoint: PendingCheckpoint
    committed: Callable[[Commit], None]
    replaced: int = 0
    nbytes: int = field(init=False)
    best: bool = field(init=False)
    target: str = field(init=False)  # the path, wherever the process goes meanwhile

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
            # As a Path, gs:// would become gs:/.
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
            if settings.keep_file:  # the plain file is there whatever becomes of the snapshot
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
