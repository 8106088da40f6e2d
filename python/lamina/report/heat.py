"""The heat map's numbers: rows of tensors or layers, and the scale of their colours."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lamina.report.data import NO_DISTANCE, Report

#: Decades that the colours cover below the largest distance; what moved less looks like the smallest.
_DECADES = 6
#: Codes of what has no logarithm, and how a logarithm is coded: page.js reads them.
NONE, INFINITE, NOT_A_NUMBER, STILL = 32767, 32766, 32765, -32768
_STEPS = 1000

_Matrix = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class View:
    """Rows × versions of distances."""

    title: str
    names: list[str]
    values: _Matrix

    def to_json(self) -> dict[str, Any]:
        """The distances as logarithms, in thousandths, little-endian."""
        codes = base64.b64encode(codes_of(self.values).astype("<i2").tobytes()).decode()
        return {"title": self.title, "names": self.names, "codes": codes}


def views(report: Report) -> list[View]:
    """By layer (the tensor that moved most), and by tensor."""
    found = [by_layer(report)]
    for title, wanted in (("Weights", True), ("Optimizer and others", False)):
        rows = [i for i, tensor in enumerate(report.tensors) if (tensor.role == "weights") is wanted]
        if rows:
            found.append(View(title, [report.tensors[i].name for i in rows], report.moved[rows]))
    return found


def by_layer(report: Report) -> View:
    """Of each layer the largest distance of its tensors."""
    groups: dict[str, list[int]] = {}
    for row, tensor in enumerate(report.tensors):
        groups.setdefault(tensor.layer, []).append(row)
    # Distances are 0 or more and "none" is less, so the maximum is right; it hands on what is not a number.
    rows = [report.moved[group].max(axis=0) for group in groups.values()]
    return View("Layers", list(groups), np.stack(rows) if rows else report.moved)


def codes_of(values: _Matrix) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Each distance in 16 bits."""
    positive = np.where((values > 0) & np.isfinite(values), values, 1)
    logs = (np.log10(positive.astype(np.float64)) * _STEPS).clip(STILL + 1, NOT_A_NUMBER - 1)
    codes: np.ndarray[Any, np.dtype[np.int16]] = logs.round().astype(np.int16)
    codes[values == 0] = STILL
    codes[values == NO_DISTANCE] = NONE
    codes[np.isnan(values)] = NOT_A_NUMBER
    codes[np.isposinf(values)] = INFINITE
    return codes


@dataclass(frozen=True)
class Scale:
    """Logarithms of the distances at both ends of the colours, and the place below for what did not move."""

    low: float
    high: float

    @property
    def still(self) -> float:
        return self.low - 0.08 * (self.high - self.low)

    def colours(self, still: str, ramp: Sequence[str]) -> list[list[Any]]:
        """A colour scale of plotly from `still` to `high`."""
        begin = 0.08 / 1.08
        edge = [[0, still], [begin / 2, still], [begin / 2, ramp[0]]]
        steps = [begin + (1 - begin) * i / (len(ramp) - 1) for i in range(len(ramp))]
        return edge + [[step, colour] for step, colour in zip(steps, ramp, strict=True)]

    def ticks(self) -> tuple[list[float], list[str]]:
        """Where the colour bar is labelled, and how."""
        marks: list[float] = list(range(math.ceil(self.low), math.floor(self.high) + 1))
        if not marks or self.high - marks[-1] > (self.high - self.low) / 4:
            marks.append(self.high)
        return [self.still, *marks], ["0", *(percent(10.0**mark) for mark in marks)]


def scale_of(report: Report) -> Scale:
    """The scale that suits all distances of a report."""
    values = report.moved[np.isfinite(report.moved) & (report.moved > 0)]
    if not values.size:
        return Scale(-4, 0)
    high = math.log10(float(values.max()))
    low = max(math.log10(float(values.min())), high - _DECADES)
    return Scale(low, high) if high - low >= 1 else Scale(high - 1, high)


def percent(value: float) -> str:
    """A distance for people."""
    return f"{value * 100:.3g} %" if value >= 1e-6 else f"{value * 100:.0e} %"
