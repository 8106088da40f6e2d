"""The `fit` of tests: short, silent, with the test's own data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras


def one_layer() -> keras.Model:
    """Three inputs, one output, compiled."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def fit_on(x: Any, y: Any) -> Callable[..., Any]:
    """``fit(model, *callbacks, **arguments)``, by default with two epochs in batches of 8."""

    def fit(model: keras.Model, *callbacks: keras.callbacks.Callback, **arguments: Any) -> Any:
        return model.fit(x, y, **{"batch_size": 8, "epochs": 2, "verbose": 0, "callbacks": list(callbacks)} | arguments)

    return fit
