"""The numbers of the heat map: rows of tensors or layers, and their colour scale."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lamina.report.data import NO_DISTANCE, Report

#: Decades of the colour scale below the largest distance; smaller distances get the last colour.
_DECADES = 6
#: Codes of values without a logarithm, and the steps per unit of a logarithm; page.js knows them, too.
NONE, INFINITE, NOT_A_NUMBER, STILL = 32767, 32766, 32765, -32768
_STEPS = 1000

_Matrix = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class View:
    """A matrix of distances, rows × versions."""

    title: str
    names: list[str]
    values: _Matrix

    def to_json(self) -> dict[str, Any]:
        """As JSON; the distances are logarithms in thousandths, as base64 of little-endian int16."""
        codes = base64.b64encode(codes_of(self.values).astype("<i2").tobytes()).decode()
        return {"title": self.title, "names": self.names, "codes": codes}


def views(report: Report) -> list[View]:
    """The views of a report: one by layer, and one or two by tensor."""
    found = [by_layer(report)]
    for title, wanted in (("Weights", True), ("Optimizer and others", False)):
        rows = [i for i, tensor in enumerate(report.tensors) if (tensor.role == "weights") is wanted]
        if rows:
            found.append(View(title, [report.tensors[i].name for i in rows], report.moved[rows]))
    return found


def by_layer(report: Report) -> View:
    """A row per layer: the largest distance of its tensors."""
    groups: dict[str, list[int]] = {}
    for row, tensor in enumerate(report.tensors):
        groups.setdefault(tensor.layer, []).append(row)
    # A distance is at least 0 and "no distance" is negative, so the maximum is right. NaN stays NaN.
    rows = [report.moved[group].max(axis=0) for group in groups.values()]
    return View("Layers", list(groups), np.stack(rows) if rows else report.moved)


def codes_of(values: _Matrix) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Distances as int16 codes."""
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
    """The colour scale: logarithms of the distances at its ends. `still`, below them, is for a distance of 0."""

    low: float
    high: float

    @property
    def still(self) -> float:
        return self.low - 0.08 * (self.high - self.low)

    def colours(self, still: str, ramp: Sequence[str]) -> list[list[Any]]:
        """The scale in plotly's form, from `still` to `high`."""
        begin = 0.08 / 1.08
        edge = [[0, still], [begin / 2, still], [begin / 2, ramp[0]]]
        steps = [begin + (1 - begin) * i / (len(ramp) - 1) for i in range(len(ramp))]
        return edge + [[step, colour] for step, colour in zip(steps, ramp, strict=True)]

    def ticks(self) -> tuple[list[float], list[str]]:
        """Positions and texts of the labels on the colour bar."""
        marks: list[float] = list(range(math.ceil(self.low), math.floor(self.high) + 1))
        if not marks or self.high - marks[-1] > (self.high - self.low) / 4:
            marks.append(self.high)
        return [self.still, *marks], ["0", *(percent(10.0**mark) for mark in marks)]


def scale_of(report: Report) -> Scale:
    """The scale for all distances of a report."""
    values = report.moved[np.isfinite(report.moved) & (report.moved > 0)]
    if not values.size:
        return Scale(-4, 0)
    high = math.log10(float(values.max()))
    low = max(math.log10(float(values.min())), high - _DECADES)
    return Scale(low, high) if high - low >= 1 else Scale(high - 1, high)


def percent(value: float) -> str:
    """A distance in percent, as text."""
    return f"{value * 100:.3g} %" if value >= 1e-6 else f"{value * 100:.0e} %"
