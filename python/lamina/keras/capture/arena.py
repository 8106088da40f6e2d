"""Memory for captures. Fresh pages cost more than the copy, so they are prefaulted and reused."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from lamina.keras.priority import lower_priority

Bytes = npt.NDArray[np.uint8]
#: Each tensor begins on a cache line.
_ALIGNMENT = 64
#: Below this size, starting a thread takes longer than prefaulting.
_WORTH_A_THREAD = 16 << 20
#: Extra space for what a save has besides variables, such as the states of random generators.
_MORE = 1 << 20


class Arena:
    """A block of memory with a buffer per tensor. It uses ``block`` if its size fits, else one of ``make``."""

    def __init__(self, sizes: Sequence[int], make: Callable[[int], Bytes], block: Bytes | None = None) -> None:
        self.sizes = tuple(sizes)
        self.nbytes = needed(sizes)
        if block is None or not self.nbytes <= block.nbytes <= 2 * self.nbytes:
            block = make(self.nbytes)
        memory = block.data
        # One view each: the engine is slow to tell arrays with a common base apart.
        self.buffers: list[Bytes] = [
            np.frombuffer(memory[at : at + size], np.uint8) for at, size in zip(offsets(sizes), sizes, strict=True)
        ]


class ArenaPool:
    """The free arenas. The pipeline limits how many are in use. ``pin`` gets each block of memory that is new."""

    def __init__(self, pin: Callable[[Bytes], None] = lambda block: None) -> None:
        self._pin = pin
        self._free: list[Arena] = []
        self._prefault: _Prefault | None = None
        self._lock = threading.Lock()

    def prepare(self, nbytes: int) -> None:
        """Prefault the memory of the first arena while training continues."""
        with self._lock:
            if nbytes < _WORTH_A_THREAD or self._free or self._prefault is not None:
                return
            prefault = _Prefault(nbytes + nbytes // 64 + _MORE, self._make)
            with contextlib.suppress(RuntimeError):  # no thread can start: the first capture prefaults it
                prefault.start()
                self._prefault = prefault

    def take(self, sizes: Sequence[int]) -> Arena:
        """A free arena with these sizes, or a new one."""
        with self._lock:
            wanted = tuple(sizes)
            fitting = [arena for arena in self._free if arena.sizes == wanted]
            self._free = fitting[:-1]  # other sizes will not be needed again
            prefault, self._prefault = self._prefault, None
        if fitting:
            return fitting[-1]
        return Arena(sizes, self._make, None if prefault is None else prefault.block())

    def release(self, arena: Arena) -> None:
        with self._lock:
            self._free.append(arena)

    def clear(self) -> None:
        """Return the memory to the system."""
        with self._lock:
            self._free.clear()
            self._prefault = None

    def _make(self, nbytes: int) -> Bytes:
        block = _prefaulted(nbytes)
        self._pin(block)
        return block


class _Prefault(threading.Thread):
    """Prefaults a block. A forked child has no such thread, so there it has no block."""

    def __init__(self, nbytes: int, make: Callable[[int], Bytes]) -> None:
        super().__init__(name="lamina-memory")
        self._nbytes = nbytes
        self._make = make
        self._block: Bytes | None = None

    def run(self) -> None:
        lower_priority()
        with contextlib.suppress(MemoryError):  # the capture tries again and raises
            self._block = self._make(self._nbytes)

    def block(self) -> Bytes | None:
        self.join()
        return self._block


def offsets(sizes: Sequence[int]) -> list[int]:
    """Where each buffer begins in a block."""
    return [0, *accumulate(_aligned(size) for size in sizes)][: len(sizes)]


def needed(sizes: Iterable[int]) -> int:
    """The size in bytes of an arena with buffers of these sizes."""
    return sum(_aligned(size) for size in sizes)


def _prefaulted(nbytes: int) -> Bytes:
    block = np.zeros(nbytes, np.uint8)
    block[::4096] = 1  # the first write to a page is the expensive one
    return block


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
