"""Memory that large tensors are read into."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

#: Below so many bytes it does not matter where an array begins.
SMALL = 1 << 16
#: TensorFlow and JAX copy what does not begin at a multiple of so many bytes.
_ALIGNMENT = 64
#: Pages of this size come with one fault instead of 512: NumPy asks for them from 4 MiB on (Linux, ``MADV_HUGEPAGE``),
#: and the kernel gives them where a whole one fits.
_HUGE = 2 << 20
#: From here on what the last one takes more than it must is a small part.
_LARGE = 4 << 20


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An array like that of `numpy.empty`, that begins where a large page, or at least a line of the cache, does."""
    size = math.prod(shape) * dtype.itemsize
    if size < SMALL:
        return np.empty(shape, dtype)
    alignment = _HUGE if size >= _LARGE else _ALIGNMENT
    memory = np.empty(size + alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    return memory[start : start + size].view(dtype).reshape(shape)
