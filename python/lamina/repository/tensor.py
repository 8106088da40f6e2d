"""The description of a tensor, without its data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lamina.errors import UnsupportedFormatError


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of a snapshot, without its data. Its name is the path in the file, and unique there."""

    name: str  # unique in its file
    dtype: str  # such as "<f4" or "bfloat16"; the names of docs/format.md §5.1
    shape: tuple[int, ...]
    role: str  # "weights", "optimizer", "counters" or "training"
    file: str | None  # None for a tensor of the training state, which is in no file
    offset: int  # bytes from the start of the state
    variable: str | None = None  # Keras's path of the variable, such as ``encoder/kernel``, if it is known

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        from lamina.repository.dtypes import to_numpy  # here, so that the command line starts without numpy

        return math.prod(self.shape) * to_numpy(self.dtype).itemsize


def tensor_bytes(tensor: TensorInfo) -> int | None:
    """Size of a tensor in bytes; None if numpy does not know its dtype."""
    try:
        return tensor.nbytes
    except UnsupportedFormatError:
        return None
