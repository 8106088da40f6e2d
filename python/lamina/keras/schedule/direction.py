"""Whether a lower or a higher metric is better, and its logged value as a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def named_direction(monitor: str) -> str:
    """``"min"`` or ``"max"``, guessed from the metric's name as wandb's documentation describes."""
    return "max" if "acc" in monitor or monitor.startswith("fmeasure") else "min"


def metric_direction(model: Any, monitor: str) -> str | None:
    """``"min"`` or ``"max"``, as the metric itself says; None if it does not."""
    name = monitor.removeprefix("val_")
    for group in getattr(model, "metrics", None) or []:
        for metric in getattr(group, "metrics", None) or [group]:
            if metric.name == name and getattr(metric, "_direction", None) in ("up", "down"):
                return "max" if metric._direction == "up" else "min"
    return None


def direction(model: Any, monitor: str) -> str:
    """``"min"`` or ``"max"``, as the metric says, or guessed from its name."""
    return metric_direction(model, monitor) or named_direction(monitor)


def scalar(value: Any) -> float | None:
    """A logged value as a number; None if it is not a scalar."""
    if value is None or isinstance(value, (str, bytes)) or getattr(value, "shape", ()) != ():
        return None
    try:
        return float(value) if not isinstance(value, np.ndarray) else float(value.item())
    except (TypeError, ValueError):
        return None


def scalars(logs: Mapping[str, Any]) -> dict[str, float]:
    """The logged values that are numbers."""
    return {name: number for name, value in logs.items() if (number := scalar(value)) is not None}
