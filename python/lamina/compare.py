"""How far the tensors of two sources are from each other; what is equal by its chunks is not read."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from lamina.files.plain import PlainContent
from lamina.repository.content import Content
from lamina.repository.dtypes import as_bytes
from lamina.repository.tensor import TensorInfo, tensor_bytes

AnyContent: TypeAlias = Content | PlainContent
_Pair: TypeAlias = tuple[str, TensorInfo, TensorInfo]
#: Bytes of tensors that are read at once, and elements that are compared at once (in float64, inside a core's cache).
_BATCH, _BLOCK = 128 << 20, 1 << 15
_WINDOW = 8 << 20


@dataclass(frozen=True)
class Change:
    """How a tensor changed. Distances are None where there are none: it is new, gone, of another form, or no number."""

    name: str
    status: str  # "added", "removed", "changed" or "same"
    bytes: int | None
    changed_bytes: int | None  # of elements that are not the same, bit for bit
    l2: float | None  # |after - before| / |before|
    max: float | None  # the largest change of one element
    before: TensorInfo | None
    after: TensorInfo | None


def changes(before: AnyContent, after: AnyContent) -> tuple[list[Change], list[_Pair]]:
    """What is known without reading, and the pairs that must be read."""
    known: list[Change] = []
    pairs: list[_Pair] = []
    for name in dict.fromkeys([*before.tensors, *after.tensors]):
        old, new = before.tensors.get(name), after.tensors.get(name)
        size = tensor_bytes(new or old)  # type: ignore[arg-type]
        if old is None or new is None:
            known.append(Change(name, "added" if old is None else "removed", size, size, None, None, old, new))
        elif (old.dtype, old.shape) != (new.dtype, new.shape):
            known.append(Change(name, "changed", size, size, None, None, old, new))
        elif size == 0 or _equal_chunks(before, old, after, new, size):
            known.append(Change(name, "same", size, 0, 0.0, 0.0, old, new))
        else:
            pairs.append((name, old, new))
    return known, pairs


def measured(
    before: AnyContent, after: AnyContent, pairs: Iterable[_Pair], advance: Callable[[int], None]
) -> Iterator[Change]:
    """Read pairs and compare them."""
    for batch in _batches(pairs):
        arrays = before.read(old for _, old, _ in batch), after.read(new for _, _, new in batch)
        for (name, old, new), a, b in zip(batch, *arrays, strict=True):
            changed, l2, largest = distance(a, b)
            status = "changed" if changed else "same"
            yield Change(name, status, a.nbytes, changed * a.itemsize, l2, largest, old, new)
            advance(a.nbytes)


def distance(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> tuple[int, float | None, float | None]:
    """Elements that differ, the relative L2 distance and the largest difference of two arrays of one form."""
    a, b = a.reshape(-1), b.reshape(-1)
    changed, norm, moved, largest = 0, 0.0, 0.0, 0.0
    wide = _wide(a.dtype)
    with np.errstate(all="ignore"):
        for start in range(0, a.size, _BLOCK):
            x, y = a[start : start + _BLOCK], b[start : start + _BLOCK]
            differs = _differing(x, y)
            changed += int(np.count_nonzero(differs))
            if wide is None:
                continue
            before, steps = x.astype(wide), y.astype(wide)
            steps -= before
            squares = _squares(steps)
            if not math.isfinite(squares):  # what is not finite and did not change has moved by 0
                steps[~differs] = 0
                squares = _squares(steps)
            norm += _squares(before)
            moved += squares
            largest = float(np.maximum(largest, np.abs(steps).max()))
    if not changed:
        return 0, 0.0, 0.0
    if wide is None:
        return changed, None, None
    relative = math.sqrt(moved) / math.sqrt(norm) if norm else (math.inf if moved else moved)
    return changed, relative, largest


def _squares(values: np.ndarray[Any, Any]) -> float:
    """The sum of squares, without BLAS: on a busy machine its threads wait for each other longer than they add."""
    parts = values.view(np.float64)
    return float(np.einsum("i,i", parts, parts))


def _differing(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which elements are not the same, bit for bit."""
    if x.itemsize in (1, 2, 4, 8):
        bits = f"u{x.itemsize}"
        found: np.ndarray[Any, np.dtype[np.bool_]] = x.view(bits) != y.view(bits)
        return found
    return np.asarray((as_bytes(x) != as_bytes(y)).reshape(x.size, -1).any(axis=1))


def changed_files(before: AnyContent, after: AnyContent) -> list[tuple[str, str]]:
    """Files without tensors that are new, gone or not the same; path and status."""
    with_tensors = {tensor.file for content in (before, after) for tensor in content.tensors.values()}
    found = []
    for path in dict.fromkeys([*before.files, *after.files]):
        if path in with_tensors:
            continue  # of which the tensors tell, whatever the file is called
        if path not in before.files or path not in after.files:
            found.append((path, "removed" if path in before.files else "added"))
        elif _differ(before, after, path):
            found.append((path, "changed"))
    return found


def _wide(dtype: np.dtype[Any]) -> Any:
    """What the elements are compared in; None if they are no numbers."""
    if dtype.kind == "c":
        return np.complex128
    numbers = dtype.kind in "biuf" or (dtype.kind == "V" and not dtype.name.startswith("void"))
    return np.float64 if numbers else None


def _equal_chunks(before: AnyContent, old: TensorInfo, after: AnyContent, new: TensorInfo, size: int | None) -> bool:
    """Whether the same chunks make up both; a chunk that holds more than the tensor tells nothing."""
    if not (isinstance(before, Content) and isinstance(after, Content)) or size is None:
        return False
    chunks = before.chunks(old)
    return sum(length for _, length in chunks) == size and chunks == after.chunks(new)


def _batches(pairs: Iterable[_Pair]) -> Iterator[list[_Pair]]:
    batch: list[_Pair] = []
    size = 0
    for pair in pairs:
        batch.append(pair)
        size += tensor_bytes(pair[1]) or 0
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _differ(before: AnyContent, after: AnyContent, path: str) -> bool:
    return before.files[path] != after.files[path] or _digest(before, path) != _digest(after, path)


def _digest(content: AnyContent, path: str) -> bytes:
    digest = hashlib.blake2b()
    for block in _blocks(content, path):
        digest.update(block)
    return digest.digest()


def _blocks(content: AnyContent, path: str) -> Iterator[Any]:
    if isinstance(content, PlainContent):
        yield from _blocks_on_disk(next(file for file, plan in content._plans if plan.path == path))
        return
    file = next(file for file in content._structure["files"] if file["path"] == path)
    window = np.empty(_WINDOW, np.uint8)
    for offset, length in file["extents"]:
        for start in range(0, length, _WINDOW):
            part = window[: min(_WINDOW, length - start)]
            content.reader.read([(offset + start, part)])
            yield part.data


def _blocks_on_disk(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_WINDOW):
            yield block
