"""A state in memory, saved as by the callbacks: named arrays go to the engine without a file in between."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

import lamina
from benches.measure import demand
from lamina.files.plan import FilePlan, TensorPlan
from lamina.repository.dtypes import as_bytes
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.writing import body, file_argument

Floats = npt.NDArray[np.float32]


class State:
    """Random float32 arrays, as after initialisation, and steps that change some of them."""

    def __init__(self, shapes: list[int], seed: int = 1) -> None:
        self._rng = np.random.default_rng(seed)
        self.arrays: list[Floats] = [self._rng.standard_normal(n, np.float32) * np.float32(0.02) for n in shapes]
        self.nbytes = sum(array.nbytes for array in self.arrays)
        self._plan = FilePlan("state.bin", self.nbytes, tuple(self._tensors()))

    def _tensors(self) -> Iterator[TensorPlan]:
        at = 0
        for number, array in enumerate(self.arrays):
            yield TensorPlan(f"layers/{number}/vars/0", "<f4", array.shape, "weights", at, array.nbytes)
            at += array.nbytes

    def step(self, part: float) -> None:
        """Change every value in a fraction ``part`` of the tensors; other tensors each time."""
        count = round(part * len(self.arrays))
        for index in self._rng.choice(len(self.arrays), count, replace=False):
            array = self.arrays[index]
            array += self._rng.standard_normal(array.size, np.float32) * np.float32(1e-3)

    def save(self, repository: Repository, codec: str) -> Snapshot:
        core = repository._core.save_memory(
            body({"series": "default", "kind": "files"}),
            [file_argument(self._plan)],
            [],
            [[as_bytes(array) for array in self.arrays], []],
            [np.empty(0, np.uint8)],
            codec,
        )
        return Snapshot(core, repository=repository)

    def digest(self) -> str:
        """SHA-256 of the file that an export must write."""
        whole = hashlib.sha256()
        for array in self.arrays:
            whole.update(as_bytes(array).data)
        return whole.hexdigest()


def check_export(snapshot: Snapshot, digest: str, out: Path) -> None:
    """Check that the exported file has this digest."""
    (path,) = lamina.export(snapshot, out)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()
    demand(found == digest, f"version {snapshot.number} is not what was saved")
