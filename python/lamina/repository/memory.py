"""Aligned memory, which large tensors are read into."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

#: For arrays smaller than this, alignment does not matter.
SMALL = 1 << 16
#: TensorFlow and JAX copy an array that does not begin at a multiple of this.
_ALIGNMENT = 64
#: A huge page takes one page fault instead of 512. NumPy requests them from 4 MiB on (Linux, ``MADV_HUGEPAGE``), and
#: the kernel provides one where a whole one fits.
_HUGE = 2 << 20
#: From this size on, the unused part of the last huge page is small in comparison.
_LARGE = 4 << 20


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """`numpy.empty`, but aligned to a huge page, or for smaller arrays to a cache line."""
    size = math.prod(shape) * dtype.itemsize
    if size < SMALL:
        return np.empty(shape, dtype)
    alignment = _HUGE if size >= _LARGE else _ALIGNMENT
    memory = np.empty(size + alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    return memory[start : start + size].view(dtype).reshape(shape)
