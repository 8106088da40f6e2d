"""Memory that a backend takes over as it is, instead of copying it: TensorFlow and JAX, on the CPU.

A backend shares aligned memory that it did not allocate itself until it changes the values: the copy that is saved
here falls to the first training step, and inference never pays it.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from lamina.repository import memory

#: What both take over.
_SHARED = ("float16", "float32", "float64")


def shareable_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An array like that of `numpy.empty`, for values that go to one variable and nowhere else."""
    size = math.prod(shape) * dtype.itemsize
    if size < memory.SMALL or dtype.name not in _SHARED or not dtype.isnative:
        return np.empty(shape, dtype)
    array = memory.empty(shape, dtype)
    if keras.config.backend() != "tensorflow":
        return array
    given = array.view(_SharedOnce)
    given.unshared = True
    return given


class _SharedOnce(np.ndarray[Any, Any]):
    """An array that becomes a tensor of TensorFlow once, without a copy (``tf.types.experimental.TensorProtocol``)."""

    unshared = False  # views of it, and what has been given away, are arrays like any other

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        import tensorflow as tf

        if not self.unshared or (dtype is not None and tf.as_dtype(dtype).as_numpy_dtype != self.dtype):
            return tf.convert_to_tensor(np.asarray(self), dtype, name=name)
        self.unshared = False
        return tf.experimental.dlpack.from_dlpack(self.__dlpack__())
