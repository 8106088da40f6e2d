"""The data of a report: numbers and names, no charts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

#: In `Report.moved`: no distance, because the tensor is new, gone, of another shape or dtype, or not numeric.
NO_DISTANCE = -1.0


@dataclass(frozen=True)
class VersionRow:
    """One version; a field that was not recorded is None."""

    number: int | None
    id: str | None
    created_at: str | None
    epoch: int | None
    batch: int | None
    step: int | None
    monitor: str | None
    mode: str | None
    value: float | None
    best_so_far: bool
    aliases: list[str]
    logs: dict[str, Any]
    bytes_total: int
    bytes_new: int | None
    bytes_stored: int | None
    blocked_seconds: float | None
    upload_seconds: float | None

    @property
    def label(self) -> str:
        """Its label on an axis."""
        return str(self.number or 1)


@dataclass(frozen=True)
class TensorRow:
    """A tensor, as in the newest version that has it."""

    name: str
    layer: str
    role: str
    dtype: str
    shape: list[int]
    bytes: int | None


@dataclass(frozen=True)
class LayerRow:
    """The cost of a layer."""

    name: str
    bytes: int  # in the newest version that has it
    bytes_total: int  # in all versions, without deduplication
    bytes_distinct: int | None  # of distinct chunks; None for a plain file
    bytes_stored: int | None  # of these chunks in packs

    @property
    def dedup(self) -> float | None:
        """The deduplication ratio: total bytes / bytes of distinct chunks."""
        return self.bytes_total / self.bytes_distinct if self.bytes_distinct else None

    @property
    def compression(self) -> float | None:
        """The compression ratio: bytes of distinct chunks / their bytes in packs."""
        return self.bytes_distinct / self.bytes_stored if self.bytes_distinct and self.bytes_stored else None


@dataclass(frozen=True)
class Report:
    """The history of a series."""

    source: str
    series: str
    run: str | None
    versions: list[VersionRow]
    best: int | None  # index of the best version
    tensors: list[TensorRow]
    layers: list[LayerRow]
    # Relative L2 distance to the previous version, tensors × versions.
    moved: np.ndarray[Any, np.dtype[np.float32]]
    distances: bool = True  # whether they were measured
    notes: list[str] = field(default_factory=list)  # what is missing, and why

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values. Distances of 0 are left out; a missing distance is null."""
        versions = [asdict(version) | {"moved": self._moved_in(i)} for i, version in enumerate(self.versions)]
        layers = [asdict(layer) | {"dedup": layer.dedup, "compression": layer.compression} for layer in self.layers]
        return {
            "source": self.source,
            "series": self.series,
            "run": self.run,
            "best": None if self.best is None else self.versions[self.best].number,
            "versions": versions,
            "tensors": [asdict(tensor) for tensor in self.tensors],
            "layers": layers,
            "notes": self.notes,
        }

    def _moved_in(self, version: int) -> dict[str, float | None]:
        column = self.moved[:, version]
        return {
            self.tensors[row].name: None if column[row] == NO_DISTANCE else _short(column[row])
            for row in np.flatnonzero(column != 0).tolist()
        }


def _short(value: np.float32) -> float:
    """Rounded to the digits of a float32."""
    return float(f"{float(value):.7g}")
