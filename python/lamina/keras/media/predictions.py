"""A model's predictions inside ``fit``, without a change to the model."""

from typing import Any

import keras
import numpy as np

from lamina.keras.media.validation_data import BATCH, count, take, to_numpy


def predict(model: Any, x: Any) -> Any:
    """Predictions for all examples, as NumPy arrays in the structure of the outputs.

    A model with a fixed batch size gets full batches: the last example is repeated, and its extra predictions are
    dropped. The states of stateful layers are restored.
    """
    total = count(x)
    size = _fixed_batch_size(model)
    if size is not None and total % size:
        x = take(x, np.minimum(np.arange(-(-total // size) * size), total - 1))
    states = [(state, to_numpy(state.value).copy()) for state in _states(model)]
    predicted = to_numpy(model.predict(x, batch_size=size or BATCH, verbose=0))
    for state, value in states:
        state.assign(value)
    return keras.tree.map_structure(lambda array: array[:total], predicted)


def _fixed_batch_size(model: Any) -> int | None:
    shapes = [tensor.shape for tensor in inputs_of(model)]
    return shapes[0][0] if shapes and len(shapes[0]) else None


def inputs_of(model: Any) -> list[Any]:
    """The symbolic inputs; none for a subclassed or unbuilt model."""
    return _tensors(model, "inputs")


def outputs_of(model: Any) -> list[Any]:
    return _tensors(model, "outputs")


def _tensors(model: Any, attribute: str) -> list[Any]:
    try:
        return list(getattr(model, attribute, None) or [])
    except (AttributeError, ValueError):
        return []


def _states(model: Any) -> list[Any]:
    """Variables that predictions change: the states of stateful recurrent layers."""
    layers = model._flatten_layers() if hasattr(model, "_flatten_layers") else model.layers
    stateful = [layer for layer in layers if getattr(layer, "stateful", False)]
    groups = [getattr(layer, "states", None) or [] for layer in stateful]
    found = [state for group in groups for state in keras.tree.flatten(group)]
    return [state for state in found if isinstance(state, keras.Variable)]
