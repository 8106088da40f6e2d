"""Captures the tensors of one step; this is all that training waits for.

TensorFlow's variables are only referenced: TensorFlow copies a referenced variable before it writes to it. JAX reuses
the memory of its arrays in the next step and torch writes into it, so those are copied, into reused memory. Tensors on
accelerators go through `lamina.keras.capture.devices`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

from lamina import _core
from lamina.errors import InvalidInputError
from lamina.keras.capture.arena import Arena, ArenaPool, Bytes
from lamina.keras.capture.devices import jax_devices, tensorflow_devices, torch_devices
from lamina.keras.capture.devices.interface import OnDevice
from lamina.keras.capture.devices.stage import DeviceStage, Staged
from lamina.repository.dtypes import as_bytes


class StructureChangedError(Exception):
    """A value does not have the size in its plan."""


class Captured:
    """The values of one step; `arrays` may be called on any thread."""

    def __init__(self, held: list[Any], release: Callable[[], None], staged: Staged | None = None) -> None:
        """``held`` has None for each value that ``staged`` has."""
        self._held: list[Any] | None = held
        self._release: Callable[[], None] | None = release
        self._staged = staged

    def arrays(self) -> list[Bytes]:
        """The bytes of each value.

        Raises:
            LaminaError: if a device fails that holds a copy of them.
        """
        assert self._held is not None
        if self._staged is not None:
            arrays = iter(self._staged.arrays())
            self._held = [next(arrays) if value is None else value for value in self._held]
        self._held = [value if _is_bytes(value) else _bytes(value) for value in self._held]
        return self._held

    def release(self) -> None:
        """Free the memory; the arrays must not be used any more."""
        release, self._held, self._release = self._release, None, None  # a commit that the user keeps refers to this
        if release is not None:
            release()
            if self._staged is not None:
                self._staged.release()


def capture(
    values: Sequence[Any], sizes: Sequence[int], arenas: ArenaPool, stage: DeviceStage, threads: int
) -> Captured:
    """Capture ``values``: variables, tensors, arrays or Python numbers, of these ``sizes`` in bytes.

    Raises:
        StructureChangedError: if a value has another size.
        LaminaError: if a device fails.
    """
    take = _BACKENDS.get(keras.config.backend(), _copied)
    held = [take(value) for value in values]
    for value, size in zip(held, sizes, strict=True):
        if _size(value) not in (size, None):
            raise StructureChangedError
    # On the devices first: their copies are made while the host's are.
    on_device = [value for value in held if isinstance(value, OnDevice)]
    staged = stage.take(on_device) if on_device else None
    held = [None if isinstance(value, OnDevice) else value for value in held]
    copied = [i for i, value in enumerate(held) if isinstance(value, _Borrowed)]
    if not copied:
        return Captured(held, lambda: None, staged)
    arena = arenas.take([sizes[i] for i in copied])
    _copy([held[i].memory for i in copied], arena, threads)
    for i, buffer in zip(copied, arena.buffers, strict=True):
        held[i] = buffer
    return Captured(held, lambda: arenas.release(arena), staged)


def copied_sizes(variables: Iterable[Any]) -> list[int]:
    """The sizes in bytes of the variables that `capture` copies into an arena."""
    lends = _BORROWS.get(keras.config.backend(), lambda value: True)
    return [value.nbytes for value in (variable.value for variable in variables) if lends(value)]


def device_sizes(variables: Iterable[Any]) -> list[int]:
    """The sizes in bytes of those of these variables that are on accelerators."""
    find = _ON_DEVICE.get(keras.config.backend(), lambda value: None)
    found = (find(variable.value) for variable in variables)
    return [on_device.nbytes for on_device in found if on_device is not None]


def _copy(sources: list[Bytes], arena: Arena, threads: int) -> None:
    _core.copy_into(list(zip(sources, arena.buffers, strict=True)), threads)


class _Borrowed:
    """Memory of a tensor that the next step will change."""

    __slots__ = ("memory", "owner")

    def __init__(self, memory: Bytes, owner: Any) -> None:
        self.memory = memory
        self.owner = owner


def _take_tensorflow(value: Any) -> Any:
    if not isinstance(value, keras.Variable):
        return value if keras.ops.is_tensor(value) else _copied(value)
    variable = value.value
    device = variable.device.rpartition("device:")[2]
    if not device.startswith(("CPU", "GPU")) and device:
        return _copied(value)  # a pluggable device may write without copying first
    if type(variable).__name__ == "ResourceVariable":
        from tensorflow import raw_ops

        tensor = raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)
    else:
        tensor = variable.read_value()
    return tensorflow_devices.on_device(tensor, device) or tensor


def _take_jax(value: Any) -> Any:
    array = value.value if isinstance(value, keras.Variable) else value
    if not keras.ops.is_tensor(array):
        return _copied(value)
    if array.is_fully_replicated:
        array = array.addressable_data(0)
    if not array.is_fully_addressable:
        raise _sharded(value)
    if array.nbytes == 0:
        return _copied(array)
    if (on_device := jax_devices.on_device(array)) is not None:
        return on_device
    if not jax_devices.lends(array):
        return _copied(array)
    array.block_until_ready()
    # JAX does not update an array in place once numpy has a view of it, so numpy gets only the address.
    block = (ctypes.c_uint8 * array.nbytes).from_address(array.unsafe_buffer_pointer())
    return _Borrowed(np.frombuffer(block, np.uint8), array)


def _sharded(value: Any) -> InvalidInputError:
    what = getattr(value, "path", None) or f"an array of the shape {value.shape}"
    return InvalidInputError(
        f"lamina saves from one process, but {what} is sharded over several: replicate it, "
        "or shard it over the devices of one process"
    )


def _take_torch(value: Any) -> Any:
    tensor = value.value if isinstance(value, keras.Variable) else value
    if not keras.ops.is_tensor(tensor):
        return _copied(value)
    import torch

    tensor = tensor.detach()
    if (on_device := torch_devices.on_device(tensor)) is not None:
        return on_device
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    if tensor.device.type == "cpu":
        return _Borrowed(flat.numpy(), flat)
    return flat.cpu().numpy()


_BACKENDS: dict[str, Callable[[Any], Any]] = {
    "tensorflow": _take_tensorflow,
    "jax": _take_jax,
    "torch": _take_torch,
}


#: Whether the memory of a variable's value is borrowed, and so copied into an arena.
_BORROWS: dict[str, Callable[[Any], bool]] = {
    "tensorflow": lambda value: False,
    "jax": lambda value: jax_devices.lends(value.addressable_data(0) if value.is_fully_replicated else value),
    "torch": lambda value: value.device.type == "cpu" and torch_devices.on_device(value) is None,
}

#: What of a variable's value is on accelerators, as `capture` takes it.
_ON_DEVICE: dict[str, Callable[[Any], OnDevice | None]] = {
    "jax": lambda value: jax_devices.on_device(value.addressable_data(0) if value.is_fully_replicated else value),
    "torch": lambda value: torch_devices.on_device(value),
}


def _copied(value: Any) -> Any:
    """A copy of a value that is not in the memory of one device, or is not a tensor."""
    if isinstance(value, np.ndarray):
        return _Borrowed(as_bytes(np.ascontiguousarray(value)), value)
    return as_bytes(np.array(keras.ops.convert_to_numpy(value), order="C", copy=True))


def _bytes(value: Any) -> Bytes:
    return as_bytes(np.ascontiguousarray(np.asarray(value)))


def _is_bytes(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 1


def _size(value: Any) -> int | None:
    if isinstance(value, _Borrowed):
        return value.memory.nbytes
    if isinstance(value, OnDevice):
        return value.nbytes
    return value.nbytes if isinstance(value, np.ndarray) else None
