"""A file in memory that stores only the pages that were written."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


class SparseImage(io.BytesIO):
    """Replaces the BytesIO of a .keras file's weights; Keras's store requires that type."""

    _PAGE = 4096

    def __init__(self) -> None:
        super().__init__()
        self.size = 0
        self._at = 0
        self._pages: dict[int, bytearray] = {}

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = (0, self._at, self.size)[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def truncate(self, size: int | None = None, /) -> int:
        """Shrink or grow, as a file does; the tensors at the end were not written here."""
        self.size = self._at if size is None else size
        return self.size

    def write(self, data: ReadableBuffer, /) -> int:
        view = memoryview(data).cast("B")
        for at, start, stop in self._spans(self._at, len(view)):
            piece = view[at : at + stop - start]
            page = (self._at + at) // self._PAGE
            if page in self._pages or bytes(piece).strip(b"\0"):
                self._pages.setdefault(page, bytearray(self._PAGE))[start:stop] = piece
        self._at += len(view)
        self.size = max(self.size, self._at)
        return len(view)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        count = max(min(len(view), self.size - self._at), 0)
        for at, start, stop in self._spans(self._at, count):
            page = self._pages.get((self._at + at) // self._PAGE)
            view[at : at + stop - start] = page[start:stop] if page else bytes(stop - start)
        view[count:] = bytes(len(view) - count)
        self._at += count
        return count

    def pieces(self, runs: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """Yield the bytes of each (offset, length)."""
        for offset, length in runs:
            piece = bytearray(length)
            self.seek(offset)
            self.readinto(piece)
            yield bytes(piece)

    def _spans(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Split a run into pages: (position in the run, first byte in the page, end in the page)."""
        done = 0
        while done < length:
            start = (offset + done) % self._PAGE
            count = min(self._PAGE - start, length - done)
            yield done, start, start + count
            done += count
