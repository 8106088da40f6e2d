"""Values in the JSON form of a snapshot, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lamina.errors import InvalidInputError


def number(value: Any) -> Any:
    """A value from JSON; ``"nan"``, ``"inf"`` and ``"-inf"`` become floats again."""
    return float(value) if value in ("nan", "inf", "-inf") else value


#: Levels of lists and dicts that the engine's JSON allows.
DEEPEST = 127


def plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON can hold it: numpy and tensor scalars become numbers, floats that are not finite strings.

    Raises:
        InvalidInputError: if it is nested too deeply.
    """
    if depth > DEEPEST:
        raise InvalidInputError(f"metadata may be nested at most {DEEPEST - 1} levels deep. Received: a deeper value")
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item, depth + 1) for item in value]
    if hasattr(value, "shape") and tuple(value.shape) == ():
        # A scalar of numpy or of any backend.
        if hasattr(value, "item"):
            return plain(value.item(), depth)
        return plain(float(value))
    if hasattr(value, "tolist"):
        return plain(value.tolist(), depth)
    return str(value)
