"""How much of a device's memory training leaves free, also at its peak."""

from __future__ import annotations

from dataclasses import dataclass

#: Allocators round up and leave gaps.
MARGIN = 256 << 20


@dataclass(frozen=True)
class Memory:
    """Memory of a device in bytes, as its runtime tells."""

    limit: int  # what this process may use
    in_use: int
    peak: int  # the most that was in use so far


class Headroom:
    """What a copy on a device may take.

    The step after a save needs its activations beside the copy, so the peak counts and not what is in use at the save.
    """

    def __init__(self) -> None:
        self._peak_before: int | None = None  # the first copy
        self._copied = 0

    def missing(self, memory: Memory, nbytes: int) -> int:
        """How many bytes are missing for a copy of ``nbytes``; 0 if there is room."""
        if self._peak_before is None:
            self._peak_before = memory.peak
        # From the first copy on, the runtime's peak may include one.
        training = max(memory.in_use, self._peak_before, memory.peak - self._copied)
        return max(nbytes + MARGIN - (memory.limit - training), 0)

    def add(self, nbytes: int) -> None:
        """A copy of this size is made."""
        self._copied = max(self._copied, nbytes)
