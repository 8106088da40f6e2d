"""Converts numbers to pixels of 0 to 255."""

from typing import Any

import numpy as np


def value_range(values: Any) -> tuple[float, float]:
    """The range of a column of values: 0 to 1, -1 to 1, 0 to 255, or its minimum and maximum."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    for meant in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        if meant[0] <= low and high <= meant[1]:
            return meant
    return low, high


def pixels(values: Any, meant: tuple[float, float]) -> Any:
    """Pixels of dtype uint8; values outside the range are clipped."""
    low, high = meant
    scaled = (np.nan_to_num(values.astype("float32"), nan=low) - low) * (255.0 / (high - low))
    return scaled.round().clip(0, 255).astype("uint8")
