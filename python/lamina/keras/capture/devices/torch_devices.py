"""The devices of torch.

Updates are in place, so a save copies into one block per device. A stream of its own makes the copy, and an event in
the stream of the training makes the next step wait for it on the device: Python waits for nothing. Then another stream
moves the block to pinned memory of the host, in order, a window after the other. No byte is read before the event
of its window has been synchronised.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lamina.keras.capture.arena import Arena, ArenaPool, Bytes, needed, offsets
from lamina.keras.capture.devices.headroom import Memory
from lamina.keras.capture.devices.interface import (
    IN_FLIGHT,
    PINNING_REFUSED,
    DeviceOutOfMemoryError,
    HostCopy,
    OnDevice,
)

_WINDOW = IN_FLIGHT // 2
#: CUDA's flag for memory that is pinned in every context.
_PORTABLE = 1


def on_device(tensor: Any) -> OnDevice | None:
    """A tensor on a GPU; None if it is somewhere else."""
    if tensor.device.type != "cuda":
        return None
    return OnDevice(tensor, tensor.nbytes, {tensor.device: tensor.nbytes})


@dataclass(frozen=True)
class _Streams:
    """Those of one device that lamina uses beside the training's."""

    copy: Any
    to_host: Any


@dataclass(frozen=True)
class _Piece:
    """A run of one tensor's bytes, and where it goes."""

    device: Any
    source: Any
    target: Any


class TorchDevices:
    """See `lamina.keras.capture.devices.interface.Devices`."""

    def __init__(self) -> None:
        import torch

        self._cuda: Any = torch.cuda
        self._streams: dict[Any, _Streams] = {}
        self._pool = ArenaPool(self._pin)
        self._pins = True

    def memory(self, device: Any) -> Memory | None:
        free, _ = self._cuda.mem_get_info(device)
        return Memory(
            free + self._cuda.memory_reserved(device),
            self._cuda.memory_allocated(device),
            self._cuda.max_memory_allocated(device),
        )

    def copy(self, tensors: Sequence[OnDevice]) -> _Copy:
        import torch

        copies: list[Any] = [None] * len(tensors)
        ready: dict[Any, Any] = {}
        try:
            for device, places in _by_device(tensors).items():
                parts, ready[device] = self._copy([_flat(tensors[i].tensor) for i in places], device)
                for i, part in zip(places, parts, strict=True):
                    copies[i] = part
        except torch.OutOfMemoryError as error:
            raise DeviceOutOfMemoryError(str(error).splitlines()[0]) from error
        return _Copy(self, [one.tensor.device for one in tensors], copies, ready)

    def fetch(self, tensors: Sequence[OnDevice]) -> HostCopy:
        ready = {device: self._now(device) for device in _by_device(tensors)}
        devices = [tensor.tensor.device for tensor in tensors]
        return self.to_host(devices, [_flat(tensor.tensor) for tensor in tensors], ready)

    def to_host(self, devices: Sequence[Any], tensors: Sequence[Any], ready: dict[Any, Any]) -> HostCopy:
        """Move flat tensors to the host; those of a device when its event of ``ready`` has come."""
        arena = self._pool.take([tensor.nbytes for tensor in tensors])
        for device, event in ready.items():
            self._streams_of(device).to_host.wait_event(event)
        try:
            self._move(_pieces(devices, tensors, arena))
        except BaseException:
            self._let_arrive(ready)
            self._pool.release(arena)
            raise
        return HostCopy(list(arena.buffers), lambda: self._pool.release(arena))

    def prepare(self, sizes: Sequence[int]) -> None:
        self._pool.prepare(needed(sizes))

    def release(self) -> None:
        self._pool.clear()

    def _copy(self, tensors: Sequence[Any], device: Any) -> tuple[list[Any], Any]:
        """Copies in one block, and the event of the moment when they are complete."""
        stream, training = self._streams_of(device).copy, self._cuda.current_stream(device)
        stream.wait_stream(training)
        sizes = [tensor.nbytes for tensor in tensors]
        with self._cuda.stream(stream):
            # In this stream, torch's allocator gives the block of the save before.
            block = self._empty(needed(sizes), device)
            parts = [block[at : at + size] for at, size in zip(offsets(sizes), sizes, strict=True)]
            for part, tensor in zip(parts, tensors, strict=True):
                part.copy_(tensor, non_blocking=True)
        complete = self._cuda.Event()
        complete.record(stream)
        training.wait_event(complete)
        return parts, complete

    def _move(self, pieces: Iterator[_Piece]) -> None:
        """Two windows at most are under way, so that the training's own copies find the bus free soon."""
        windows: deque[list[Any]] = deque()
        for window in _windows(pieces):
            windows.append(self._begin(window))
            if len(windows) == 2:
                _synchronize(windows.popleft())
        for events in windows:
            _synchronize(events)

    def _begin(self, window: Sequence[_Piece]) -> list[Any]:
        """Enqueue a window, and give the events of its end."""
        for piece in window:
            with self._cuda.stream(self._streams_of(piece.device).to_host):
                piece.target.copy_(piece.source, non_blocking=True)
        events = []
        for device in dict.fromkeys(piece.device for piece in window):
            events.append(self._cuda.Event(blocking=True))  # a wait that takes no processor time
            events[-1].record(self._streams_of(device).to_host)
        return events

    def _let_arrive(self, devices: dict[Any, Any]) -> None:
        """No copy may write to memory that is given back."""
        for device in devices:
            with contextlib.suppress(Exception):  # what failed has been told
                self._streams_of(device).to_host.synchronize()

    def _now(self, device: Any) -> Any:
        """The event of what the training has enqueued so far."""
        event = self._cuda.Event()
        event.record(self._cuda.current_stream(device))
        return event

    def _streams_of(self, device: Any) -> _Streams:
        if device not in self._streams:
            self._streams[device] = _Streams(self._cuda.Stream(device), self._cuda.Stream(device))
        return self._streams[device]

    def _empty(self, nbytes: int, device: Any) -> Any:
        import torch

        return torch.empty(nbytes, dtype=torch.uint8, device=device)

    def _pin(self, block: Bytes) -> None:
        """Pin memory of the host. torch's own allocator of pinned memory would take up to twice as much."""
        if not self._pins or not block.nbytes:
            return
        runtime, address = self._cuda.cudart(), block.ctypes.data
        status = int(runtime.cudaHostRegister(address, block.nbytes, _PORTABLE))
        if status == 0:
            weakref.finalize(block, runtime.cudaHostUnregister, address).atexit = False
            return
        self._pins = False
        self._clear_error()
        warnings.warn(f"{PINNING_REFUSED}: CUDA error {status}", stacklevel=2)

    def _clear_error(self) -> None:
        """CUDA reports an error again to the next launch of a kernel in this thread, which may be the training's."""
        import torch

        with contextlib.suppress(RuntimeError):
            torch.ones(1, device="cuda")


class _Copy:
    def __init__(self, devices: TorchDevices, places: list[Any], tensors: list[Any], ready: dict[Any, Any]) -> None:
        self._devices = devices
        self._places = places
        self._tensors = tensors
        self._ready = ready

    def fetch(self) -> HostCopy:
        host = self._devices.to_host(self._places, self._tensors, self._ready)
        self._tensors = []
        return host


def _by_device(tensors: Sequence[OnDevice]) -> dict[Any, list[int]]:
    """Positions of the tensors of each device."""
    found: dict[Any, list[int]] = {}
    for i, tensor in enumerate(tensors):
        found.setdefault(tensor.tensor.device, []).append(i)
    return found


def _flat(tensor: Any) -> Any:
    """The bytes of a tensor on its device: no dtype is converted."""
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _pieces(devices: Sequence[Any], tensors: Sequence[Any], arena: Arena) -> Iterator[_Piece]:
    import torch

    for device, source, buffer in zip(devices, tensors, arena.buffers, strict=True):
        target = torch.from_numpy(buffer)
        for start in range(0, source.nbytes, _WINDOW):
            yield _Piece(device, source[start : start + _WINDOW], target[start : start + _WINDOW])


def _windows(pieces: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    """Pieces of `_WINDOW` bytes at most in all."""
    window: list[_Piece] = []
    nbytes = 0
    for piece in pieces:
        if window and nbytes + piece.source.nbytes > _WINDOW:
            yield window
            window, nbytes = [], 0
        window.append(piece)
        nbytes += piece.source.nbytes
    if window:
        yield window


def _synchronize(events: Sequence[Any]) -> None:
    for event in events:
        event.synchronize()
