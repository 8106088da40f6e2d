"""What a report knows: numbers and names, no pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

#: In `Report.moved`: there is no distance. The tensor is new, gone, of another form, or holds no numbers.
NO_DISTANCE = -1.0


@dataclass(frozen=True)
class VersionRow:
    """One saved state; what was not recorded is None."""

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
        """What it is called on an axis."""
        return str(self.number or 1)


@dataclass(frozen=True)
class TensorRow:
    """A tensor as the newest version that has it knows it."""

    name: str
    layer: str
    role: str
    dtype: str
    shape: list[int]
    bytes: int | None


@dataclass(frozen=True)
class LayerRow:
    """What a layer costs."""

    name: str
    bytes: int  # in the newest version that has it
    bytes_total: int  # in all versions, as if each were saved on its own
    bytes_distinct: int | None  # of chunks that differ; None where there are no chunks
    bytes_stored: int | None  # what these take in packs

    @property
    def dedup(self) -> float | None:
        """How many times less is kept because versions share chunks."""
        return self.bytes_total / self.bytes_distinct if self.bytes_distinct else None

    @property
    def compression(self) -> float | None:
        """How many times less is kept because chunks are encoded."""
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
    # Relative L2 distance from the version before, tensors × versions.
    moved: np.ndarray[Any, np.dtype[np.float32]]
    distances: bool = True  # whether they were measured
    notes: list[str] = field(default_factory=list)  # what is not known, and why

    def to_json(self) -> dict[str, Any]:
        """All of it; of distances those that are not 0, null where there is none."""
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
    """As many digits as a float32 has."""
    return float(f"{float(value):.7g}")
