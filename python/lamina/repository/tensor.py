"""What is known of a tensor without reading it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lamina.errors import UnsupportedFormatError


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of a snapshot: its name, the path in the file, is unique there."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    role: str
    file: str | None  # None for a tensor of the training state, which stands in no file
    offset: int  # in the state
    variable: str | None = None  # the path that Keras gives the variable, such as ``encoder/kernel``, where it is known

    @property
    def nbytes(self) -> int:
        """Bytes."""
        from lamina.repository.dtypes import to_numpy  # the command line starts without numpy

        return math.prod(self.shape) * to_numpy(self.dtype).itemsize


def tensor_bytes(tensor: TensorInfo) -> int | None:
    """Bytes of a tensor; None if its dtype is unknown here."""
    try:
        return tensor.nbytes
    except UnsupportedFormatError:
        return None
