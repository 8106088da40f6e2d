"""A file of a snapshot that is read where somebody looks at it, and nowhere else."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from lamina.repository.content import Reader


class StoredFile(io.RawIOBase):
    """The concatenation of ``extents``, runs of a snapshot's state (docs/format.md §5.1); what is read is verified."""

    def __init__(self, reader: Reader, extents: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self._reader = reader
        self._extents = extents
        self._starts = [0, *accumulate(length for _, length in extents)]
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = max(0, (0, self._at, self._starts[-1])[whence] + offset)
        return self._at

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        array = np.frombuffer(memoryview(buffer), np.uint8)
        wants = []
        done = 0
        while done < array.size and self._at < self._starts[-1]:
            run = bisect_right(self._starts, self._at) - 1
            offset, length = self._extents[run]
            within = self._at - self._starts[run]
            count = min(array.size - done, length - within)
            wants.append((offset + within, array[done : done + count]))
            done += count
            self._at += count
        if wants:
            self._reader.read(wants, 1)
        return done
