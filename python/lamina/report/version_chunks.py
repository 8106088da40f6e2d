"""Which chunks hold the tensors of a version, so that what versions share need not be read."""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from lamina.report.layer_names import HEADERS, layer_of
from lamina.repository.content import Content
from lamina.repository.tensor import tensor_bytes

_Numbers: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
ChunkSpan: TypeAlias = tuple[tuple[str, ...], int]


class Form:
    """The tensors and the chunk boundaries of a version; most versions of a series share them."""

    def __init__(self, content: Content, ends: _Numbers) -> None:
        self.structure, self.ends = content._structure, ends
        self.tensors = content.tensors.by_path | {f"training/{name}": t for name, t in content.training.items()}
        # None if numpy does not know the dtype.
        self.sizes = [tensor_bytes(tensor) for tensor in self.tensors.values()]

    def fits(self, content: Content, ends: _Numbers) -> bool:
        """Whether another version has the same tensors and boundaries."""
        return np.array_equal(self.ends, ends) and self.structure == content._structure

    @cached_property
    def spans(self) -> tuple[_Numbers, _Numbers]:
        """The range of chunks that hold each tensor: first, last + 1."""
        offsets = np.array([tensor.offset for tensor in self.tensors.values()], np.int64)
        sizes = np.array([size or 0 for size in self.sizes], np.int64)
        first = np.searchsorted(self.ends, offsets, "right")
        last = np.where(sizes, np.searchsorted(self.ends, offsets + sizes, "left") + 1, first)
        return first, last

    @cached_property
    def parts(self) -> list[tuple[int, str, int]]:
        """(chunk, layer, bytes of the layer in the chunk) for all bytes of the state."""
        left = np.diff(self.ends, prepend=0)
        found = []
        spans = zip(*(span.tolist() for span in self.spans), strict=True)
        for (name, tensor), size, (first, last) in zip(self.tensors.items(), self.sizes, spans, strict=True):
            layer = layer_of(name, tensor)
            for chunk in range(first, last):
                part = min(int(self.ends[chunk]), tensor.offset + (size or 0)) - max(self.start(chunk), tensor.offset)
                left[chunk] -= part
                found.append((chunk, layer, part))
        return found + [(chunk, HEADERS, int(left[chunk])) for chunk in np.flatnonzero(left).tolist()]

    def start(self, chunk: int) -> int:
        """The offset of a chunk in the state."""
        return int(self.ends[chunk - 1]) if chunk else 0


class VersionChunks:
    """The chunks of a version; it shares the `Form` of ``before``, if it fits."""

    def __init__(self, content: Content, before: VersionChunks | None = None) -> None:
        chunks = content.reader.chunks(0, (1 << 63) - 1)
        ends = np.cumsum([size for _, size in chunks], dtype=np.int64)
        self.content = content
        self.ids = [name for name, _ in chunks]
        fits = before is not None and before.form.fits(content, ends)
        self.form: Form = before.form if before is not None and fits else Form(content, ends)

    @property
    def length(self) -> int:
        """Bytes of the state."""
        return int(self.form.ends[-1]) if self.ids else 0

    @cached_property
    def encoded(self) -> _Numbers:
        """Bytes that each chunk takes in its pack."""
        return np.array(self.content.reader.encoded(0, self.length), np.int64)

    def same_as(self, before: VersionChunks) -> list[bool]:
        """For each tensor, whether its chunks are the same as before; then its bytes are, too."""
        if before.form is self.form:
            differ = [new != old for new, old in zip(self.ids, before.ids, strict=True)]
            changes = np.cumsum([False, *differ])
            first, last = self.form.spans
            same: list[bool] = (changes[last] == changes[first]).tolist()
            return same
        old = before.spans_by_name
        return [span == old.get(name) for name, span in self.spans_by_name.items()]

    @property
    def spans_by_name(self) -> dict[str, ChunkSpan]:
        """Tensor → the chunks that hold it, and its offset in the first one."""
        spans = zip(*(span.tolist() for span in self.form.spans), strict=True)
        return {
            name: (tuple(self.ids[first:last]), tensor.offset - self.form.start(first))
            for (name, tensor), (first, last) in zip(self.form.tensors.items(), spans, strict=True)
        }
