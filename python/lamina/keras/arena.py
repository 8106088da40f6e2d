"""Memory for captures: fresh pages cost more than the copy, so it is touched once and used again."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
#: Every tensor begins on a cache line.
_ALIGNMENT = 64


class Arena:
    """One block of memory, cut into a buffer per tensor."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self.nbytes = sum(_aligned(size) for size in sizes)
        block = np.zeros(self.nbytes, np.uint8)
        block[::4096] = 1  # the first write to a page is what costs
        memory = block.data
        self.buffers: list[Bytes] = []
        offset = 0
        for size in sizes:
            # A view of its own each: the engine tells arrays with a common base apart only slowly.
            self.buffers.append(np.frombuffer(memory[offset : offset + size], np.uint8))
            offset += _aligned(size)


class Arenas:
    """Arenas that are free; how many are in use is the pipeline's concern."""

    def __init__(self) -> None:
        self._free: list[Arena] = []
        self._lock = threading.Lock()

    def take(self, sizes: Sequence[int]) -> Arena:
        """A free arena of this form, or a new one."""
        with self._lock:
            wanted = tuple(sizes)
            fitting = [arena for arena in self._free if arena.sizes == wanted]
            self._free = fitting[:-1]  # those of another form will not be asked for again
        return fitting[-1] if fitting else Arena(sizes)

    def give_back(self, arena: Arena) -> None:
        with self._lock:
            self._free.append(arena)

    def clear(self) -> None:
        """Return the memory to the system."""
        with self._lock:
            self._free.clear()


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
