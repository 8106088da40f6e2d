"""Which way a monitored metric is better, and whether a value is the best so far; never a reason to stop training."""

from __future__ import annotations

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

#: Keras 3.10 takes every metric for a loss whose name does not speak of accuracy, an F-measure for example.
UNKNOWN_IS_LOSS = not hasattr(keras.callbacks.ModelCheckpoint, "_set_monitor_op")
# And it compares with numpy.
_LESS, _GREATER = (np.less, np.greater) if UNKNOWN_IS_LOSS else (ops.less, ops.greater)


def operator_for(direction: str | None) -> Any:
    """What Keras compares with; of an unknown direction every value is an improvement."""
    return {"min": _LESS, "max": _GREATER, None: _always}[direction]


def direction_for(operator: Any) -> str | None:
    """``"min"``, ``"max"``, or None where it is unknown."""
    return {_LESS: "min", _GREATER: "max"}.get(operator)


def find_direction(model: Any, monitor: str) -> str | None:
    """Which way is better, as the metric says or, where it does not, its name: a loss of one of several outputs, or
    what Keras 3.10 takes for an accuracy."""
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
    """Where Keras 3.10 begins, and prints it, where later releases have no best value yet."""
    return -math.inf if direction == "max" else math.inf


def set_initial_best(checkpoint: Any) -> None:
    """Give Keras's callback the best value that it begins with, where it must have one."""
    if UNKNOWN_IS_LOSS and checkpoint.best is None:
        checkpoint.best = initial_best(direction_for(checkpoint.monitor_op))


def use_newer_rules(checkpoint: Any, mode: str, threshold: float | None) -> None:
    """Let Keras's callback of 3.10 do as later releases: ask the metric, later on, which way it is better.

    Where a mode is given, the direction is known at once.
    """
    checkpoint.mode = mode if mode in ("min", "max") else "auto"
    checkpoint.monitor_op = None if checkpoint.mode == "auto" else operator_for(checkpoint.mode)
    checkpoint.best = threshold
    if checkpoint.monitor_op is not None:
        set_initial_best(checkpoint)


def set_monitor_op(checkpoint: Any, model: Any, keras_sets: Callable[[], None] | None) -> None:
    """Find out which way the monitored metric is better: Keras's callback does, or where it cannot, we do."""
    try:
        if keras_sets is None:
            raise ValueError
        keras_sets()
    except ValueError:
        checkpoint.monitor_op = operator_for(find_direction(model, checkpoint.monitor))
    set_initial_best(checkpoint)


def improves(value: Any, reference: Any, direction: str | None, min_delta: float = 0.0) -> bool:
    """Whether a value is better than another one; NaN never is, and everything is better than NaN."""
    value, reference = _compared(value), _compared(reference)
    if direction is None or value is None:
        return True
    if math.isnan(value):
        return False
    if reference is None or math.isnan(reference):
        return True
    # Keras compares on the device, which compiles and waits; the result is the same.
    value -= min_delta
    return bool(value < reference if direction == "min" else value > reference)


class BestValue:
    """The best value that a save was decided for, and the best one that is committed."""

    def __init__(self, value: float | None = None) -> None:
        self.decided = self.committed = value

    def judge(self, value: float | None, improves: Callable[[float, float | None], bool] | None) -> bool:
        """Whether a save with this value is the best so far, and note it if so; without ``improves`` any number is."""
        best = value is not None and not math.isnan(value) and (improves is None or improves(value, self.decided))
        if best:
            self.decided = value
        return best

    def roll_back(self) -> None:
        """A save has failed: what is best is what was committed."""
        self.decided = self.committed


class MetricHistory:
    """The best value of the monitored metric, and the validation metrics of the last epoch."""

    def __init__(self, best: float | None = None) -> None:
        self.best = BestValue(best)
        self._validation: dict[str, Any] = {}
        self._warned = False

    def note_epoch(self, monitor: str, logs: Mapping[str, Any], *, marks_best: bool) -> None:
        """Keep the validation metrics; warn once of a missing metric, where anybody learns which save is the best."""
        self._validation = {name: value for name, value in logs.items() if name.startswith("val_")}
        if marks_best and monitor not in logs and not self._warned:
            self._warned = True
            warnings.warn(
                f"`monitor` {monitor!r} is not among the metrics of this epoch ({', '.join(logs)}), so no save is "
                "marked as the best. Pass validation_data to fit, or monitor another metric",
                stacklevel=3,
            )

    def with_validation(self, template: str, logs: Mapping[str, Any]) -> dict[str, Any]:
        """Logs at a batch, with the validation metrics of the last epoch; nan in the first."""
        unknown = {name: math.nan for name in placeholders(template) if name.startswith("val_")}
        return {**unknown, **self._validation, **logs}


def warn_of_validation_metric(caller: str, save_freq: Any, monitored: list[str], template: str) -> None:
    """Validation metrics do not exist where saves are decided at batches."""
    needed = next((name for name in [*monitored, *placeholders(template)] if name.startswith("val_")), None)
    if save_freq != "epoch" and needed is not None:
        warnings.warn(
            f"{caller} uses {needed!r} every {save_freq} batches, but Keras computes validation metrics only at the "
            "end of an epoch. Before that, file names use the value of the epoch before (nan in the first), and "
            "nothing is monitored. Use save_freq='epoch' or a training metric",
            stacklevel=3,
        )


def placeholders(template: str) -> list[str]:
    """What a template of file names asks for; nothing where Keras will refuse it."""
    try:
        return [name for _, name, _, _ in Formatter().parse(template) if name]
    except ValueError:
        return []


def _always(value: Any, reference: Any) -> bool:
    """The ``monitor_op`` of a metric of which nobody knows which way it is better."""
    return True


def _compared(value: Any) -> float | None:
    """A value as Keras compares it: in a tensor, a number of Python's has 32 bits."""
    if UNKNOWN_IS_LOSS:
        return scalar(value)
    return ctypes.c_float(value).value if type(value) is float else scalar(value)
