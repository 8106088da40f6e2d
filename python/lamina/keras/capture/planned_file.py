"""Writes a captured state as the file that Keras would have written, without Keras and HDF5."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lamina import _core
from lamina.errors import NotFoundError
from lamina.files import h5
from lamina.files.listing import portable
from lamina.files.plan import FilePlan
from lamina.files.replacing import put_in_place
from lamina.keras.capture.archive_plan import Members, archive_plan
from lamina.keras.capture.arena import Bytes
from lamina.keras.capture.capture import Captured
from lamina.keras.capture.training_state import TrainingTensors
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.writing import body, file_argument


class PlannedFile:
    """A pending checkpoint: a plan, its literal bytes, and the tensors of one step."""

    def __init__(
        self,
        name: str,
        plan: FilePlan,
        literals: bytes,
        names: list[str | None],
        captured: Captured,
        members: Members | None,
        training: TrainingTensors,
        threads: int,
        check: Callable[[bool], None] | None,
    ) -> None:
        self._weights = replace(plan, path=portable(name))
        self._literals = literals
        self._names = names
        self._captured = captured
        self._members = members
        self._training = training
        self._threads = threads
        self._check = check
        self._made: tuple[FilePlan, Bytes] | None = None
        self._lock = threading.Lock()
        self.nbytes = plan.size

    def store(self, repository: Repository, fields: Mapping[str, Any], *, codec: str, threads: int) -> Snapshot:
        plan, literals = self._file()
        tensors, training = self._arrays()
        kind = "weights" if self._members is None else "model"
        core = repository._core.save_memory(
            body({"kind": kind} | dict(fields)),
            [file_argument(plan)],
            self._training.specs,
            [tensors, training],
            [literals],
            codec,
            threads,
            [self._names],
        )
        return Snapshot(core, repository=repository)

    def write(self, path: str) -> None:
        put_in_place(Path(path), self.copy_to)
        if self._check is not None:
            with contextlib.suppress(NotFoundError, FileNotFoundError):  # another process may have moved it already
                self._check(self._reads_back(Path(path)))

    def copy_to(self, path: Path) -> None:
        plan, literals = self._file()
        _core.write_file(path, plan.size, self._placed(plan), literals, self._threads)

    def release(self) -> None:
        self._captured.release()
        if self._members is not None:
            self._members.discard()

    def _file(self) -> tuple[FilePlan, Bytes]:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def _make(self) -> tuple[FilePlan, Bytes]:
        literals = np.frombuffer(self._literals, np.uint8)
        if self._members is None:
            return self._weights, literals
        crc = _core.crc32_file(self._weights.size, self._placed(self._weights), literals, self._threads)
        plan, data = archive_plan(self._weights.path, self._weights, self._literals, crc, self._members)
        return plan, np.frombuffer(data, np.uint8)

    def _placed(self, plan: FilePlan) -> list[tuple[int, Bytes]]:
        tensors, _ = self._arrays()
        return [(t.offset, array) for t, array in zip(plan.tensors, tensors, strict=True) if t.nbytes]

    def _arrays(self) -> tuple[list[Bytes], list[Bytes]]:
        arrays = self._captured.arrays()
        count = len(self._weights.tensors)
        return arrays[:count], arrays[count:]

    def _reads_back(self, path: Path) -> bool:
        """Whether HDF5 reads the captured tensors from the file, each by its name."""
        plan, literals = self._file()
        if h5.plan_file(path, plan.path) != plan:
            return False
        return _core.file_is(path, plan.size, self._placed(plan), literals, self._threads)
