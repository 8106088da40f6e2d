"""How far a training has come."""

from __future__ import annotations

from typing import Any

import keras


def steps_done(model: Any) -> int | None:
    """Steps of the optimizer; None where the model has none that counts them."""
    try:
        return int(keras.ops.convert_to_numpy(model.optimizer.iterations))  # int() knows no variable of a strategy
    except (AttributeError, TypeError, ValueError):
        return None
