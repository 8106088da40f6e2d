"""The devices of TensorFlow.

A variable that somebody holds is copied before it is changed. So a copy on the device is a reference, and the next step
takes the memory for it. Where there is no room for that, the tensors are copied to the host at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lamina.keras.capture.arena import Bytes
from lamina.keras.capture.devices.headroom import Memory
from lamina.keras.capture.devices.interface import HostCopy, OnDevice
from lamina.repository.dtypes import as_bytes


def on_device(tensor: Any, device: str) -> OnDevice | None:
    """A tensor on a GPU; None if it is in the host's memory. ``device`` is such as ``GPU:0``."""
    if not device.startswith("GPU"):
        return None
    nbytes = tensor.shape.num_elements() * tensor.dtype.size
    return OnDevice(tensor, nbytes, {device: nbytes})


class TensorflowDevices:
    """See `lamina.keras.capture.devices.interface.Devices`."""

    def __init__(self) -> None:
        self._limits: dict[str, int] | None = None

    def memory(self, device: Any) -> Memory | None:
        if self._limits is None:
            self._limits = self._find_limits()
        limit = self._limits.get(device)
        if limit is None:
            return None
        info = self._info(device)
        return Memory(limit, info["current"], info["peak"])

    def copy(self, tensors: Sequence[OnDevice]) -> _Held:
        return _Held([tensor.tensor for tensor in tensors])

    def fetch(self, tensors: Sequence[OnDevice]) -> HostCopy:
        return _Held([tensor.tensor for tensor in tensors]).fetch()

    def prepare(self, sizes: Sequence[int]) -> None:
        """TensorFlow has an allocator of its own for pinned memory."""

    def release(self) -> None:
        """TensorFlow has an allocator of its own for pinned memory."""

    def _find_limits(self) -> dict[str, int]:
        """Of each GPU; TensorFlow says it nowhere else."""
        from tensorflow.python.client import device_lib

        found = device_lib.list_local_devices()
        return {one.name.removeprefix("/device:"): int(one.memory_limit) for one in found}

    def _info(self, device: str) -> dict[str, int]:
        import tensorflow as tf

        return dict(tf.config.experimental.get_memory_info(device))


class _Held:
    def __init__(self, tensors: list[Any]) -> None:
        self._tensors = tensors

    def fetch(self) -> HostCopy:
        """Tensor by tensor: each is free on the device when it has arrived."""
        arrived: list[Bytes] = []
        self._tensors.reverse()
        while self._tensors:
            arrived.append(as_bytes(np.ascontiguousarray(np.asarray(self._tensors.pop()))))
        return HostCopy(arrived)
