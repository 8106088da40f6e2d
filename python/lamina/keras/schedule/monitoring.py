"""Whether the monitored metric improved. Nothing here ends a training: what is unknown becomes a warning."""

from __future__ import annotations

import contextlib
import ctypes
import math
import warnings
from collections.abc import Callable, Mapping
from string import Formatter
from typing import Any

import keras
import numpy as np
from keras import ops

from lamina.keras.schedule.direction import metric_direction, named_direction, scalar

#: Keras 3.10 minimizes every metric whose name does not contain "acc", such as an F-measure.
UNKNOWN_IS_LOSS = not hasattr(keras.callbacks.ModelCheckpoint, "_set_monitor_op")
# Keras 3.10 also compares with numpy.
_LESS, _GREATER = (np.less, np.greater) if UNKNOWN_IS_LOSS else (ops.less, ops.greater)


def operator_for(direction: str | None) -> Any:
    """The comparison that Keras uses; without a direction every value is an improvement."""
    return {"min": _LESS, "max": _GREATER, None: _always}[direction]


def direction_for(operator: Any) -> str | None:
    """``"min"``, ``"max"``, or None where it is unknown."""
    return {_LESS: "min", _GREATER: "max"}.get(operator)


def find_direction(model: Any, monitor: str) -> str | None:
    """``"min"`` or ``"max"``: as the metric says, or from a name that ends in "loss" or names an accuracy."""
    if known := metric_direction(model, monitor):
        return known
    if monitor.endswith("loss"):
        return "min"
    return "max" if named_direction(monitor) == "max" else None


def warn_of_unknown_direction(monitor: str, effect: str) -> None:
    warnings.warn(
        f"cannot tell whether a higher {monitor!r} is better, so {effect}; pass mode='max' or mode='min'", stacklevel=3
    )


def initial_best(direction: str | None) -> float:
    """The first best value of Keras 3.10, which it also prints; later releases begin without one."""
    return -math.inf if direction == "max" else math.inf


def set_initial_best(checkpoint: Any) -> None:
    """Give Keras's callback its first best value, if this release needs one."""
    if UNKNOWN_IS_LOSS and checkpoint.best is None:
        checkpoint.best = initial_best(direction_for(checkpoint.monitor_op))


def use_newer_rules(checkpoint: Any, mode: str, threshold: float | None) -> None:
    """Let Keras 3.10's callback do as later releases: without a mode, ask the metric later which way is better."""
    checkpoint.mode = mode if mode in ("min", "max") else "auto"
    checkpoint.monitor_op = None if checkpoint.mode == "auto" else operator_for(checkpoint.mode)
    checkpoint.best = threshold
    if checkpoint.monitor_op is not None:
        set_initial_best(checkpoint)


def set_monitor_op(checkpoint: Any, model: Any, keras_sets: Callable[[], None] | None, effect: str) -> None:
    """Set the comparison of Keras's callback: Keras does, or lamina if Keras cannot; warn if neither can."""
    if keras_sets is not None:
        with contextlib.suppress(ValueError):
            keras_sets()
    if checkpoint.monitor_op is None:
        checkpoint.monitor_op = operator_for(find_direction(model, checkpoint.monitor))
    set_initial_best(checkpoint)
    if direction_for(checkpoint.monitor_op) is None:
        warn_of_unknown_direction(checkpoint.monitor, effect)


def improves(value: Any, reference: Any, direction: str | None, min_delta: float = 0.0) -> bool:
    """Whether a value is better than the reference. NaN never is, and any number is better than NaN."""
    value, reference = _compared(value), _compared(reference)
    if direction is None or value is None:
        return True
    if math.isnan(value):
        return False
    if reference is None or math.isnan(reference):
        return True
    # Keras compares on the device, which has to compile and to wait; the result is the same.
    value -= min_delta
    return bool(value < reference if direction == "min" else value > reference)


class BestValue:
    """The best value of all saves that were decided, and of those that are committed."""

    def __init__(self, value: float | None = None) -> None:
        self.decided = self.committed = value

    def judge(self, value: float | None, improves: Callable[[float, float | None], bool] | None) -> bool:
        """Whether a save with this value is the best so far. If so, note it. Without ``improves`` any number is."""
        best = value is not None and not math.isnan(value) and (improves is None or improves(value, self.decided))
        if best:
            self.decided = value
        return best

    def roll_back(self) -> None:
        """A save has failed: go back to the best committed value."""
        self.decided = self.committed


class MetricHistory:
    """The best value of the monitored metric, and the validation metrics of the last epoch."""

    def __init__(self, best: float | None = None) -> None:
        self.best = BestValue(best)
        self._validation: dict[str, Any] = {}
        self._warned = False

    def note_epoch(self, monitor: str, logs: Mapping[str, Any], *, marks_best: bool) -> None:
        """Keep the validation metrics. Warn once if the monitored metric is missing and the best save is marked."""
        self._validation = {name: value for name, value in logs.items() if name.startswith("val_")}
        if marks_best and monitor not in logs and not self._warned:
            self._warned = True
            warnings.warn(
                f"`monitor` {monitor!r} is not among the metrics of this epoch ({', '.join(logs)}), so no save is "
                "marked as the best. Pass validation_data to fit, or monitor another metric",
                stacklevel=3,
            )

    def with_validation(self, template: str, logs: Mapping[str, Any]) -> dict[str, Any]:
        """Logs at a batch, plus the validation metrics of the last epoch (nan in the first)."""
        unknown = {name: math.nan for name in placeholders(template) if name.startswith("val_")}
        return {**unknown, **self._validation, **logs}


def warn_of_validation_metric(caller: str, save_freq: Any, monitored: list[str], template: str) -> None:
    """Warn of validation metrics with saves between epochs, where they have no value."""
    needed = next((name for name in [*monitored, *placeholders(template)] if name.startswith("val_")), None)
    if save_freq != "epoch" and needed is not None:
        warnings.warn(
            f"{caller} uses {needed!r} at batches (save_freq={save_freq!r}), but Keras computes validation metrics "
            "only at the end of an epoch. Before that, file names use the value of the epoch before (nan in the "
            "first), and nothing is monitored. Use save_freq='epoch' or a training metric",
            stacklevel=3,
        )


def placeholders(template: str) -> list[str]:
    """The placeholders of a template of file names; none if Keras will refuse the template."""
    try:
        return [name for _, name, _, _ in Formatter().parse(template) if name]
    except ValueError:
        return []


def _always(value: Any, reference: Any) -> bool:
    """The ``monitor_op`` of a metric without a direction."""
    return True


def _compared(value: Any) -> float | None:
    """A value as Keras compares it: a Python float becomes a tensor of 32 bits."""
    if UNKNOWN_IS_LOSS:
        return scalar(value)
    return ctypes.c_float(value).value if type(value) is float else scalar(value)
