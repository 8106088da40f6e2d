"""Where the tensors of a version stand in its chunks, so that what versions share need not be read."""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from lamina.reading import Content
from lamina.report.naming import layer_of
from lamina.snapshot import TensorInfo, tensor_bytes

#: Of the bytes of files that no tensor holds.
HEADERS = "(file headers)"
Place: TypeAlias = tuple[tuple[str, ...], int]


class State:
    """The chunks of a version, and what is in them."""

    def __init__(self, content: Content) -> None:
        self.content = content
        chunks = content.reader.chunks(0, (1 << 63) - 1)
        self.ids = [name for name, _ in chunks]
        self.ends = np.cumsum([size for _, size in chunks], dtype=np.int64)
        self.length = int(self.ends[-1]) if chunks else 0
        self.tensors = content.tensors | {f"training/{name}": t for name, t in content.training.items()}

    @cached_property
    def encoded(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Bytes that each chunk takes in its pack."""
        return np.array(self.content.reader.encoded(0, self.length), np.int64)

    @cached_property
    def places(self) -> dict[str, Place]:
        """Tensor → the chunks that hold it, and where in the first one it begins; equal places hold equal bytes."""
        found = {}
        for (name, tensor), (first, last) in zip(self.tensors.items(), self._spans, strict=True):
            start = int(self.ends[first - 1]) if first else 0
            found[name] = tuple(self.ids[first:last]), tensor.offset - start
        return found

    @cached_property
    def sizes(self) -> list[int | None]:
        """Bytes of each tensor; None where its dtype is unknown here."""
        return [tensor_bytes(tensor) for tensor in self.tensors.values()]

    @cached_property
    def _spans(self) -> list[tuple[int, int]]:
        """Which chunks hold each tensor: range of indices."""
        offsets = np.array([tensor.offset for tensor in self.tensors.values()], np.int64)
        sizes = np.array([size or 0 for size in self.sizes], np.int64)
        first = np.searchsorted(self.ends, offsets, "right")
        last = np.searchsorted(self.ends, offsets + sizes, "left") + 1
        last[sizes == 0] = first[sizes == 0]
        return list(zip(first.tolist(), last.tolist(), strict=True))

    def parts(self) -> list[tuple[int, str, int]]:
        """(chunk, layer, bytes of the layer in it) for all bytes of the state."""
        left = np.diff(self.ends, prepend=0)
        found = []
        for (name, tensor), (first, last), size in zip(self.tensors.items(), self._spans, self.sizes, strict=True):
            layer = layer_of(name, tensor)
            for chunk in range(first, last):
                start = int(self.ends[chunk - 1]) if chunk else 0
                part = min(int(self.ends[chunk]), tensor.offset + (size or 0)) - max(start, tensor.offset)
                left[chunk] -= part
                found.append((chunk, layer, part))
        return found + [(chunk, HEADERS, int(left[chunk])) for chunk in np.flatnonzero(left).tolist()]


def same_form(old: TensorInfo, new: TensorInfo) -> bool:
    """Whether elements of both can be compared."""
    return (old.dtype, old.shape) == (new.dtype, new.shape)
