"""How far each tensor moved from one version to the next. Tensors with the same chunks are not read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from lamina.compare import measured
from lamina.report.data import NO_DISTANCE
from lamina.report.version_chunks import VersionChunks
from lamina.repository.tensor import TensorInfo

_Pairs: TypeAlias = list[tuple[str, TensorInfo, TensorInfo]]


class Movement:
    """The matrix of distances, tensors × versions. Memory holds the matrix, as float32, and two open versions."""

    def __init__(self, versions: int) -> None:
        self.rows: dict[str, int] = {}
        self._values = np.full((0, versions), NO_DISTANCE, np.float32)

    def add(
        self, version: int, before: VersionChunks | None, after: VersionChunks, advance: Callable[[int], None]
    ) -> None:
        """Measure a version against the previous one; ``advance`` is called with the bytes of each finished part."""
        column, pairs = self._known(before, after)
        done = after.length
        if before is not None:

            def count(size: int) -> None:
                nonlocal done
                part = min(size, done)  # training tensors may be counted twice
                done -= part
                advance(part)

            for change in measured(before.content, after.content, pairs, count):
                column[self.rows[change.name]] = NO_DISTANCE if change.l2 is None else change.l2
        self._values[:, version] = column
        advance(done)

    def matrix(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The distances; row ``rows[name]`` belongs to a tensor."""
        return self._values[: len(self.rows)]

    def _known(
        self, before: VersionChunks | None, after: VersionChunks
    ) -> tuple[np.ndarray[Any, np.dtype[np.float32]], _Pairs]:
        """The distances that follow from chunks alone, and the pairs that must be read."""
        self._make_room(after)
        column = np.full(len(self._values), NO_DISTANCE, np.float32)
        pairs: _Pairs = []
        if before is None:
            return column, pairs
        form = after.form
        for (name, new), size, same in zip(form.tensors.items(), form.sizes, after.same_as(before), strict=True):
            old = before.form.tensors.get(name)
            if old is None or size is None or (old.dtype, old.shape) != (new.dtype, new.shape):
                continue
            if same or size == 0:
                column[self.rows[name]] = 0
            else:
                pairs.append((name, old, new))
        return column, pairs

    def _make_room(self, state: VersionChunks) -> None:
        for name in state.form.tensors:
            self.rows.setdefault(name, len(self.rows))
        if len(self.rows) > len(self._values):
            more = np.full((len(self.rows) - len(self._values), self._values.shape[1]), NO_DISTANCE, np.float32)
            self._values = np.concatenate([self._values, more])
