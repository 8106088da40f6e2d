"""Accelerators that tests can have anywhere: the CPU's devices, taken for ones with memory of their own.

JAX donates, copies and moves between kinds of memory on the CPU as it does elsewhere, and TensorFlow copies on write.
torch gets streams and events whose work is done as late as they allow: who reads before an event sees other bytes.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import pytest

from lamina.keras.capture.devices import stage
from lamina.keras.capture.devices.headroom import Memory
from lamina.keras.capture.devices.interface import OnDevice

PLENTY = Memory(limit=1 << 40, in_use=0, peak=0)
FULL = Memory(limit=1 << 30, in_use=1 << 30, peak=1 << 30)


class Accelerator:
    """What the fake device is like, and what was asked of it."""

    def __init__(self) -> None:
        self.memory: Memory | None = PLENTY  # None: the runtime does not say
        self.out_of_memory = False  # at a copy on the device
        self.fails = False  # on the way to the host
        self.pins = True
        self.copies = 0  # begun on the device


def use_accelerator(monkeypatch: pytest.MonkeyPatch) -> Accelerator:
    """From now on the weights of Keras's backend count as being on an accelerator."""
    accelerator = Accelerator()
    make = {"jax": _of_jax, "tensorflow": _of_tensorflow, "torch": _of_torch}[keras.config.backend()]
    devices = make(monkeypatch, accelerator)
    monkeypatch.setattr(stage, "devices_of_backend", devices)
    return accelerator


def _of_jax(monkeypatch: pytest.MonkeyPatch, accelerator: Accelerator) -> Callable[[], Any]:
    import jax

    from lamina.keras.capture.devices import jax_devices

    class Devices(jax_devices.JaxDevices):
        def memory(self, device: Any) -> Memory | None:
            return accelerator.memory

        def _copies(self, arrays: list[Any]) -> list[Any]:
            if accelerator.out_of_memory:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
            accelerator.copies += 1
            return super()._copies(arrays)

        def _arrive(self, move: Any) -> Any:
            if accelerator.fails:
                raise jax.errors.JaxRuntimeError("INTERNAL: the bus is on fire")
            return super()._arrive(move)

    put = jax.device_put

    def device_put(array: Any, place: Any, *rest: Any, **options: Any) -> Any:
        if not accelerator.pins and getattr(place, "memory_kind", None) == "pinned_host":
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no pinned memory")
        return put(array, place, *rest, **options)

    monkeypatch.setattr(jax, "device_put", device_put)
    monkeypatch.setattr(jax_devices, "is_host", lambda device: False)
    return Devices


def _of_tensorflow(monkeypatch: pytest.MonkeyPatch, accelerator: Accelerator) -> Callable[[], Any]:
    from lamina.keras.capture.devices import tensorflow_devices

    find = tensorflow_devices.on_device

    class Held(tensorflow_devices._Held):
        def fetch(self) -> Any:
            if accelerator.fails:
                raise RuntimeError("the bus is on fire")
            return super().fetch()

    class Devices(tensorflow_devices.TensorflowDevices):
        def memory(self, device: Any) -> Memory | None:
            return accelerator.memory

        def copy(self, tensors: Sequence[OnDevice]) -> Any:
            accelerator.copies += 1
            return super().copy(tensors)

    monkeypatch.setattr(tensorflow_devices, "_Held", Held)
    monkeypatch.setattr(tensorflow_devices, "on_device", lambda tensor, device: find(tensor, "GPU:0"))
    return Devices


def _of_torch(monkeypatch: pytest.MonkeyPatch, accelerator: Accelerator) -> Callable[[], Any]:
    import torch

    from lamina.keras.capture.devices import torch_devices

    class Devices(torch_devices.TorchDevices):
        def __init__(self) -> None:
            super().__init__()
            self._cuda = LateCuda(accelerator)
            self._blocks = _Blocks()

        def _empty(self, nbytes: int, device: Any) -> Any:
            if accelerator.out_of_memory:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 10.00 GiB")
            accelerator.copies += 1
            return torch.from_numpy(self._blocks.take(nbytes))

        def _clear_error(self) -> None:
            """There is no CUDA that remembers one."""

    monkeypatch.setattr(
        torch_devices, "on_device", lambda tensor: OnDevice(tensor, tensor.nbytes, {"gpu": tensor.nbytes})
    )
    return Devices


class _Blocks:
    """Memory of the device. What is freed is given to the next one who asks, whoever may still read it."""

    def __init__(self) -> None:
        self._known: list[tuple[Any, weakref.ref[Any]]] = []

    def take(self, nbytes: int) -> Any:
        for i, (memory, user) in enumerate(self._known):
            if user() is None and memory.nbytes == nbytes:
                del self._known[i]
                break
        else:
            memory = np.empty(nbytes, np.uint8)
        memory[:] = 0xDD
        block = memory[:]  # alive as long as a tensor uses it
        self._known.append((memory, weakref.ref(block)))
        return block


class LateCuda:
    """What lamina uses of `torch.cuda`. Each stream but the training's does nothing before it has to."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._training = _TrainingStream(accelerator)
        self.registered: set[int] = set()

    def Stream(self, device: Any) -> _Stream:
        return _Stream(self._accelerator)

    def Event(self, blocking: bool = False) -> _Event:
        return _Event()

    def current_stream(self, device: Any) -> _Stream:
        return self._training

    @contextmanager
    def stream(self, stream: _Stream) -> Iterator[None]:
        from torch.overrides import TorchFunctionMode

        class Enqueued(TorchFunctionMode):  # type: ignore[misc]
            def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                if getattr(function, "__name__", "") == "copy_" and (kwargs or {}).get("non_blocking"):
                    stream.enqueue_copy(*args)
                    return args[0]
                return function(*args, **(kwargs or {}))

        with Enqueued():
            yield

    def mem_get_info(self, device: Any) -> tuple[int, int]:
        memory = self._accelerator.memory
        if memory is None:
            raise RuntimeError("CUDA error: operation not supported")
        return memory.limit - memory.peak, memory.limit

    def memory_reserved(self, device: Any) -> int:
        assert self._accelerator.memory is not None
        return self._accelerator.memory.peak

    def memory_allocated(self, device: Any) -> int:
        assert self._accelerator.memory is not None
        return self._accelerator.memory.in_use

    def max_memory_allocated(self, device: Any) -> int:
        assert self._accelerator.memory is not None
        return self._accelerator.memory.peak

    def cudart(self) -> LateCuda:
        return self

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:
        if not self._accelerator.pins:
            return 2
        self.registered.add(address)
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        self.registered.remove(address)
        return 0


#: One device works on one thing at a time.
_device = threading.RLock()


class _Stream:
    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._work: deque[Callable[[], None]] = deque()
        self._done = 0

    @property
    def enqueued(self) -> int:
        return self._done + len(self._work)

    def enqueue_copy(self, target: Any, source: Any) -> None:
        # By address: nothing keeps memory alive for a device that is late.
        to, at, nbytes = target.data_ptr(), source.data_ptr(), source.nbytes
        assert target.nbytes == nbytes

        def copy() -> None:
            ctypes.memmove(to, at, nbytes)

        with _device:
            self._work.append(copy)

    def wait_event(self, event: _Event) -> None:
        with _device:
            self._work.append(event.reach)

    def wait_stream(self, other: _Stream) -> None:
        event = _Event()
        event.record(other)
        self.wait_event(event)

    def synchronize(self) -> None:
        self.work_until(self.enqueued)

    def work_until(self, position: int) -> None:
        with _device:
            while self._done < position:
                self._work.popleft()()
                self._done += 1


class _TrainingStream(_Stream):
    """Its work is done at once, as the tensors of the CPU change at once."""

    def wait_event(self, event: _Event) -> None:
        event.reach()


class _Event:
    def __init__(self) -> None:
        self._recorded: tuple[_Stream, int] | None = None

    def record(self, stream: _Stream) -> None:
        self._recorded = (stream, stream.enqueued)
        self._accelerator = stream._accelerator

    def synchronize(self) -> None:
        """Python waits."""
        if self._accelerator.fails:
            raise RuntimeError("CUDA error: the bus is on fire")
        self.reach()

    def reach(self) -> None:
        """The device waits."""
        assert self._recorded is not None
        stream, position = self._recorded
        stream.work_until(position)
