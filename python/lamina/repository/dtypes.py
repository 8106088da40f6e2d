"""The dtype names of the format (docs/format.md §5.1) as numpy dtypes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from lamina.errors import UnsupportedFormatError


def to_numpy(name: str) -> np.dtype[Any]:
    """The numpy dtype of a name; a dtype of ml_dtypes for bfloat16, float8 and similar names.

    Raises:
        UnsupportedFormatError: if the installed numpy and ml_dtypes do not have it.
    """
    try:
        return np.dtype(getattr(ml_dtypes, name)) if name.isidentifier() else np.dtype(name)
    except (AttributeError, TypeError) as error:
        raise UnsupportedFormatError(
            f"numpy {np.__version__} and ml_dtypes {ml_dtypes.__version__} do not know the dtype {name!r}; update them"
        ) from error


def as_bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The bytes of a C-contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8)
