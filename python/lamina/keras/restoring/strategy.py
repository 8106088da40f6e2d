"""TensorFlow makes variables of a distributed model only inside the scope of its strategy."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras


def scope_of(model: Any) -> AbstractContextManager[Any]:
    """The scope that a model was made in, wherever the caller stands."""
    strategy = getattr(model, "_distribute_strategy", None) if keras.backend.backend() == "tensorflow" else None
    if strategy is None:
        return nullcontext()
    scope: AbstractContextManager[Any] = strategy.scope()
    return scope
