"""The scope of a TensorFlow strategy, in which a distributed model's variables must be created."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras


def scope_of(model: Any) -> AbstractContextManager[Any]:
    """The scope of the strategy that the model was created in; otherwise a context that does nothing."""
    strategy = getattr(model, "_distribute_strategy", None) if keras.backend.backend() == "tensorflow" else None
    if strategy is None:
        return nullcontext()
    scope: AbstractContextManager[Any] = strategy.scope()
    return scope
