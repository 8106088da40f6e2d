"""The cost of each layer: its size, and what deduplication and compression make of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from lamina.report.data import LayerRow
from lamina.report.layer_names import HEADERS
from lamina.report.version_chunks import Form, VersionChunks


class Costs:
    """Sums over the versions, oldest first. A chunk that several layers share counts for the first one that has it."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}
        self._total: Counter[str] = Counter()
        self._distinct: Counter[str] = Counter()
        self._stored: defaultdict[str, float] = defaultdict(float)
        self._seen: set[int] = set()
        self._last: tuple[Form, _Parts] | None = None

    def add(self, state: VersionChunks) -> None:
        """Add the next version."""
        parts = self._parts(state.form)
        fresh = np.zeros(len(state.ids), np.bool_)
        for chunk, name in enumerate(state.ids):
            key = int(name[:32], 16)  # half of the digest is enough to tell chunks apart
            if key not in self._seen:
                self._seen.add(key)
                fresh[chunk] = True
        for layer, size in parts.sums(parts.bytes):
            self._total[layer] += int(size)
            self._newest[layer] = int(size)
        if fresh.any():
            raw = np.where(fresh[parts.chunk], parts.bytes, 0)
            lengths = np.diff(state.form.ends, prepend=0)
            rate = state.encoded / lengths
            for layer, size in parts.sums(raw):
                self._distinct[layer] += int(size)
            for layer, size in parts.sums(raw * rate[parts.chunk]):
                self._stored[layer] += size

    def layers(self, names: Mapping[str, str]) -> list[LayerRow]:
        """The costs of all layers, the largest first, under the names that are shown."""
        found = [
            LayerRow(names.get(name, name), size, self._total[name], self._distinct[name], round(self._stored[name]))
            for name, size in self._newest.items()
        ]
        return largest_first(found)

    def _parts(self, form: Form) -> _Parts:
        if self._last is None or self._last[0] is not form:
            self._last = form, _Parts(form)
        return self._last[1]


def largest_first(layers: list[LayerRow]) -> list[LayerRow]:
    """Sort layers by size; bytes outside of layers come last."""
    return sorted(layers, key=lambda layer: (layer.name == HEADERS, -layer.bytes))


class _Parts:
    """`Form.parts` as columns."""

    def __init__(self, form: Form) -> None:
        rows = form.parts
        self.names = list(dict.fromkeys(layer for _, layer, _ in rows))
        numbers = {name: number for number, name in enumerate(self.names)}
        self.chunk = np.array([chunk for chunk, _, _ in rows], np.int64)
        self.layer = np.array([numbers[layer] for _, layer, _ in rows], np.int64)
        self.bytes = np.array([size for _, _, size in rows], np.int64)

    def sums(self, values: np.ndarray[Any, Any]) -> list[tuple[str, float]]:
        """The sum of ``values`` for each layer."""
        sums = np.bincount(self.layer, values, len(self.names))
        return list(zip(self.names, sums.tolist(), strict=True))
