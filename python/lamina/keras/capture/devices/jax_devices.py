"""The devices of JAX.

A step donates its arrays to the next one, so a reference keeps nothing. The copies of all arrays are outputs of one
compiled function: it is dispatched, and donation waits for it on the device.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lamina.keras.capture.arena import Bytes
from lamina.keras.capture.devices.headroom import Memory
from lamina.keras.capture.devices.interface import (
    IN_FLIGHT,
    PINNING_REFUSED,
    DeviceOutOfMemoryError,
    HostCopy,
    OnDevice,
)
from lamina.repository.dtypes import as_bytes

_PINNED = "pinned_host"


def is_host(device: Any) -> bool:
    """Whether the memory of a device is the host's."""
    return bool(device.platform == "cpu")


def on_device(array: Any) -> OnDevice | None:
    """An array of accelerators; None if it is in the host's memory."""
    sharding = array.sharding
    devices = sharding.device_set
    first = next(iter(devices))
    if is_host(first) or sharding.memory_kind not in (None, first.default_memory().kind):
        return None
    share = array.nbytes
    if len(devices) > 1:
        share = int(np.prod(sharding.shard_shape(array.shape), dtype=np.int64)) * array.dtype.itemsize
    return OnDevice(array, array.nbytes, dict.fromkeys(devices, share))


def lends(array: Any) -> bool:
    """Whether an array is one piece of the host's memory, at an address."""
    devices = array.sharding.device_set
    return len(devices) == 1 and is_host(next(iter(devices)))


class JaxDevices:
    """See `lamina.keras.capture.devices.interface.Devices`."""

    def __init__(self) -> None:
        self._compiled: Callable[[list[Any]], list[Any]] | None = None
        self._pins = True

    def memory(self, device: Any) -> Memory | None:
        stats = device.memory_stats() or {}
        limit, in_use = stats.get("bytes_limit"), stats.get("bytes_in_use")
        if limit is None or in_use is None:
            return None
        return Memory(limit, in_use, stats.get("peak_bytes_in_use", in_use))

    def copy(self, tensors: Sequence[OnDevice]) -> _Copy:
        groups: dict[tuple[Any, ...], list[int]] = {}
        for i, tensor in enumerate(tensors):
            groups.setdefault(_assignment(tensor.tensor), []).append(i)
        copies: list[Any] = [None] * len(tensors)
        for places in groups.values():
            try:
                copied = self._copies([tensors[i].tensor for i in places])
            except RuntimeError as error:
                if "RESOURCE_EXHAUSTED" in str(error):
                    raise DeviceOutOfMemoryError(str(error).splitlines()[0]) from error
                raise
            for i, array in zip(places, copied, strict=True):
                copies[i] = array
        return _Copy(self, copies)

    def fetch(self, tensors: Sequence[OnDevice]) -> HostCopy:
        return HostCopy(self.on_host([tensor.tensor for tensor in tensors]))

    def on_host(self, arrays: list[Any]) -> list[Bytes]:
        """The bytes of these arrays in their order. The list is emptied, so that each is freed when it has arrived."""
        moves: deque[_Move] = deque()
        arrived: list[Bytes] = []
        in_flight = 0
        arrays.reverse()
        while arrays or moves:
            if arrays and (not moves or in_flight + arrays[-1].nbytes <= IN_FLIGHT):
                moves.append(self._move(arrays.pop()))
                in_flight += moves[-1].nbytes
                continue
            move = moves.popleft()
            in_flight -= move.nbytes
            arrived.append(self._arrive(move))
        return arrived

    def prepare(self, sizes: Sequence[int]) -> None:
        """JAX has an allocator of its own for pinned memory."""

    def release(self) -> None:
        """JAX has an allocator of its own for pinned memory."""

    def _copies(self, arrays: list[Any]) -> list[Any]:
        if self._compiled is None:
            import jax

            self._compiled = jax.jit(lambda arrays: [jax.numpy.copy(array) for array in arrays])
        return self._compiled(arrays)

    def _move(self, array: Any) -> _Move:
        if self._pins and _has_pinned(array):
            import jax

            try:
                return _Move(array, jax.device_put(array, array.sharding.with_memory_kind(_PINNED)))
            except RuntimeError as error:
                self._pin_no_more(error)
        array.copy_to_host_async()
        return _Move(array, array)

    def _arrive(self, move: _Move) -> Bytes:
        try:
            return _bytes(move.moved)
        except RuntimeError as error:
            if move.moved is move.array:
                raise
            self._pin_no_more(error)
            return _bytes(move.array)

    def _pin_no_more(self, error: RuntimeError) -> None:
        if self._pins:
            self._pins = False
            warnings.warn(f"{PINNING_REFUSED}: {error}", stacklevel=2)


class _Copy:
    def __init__(self, devices: JaxDevices, arrays: list[Any]) -> None:
        self._devices = devices
        self._arrays = arrays

    def fetch(self) -> HostCopy:
        return HostCopy(self._devices.on_host(self._arrays))


class _Move:
    """An array on its way to the host."""

    __slots__ = ("array", "moved", "nbytes")

    def __init__(self, array: Any, moved: Any) -> None:
        self.array = array
        self.moved = moved
        self.nbytes = array.nbytes


def _assignment(array: Any) -> tuple[Any, ...]:
    """The devices of an array in the order of its shards; one compiled function takes arrays of one assignment."""
    devices = array.sharding.device_set
    return tuple(devices if len(devices) == 1 else array.sharding.devices_indices_map(array.shape))


def _has_pinned(array: Any) -> bool:
    device = next(iter(array.sharding.device_set))
    return any(memory.kind == _PINNED for memory in device.addressable_memories())


def _bytes(array: Any) -> Bytes:
    return as_bytes(np.ascontiguousarray(np.asarray(array)))
