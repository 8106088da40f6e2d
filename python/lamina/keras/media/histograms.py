"""Histograms of weights and gradients for the history of a run."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np


def weight_histograms(model: Any) -> dict[str, Any]:
    """``parameters/<layer>.weights`` and ``.bias``; a layer with other variables uses their names."""
    named = [(name, value) for layer in model.layers for name, value in _weights(layer)]
    return histograms(named)


def _weights(layer: Any) -> Iterable[tuple[str, Any]]:
    variables = layer.weights
    if len(variables) in (1, 2) and not hasattr(layer, "layers"):
        for suffix, variable in zip(("weights", "bias"), variables, strict=False):
            yield f"parameters/{layer.name}.{suffix}", variable.value
        return
    for variable in variables:
        yield f"parameters/{layer.name}.{_within(layer, variable)}", variable.value


def _within(layer: Any, variable: Any) -> str:
    """The variable's name below its layer: ``gamma``, ``cell/kernel``."""
    path = str(variable.path)
    _, found, rest = path.partition(f"{layer.name}/")
    return rest if found else path


def variable_name(model: Any, variable: Any) -> str:
    """The variable's path below the model."""
    return str(variable.path).removeprefix(f"{model.name}/")


def histograms(named: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A ``wandb.Histogram`` of the finite numbers of each array; arrays without any are skipped."""
    import wandb

    found = {}
    for name, value in named:
        array = numbers(value)
        if array is None:
            wandb.termwarn(f"{name} holds no finite numbers: no histogram", repeat=False)
            continue
        found[name] = wandb.Histogram(array)
    return found


def numbers(value: Any) -> Any:
    """The finite elements as a flat array of floats; None if there are none."""
    array = np.asarray(keras.ops.convert_to_numpy(value))
    if array.dtype.kind not in "fiub":  # bfloat16 and float8 among others
        try:
            array = array.astype("float32")
        except (TypeError, ValueError):
            return None
    array = array.astype("float64" if array.dtype == np.float64 else "float32").ravel()
    array = array[np.isfinite(array)]
    return array if array.size else None
