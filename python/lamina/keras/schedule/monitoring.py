"""Which way a monitored metric is better, and whether a value is the best so far; never a reason to stop training."""

from __future__ import annotations

import ctypes
import inspect
import math
import warnings
from collections.abc import Mapping
from string import Formatter
from typing import Any

import keras
import numpy as np
from keras import ops

from lamina.keras.schedule.direction import metric_direction, named_direction, scalar

# Keras 3.10 takes every metric for a loss whose name does not speak of accuracy, an F-measure for example.
_TAKES_UNKNOWN_FOR_LOSS = not hasattr(keras.callbacks.ModelCheckpoint, "_set_monitor_op")
# And it compares with numpy.
_LESS, _GREATER = (np.less, np.greater) if _TAKES_UNKNOWN_FOR_LOSS else (ops.less, ops.greater)
_ARGUMENTS = inspect.signature(keras.callbacks.ModelCheckpoint.__init__)


class Monitoring(keras.callbacks.ModelCheckpoint):  # type: ignore[misc]
    """Keras's decisions, mended: they also work before the first epoch has ended, with NaN, and with metrics
    whose better direction nobody knows."""

    best: Any
    monitor_op: Any
    min_delta: float = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if _TAKES_UNKNOWN_FOR_LOSS:
            self._as_later_releases(*args, **kwargs)
        # The best value that is decided on, saved or not; `best` is Keras's and exists with save_best_only only.
        self._best_value: float | None = scalar(self.best)
        self._best_committed = self._best_value
        self._validation: dict[str, Any] = {}  # metrics of the last epoch that had some
        self._warn_of_missing_metric()

    @property
    def direction(self) -> str | None:
        """``"min"``, ``"max"``, or None where it is unknown."""
        return {_LESS: "min", _GREATER: "max"}.get(self.monitor_op)

    def _as_later_releases(self, *args: Any, **kwargs: Any) -> None:
        """Keep the mode, and ask the metric later on; where a mode is given, the direction is known at once."""
        given = _ARGUMENTS.bind(self, *args, **kwargs).arguments
        self.mode = given["mode"] if given.get("mode") in ("min", "max") else "auto"
        self.monitor_op = {"min": _LESS, "max": _GREATER}.get(self.mode)
        self.best = given.get("initial_value_threshold")
        if self.monitor_op is not None:
            self._begin_where_keras_begins()

    def _begin_where_keras_begins(self) -> None:
        """Keras 3.10 compares with infinity, and prints it, where later releases have no best value yet."""
        if _TAKES_UNKNOWN_FOR_LOSS and self.best is None:
            self.best = -math.inf if self.monitor_op is _GREATER else math.inf

    def _warn_of_missing_metric(self) -> None:
        if self.save_freq == "epoch":
            return
        chosen = self.save_best_only or self.monitor != "val_loss"
        used = [*([self.monitor] if chosen else []), *_placeholders(str(self.filepath))]
        late = next((name for name in used if name.startswith("val_")), None)
        if late is not None:
            warnings.warn(
                f"{type(self).__name__} uses {late!r} every {self.save_freq} batches, but validation metrics exist at "
                "the end of an epoch only: between them a file name gets the last epoch's, nan in the first, and "
                "nothing is monitored. Use save_freq='epoch', or a training metric",
                stacklevel=4,
            )

    def _prepare_monitor(self, logs: Mapping[str, Any] | None) -> None:
        """Find the direction as soon as there is a value to judge."""
        if self.monitor_op is None and self.monitor in (logs or {}):
            self._set_monitor_op()

    def _set_monitor_op(self) -> None:
        if not self._keras_knows():
            known = metric_direction(self.model, self.monitor) or _told_by_name(self.monitor)
            self.monitor_op = {"min": _LESS, "max": _GREATER, None: _always}[known]
        self._begin_where_keras_begins()
        if self.direction is None:
            effect = "every save counts" if self.save_best_only else "no save is marked as the best"
            warnings.warn(
                f"whether a larger {self.monitor!r} is better is unknown, so {effect}; pass mode='max' or mode='min'",
                stacklevel=2,
            )

    def _keras_knows(self) -> bool:
        if _TAKES_UNKNOWN_FOR_LOSS:
            return False
        try:
            super()._set_monitor_op()
        except ValueError:
            return False
        return True

    def _is_improvement(self, monitor_value: Any, reference_value: Any) -> bool:
        value, reference = _compared(monitor_value), _compared(reference_value)
        if self.monitor_op is _always or value is None:
            return True
        if math.isnan(value):
            return False
        if reference is None or math.isnan(reference):
            return True
        # Keras compares on the device, which compiles and waits; the result is the same.
        value -= self.min_delta
        return value < reference if self.monitor_op is _LESS else value > reference

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.monitor_op is None:  # as Keras does from 3.11 on
            self._set_monitor_op()
        super().on_epoch_end(epoch, logs)
        self._validation = {name: value for name, value in (logs or {}).items() if name.startswith("val_")}

    def _get_file_path(self, epoch: int, batch: int | None, logs: Mapping[str, Any]) -> str:
        """As Keras names it; at batches, validation metrics are those of the last epoch, nan in the first."""
        if batch is not None and self.save_freq != "epoch":
            late = {name: math.nan for name in _placeholders(str(self.filepath)) if name.startswith("val_")}
            logs = late | self._validation | dict(logs or {})
        path: str = super()._get_file_path(epoch, batch, logs)
        return path

    def _judge(self, logs: Mapping[str, Any]) -> tuple[float | None, bool]:
        """The monitored value, and whether it is the best so far; with save_best_only, Keras has agreed to save."""
        value = scalar(logs.get(self.monitor))
        if value is None or math.isnan(value) or self.direction is None:
            return value, False
        best = self.save_best_only or self._is_improvement(value, self._best_value)
        if best:
            self._best_value = value
        return value, best

    def _give_best_back(self) -> None:
        """A save has failed: what is best is what was committed."""
        self._best_value = self._best_committed
        if self.save_best_only:
            self.best = self._best_committed
            self._begin_where_keras_begins()


def _told_by_name(monitor: str) -> str | None:
    """A loss of one of several outputs, and what Keras 3.10 takes for an accuracy."""
    if monitor.endswith("loss"):
        return "min"
    return "max" if named_direction(monitor) == "max" else None


def _always(value: Any, reference: Any) -> bool:
    """The ``monitor_op`` of a metric of which nobody knows which way it is better."""
    return True


def _placeholders(template: str) -> list[str]:
    """What a template of file names asks for; nothing where Keras will refuse it."""
    try:
        return [name for _, name, _, _ in Formatter().parse(template) if name]
    except ValueError:
        return []


def _compared(value: Any) -> float | None:
    """A value as Keras compares it: in a tensor, a number of Python's has 32 bits."""
    if _TAKES_UNKNOWN_FOR_LOSS:
        return scalar(value)
    return ctypes.c_float(value).value if type(value) is float else scalar(value)
