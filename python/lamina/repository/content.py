"""The verified content of a snapshot: its files and tensors."""

from __future__ import annotations

import io
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

from lamina.repository import memory
from lamina.repository.dtypes import as_bytes, to_numpy
from lamina.repository.tensor import TensorInfo
from lamina.repository.tensor_names import NamedArrays, Tensors
from lamina.schemes import native_path

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: Makes an array of a shape and dtype, as `numpy.empty` does.
Empty = Callable[[tuple[int, ...], np.dtype[Any]], np.ndarray[Any, Any]]


class StateReader(Protocol):
    """Reads the state of one snapshot: the engine's reader, or one that downloads first what it reads."""

    def structure(self) -> str: ...

    def read(self, wants: Sequence[tuple[int, np.ndarray[Any, np.dtype[np.uint8]]]], threads: int = 0) -> None: ...

    def export(self, folder: Path, threads: int = 0) -> list[Path]: ...

    def chunks(self, offset: int, length: int) -> list[tuple[str, int]]: ...

    def encoded(self, offset: int, length: int) -> list[int]: ...

    def packs(self) -> list[str]: ...


#: Bytes that a verify reads at once; enough chunks for all threads.
_WINDOW = 64 << 20


class Content:
    """The content of a snapshot. Reads go directly into their destination, and every byte is verified."""

    def __init__(self, reader: StateReader) -> None:
        self.reader = reader
        self._structure: dict[str, Any] = json.loads(reader.structure())

    @cached_property
    def files(self) -> dict[str, int]:
        """Path → bytes."""
        return {file["path"]: file["size"] for file in self._structure["files"]}

    @cached_property
    def tensors(self) -> Tensors:
        """Tensors of all files."""
        return Tensors([tensor for file in self._structure["files"] for tensor in _tensors(file)])

    @cached_property
    def training(self) -> dict[str, TensorInfo]:
        """Tensors of the training state by name."""
        return {entry[0]: _info(entry, None) for entry in self._structure["training"]}

    def read(
        self, tensors: Iterable[TensorInfo], *, threads: int = 0, empty: Empty = memory.empty
    ) -> list[np.ndarray[Any, Any]]:
        """Read tensors in parallel, each into new memory from ``empty``."""
        wanted = list(tensors)
        arrays = [empty(tensor.shape, to_numpy(tensor.dtype)) for tensor in wanted]
        self.reader.read(
            [(tensor.offset, as_bytes(array)) for tensor, array in zip(wanted, arrays, strict=True) if array.size],
            threads,
        )
        return arrays

    def read_part(self, tensor: TensorInfo, start: int, into: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Read bytes of a tensor from ``start`` on, as many as ``into`` has."""
        self.reader.read([(tensor.offset + start, into)])

    def read_named(self, names: Iterable[str] | None = None, *, threads: int = 0) -> dict[str, np.ndarray[Any, Any]]:
        """Read the tensors of these names, or all of them."""
        wanted = self.tensors if names is None else self.tensors.find(names)
        return NamedArrays(wanted, self.read(wanted.values(), threads=threads), self.tensors)

    def export(self, directory: Path, *, threads: int = 0) -> list[Path]:
        """Write the original files, byte for byte; each is complete or absent."""
        return [native_path(path) for path in self.reader.export(directory, threads)]

    def verify(self, length: int, advance: Callable[[int], None] = lambda _: None) -> None:
        """Read and check all ``length`` bytes; ``advance`` is called with the number of bytes after each step."""
        window = np.empty(min(length, _WINDOW), np.uint8)
        for start in range(0, length, _WINDOW):
            part = window[: min(_WINDOW, length - start)]
            self.reader.read([(start, part)])
            advance(part.size)

    def open(self, path: str) -> BinaryIO:
        """Open one of the files for reading; only what is read is loaded."""
        extents = next(file["extents"] for file in self._structure["files"] if file["path"] == path)
        return io.BufferedReader(_StoredFile(self.reader, extents))

    def chunks(self, tensor: TensorInfo) -> list[tuple[str, int]]:
        """Ids and lengths of the chunks that hold a tensor."""
        return self.reader.chunks(tensor.offset, tensor.nbytes)


class _StoredFile(io.RawIOBase):
    """A stored file as a file object: its ``extents`` one after another (docs/format.md §5.1). Reads are verified."""

    def __init__(self, reader: StateReader, extents: Sequence[tuple[int, int]]) -> None:
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


def _tensors(file: dict[str, Any]) -> list[TensorInfo]:
    entries = file["tensors"]
    variables = file.get("variables") or [None] * len(entries)
    return [_info(entry, file["path"], variable) for entry, variable in zip(entries, variables, strict=True)]


def _info(entry: list[Any], file: str | None, variable: str | None = None) -> TensorInfo:
    name, dtype, shape, role, offset = entry
    return TensorInfo(name, dtype, tuple(shape), role, file, offset, variable)
