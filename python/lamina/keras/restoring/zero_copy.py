"""Arrays that TensorFlow and JAX use on the CPU without a copy.

Both share aligned memory that they did not allocate until they change the values. So the copy happens in the first
training step, and never in inference.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from lamina.repository import memory

#: The dtypes that both share.
_SHARED = ("float16", "float32", "float64")


def shareable_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An array like that of `numpy.empty`, for the values of exactly one variable."""
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
    """An array that TensorFlow shares once, without a copy (``tf.types.experimental.TensorProtocol``)."""

    unshared = False  # views, and arrays that were shared already, are copied as usual

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        import tensorflow as tf

        if not self.unshared or (dtype is not None and tf.as_dtype(dtype).as_numpy_dtype != self.dtype):
            return tf.convert_to_tensor(np.asarray(self), dtype, name=name)
        self.unshared = False
        return tf.experimental.dlpack.from_dlpack(self.__dlpack__())
