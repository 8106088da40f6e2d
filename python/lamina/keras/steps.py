"""The number of training steps."""

from __future__ import annotations

from typing import Any

import keras


def steps_done(model: Any) -> int | None:
    """The steps of the model's optimizer; None if it has none that counts them."""
    try:
        return int(keras.ops.convert_to_numpy(model.optimizer.iterations))  # int() rejects a strategy's variable
    except (AttributeError, TypeError, ValueError):
        return None
