"""Distances between the tensors of two sources. Tensors with the same chunks are not read."""

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
from lamina.repository.diff import BLOCK, Known, Pair, batches, differing, sorted_out
from lamina.repository.tensor import TensorInfo, tensor_bytes

AnyContent: TypeAlias = Content | PlainContent
_WINDOW = 8 << 20


@dataclass(frozen=True)
class Change:
    """How a tensor changed. Without a distance (added, removed, another shape or dtype, no numbers) they are None."""

    name: str
    status: str  # "added", "removed", "changed" or "same"
    bytes: int | None
    changed_bytes: int | None  # bytes of the elements that differ in any bit
    l2: float | None  # |after - before| / |before|
    max: float | None  # the largest change of one element
    before: TensorInfo | None
    after: TensorInfo | None


def changes(before: AnyContent, after: AnyContent) -> tuple[list[Change], list[Pair]]:
    """The changes that are known without reading, and the pairs that must be read."""
    known, pairs = sorted_out(before, after)
    return [_of_known(one) for one in known], pairs


def _of_known(one: Known) -> Change:
    size = tensor_bytes(one.after or one.before)  # type: ignore[arg-type]
    changed, distance = (0, 0.0) if one.status == "same" else (size, None)
    return Change(one.name, one.status, size, changed, distance, distance, one.before, one.after)


def measured(
    before: AnyContent, after: AnyContent, pairs: Iterable[Pair], advance: Callable[[int], None]
) -> Iterator[Change]:
    """Read pairs and compare them; ``advance`` is called with the bytes of each."""
    for batch in batches(pairs):
        arrays = before.read(old for _, old, _ in batch), after.read(new for _, _, new in batch)
        for (name, old, new), a, b in zip(batch, *arrays, strict=True):
            changed, l2, largest = distance(a, b)
            status = "changed" if changed else "same"
            yield Change(name, status, a.nbytes, changed * a.itemsize, l2, largest, old, new)
            advance(a.nbytes)


def distance(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> tuple[int, float | None, float | None]:
    """Compare two arrays of the same shape and dtype: number of elements that differ, relative L2 distance
    ``|b - a| / |a|``, and the largest absolute difference. The distances are None for elements that are not numbers.
    """
    a, b = a.reshape(-1), b.reshape(-1)
    changed, norm, moved, largest = 0, 0.0, 0.0, 0.0
    wide = _wide(a.dtype)
    with np.errstate(all="ignore"):
        for start in range(0, a.size, BLOCK):
            x, y = a[start : start + BLOCK], b[start : start + BLOCK]
            differs = differing(x, y)
            changed += int(np.count_nonzero(differs))
            if wide is None:
                continue
            before, steps = x.astype(wide), y.astype(wide)
            steps -= before
            squares = _squares(steps)
            if not math.isfinite(squares):  # an element that is not finite and did not change counts as 0
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
    """The sum of squares, without BLAS, whose threads on a busy machine wait for each other longer than they add."""
    parts = values.view(np.float64)
    return float(np.einsum("i,i", parts, parts))


def changed_files(before: AnyContent, after: AnyContent) -> list[tuple[str, str]]:
    """Files without tensors that were added, removed or changed; path and status."""
    with_tensors = {tensor.file for content in (before, after) for tensor in content.tensors.values()}
    found = []
    for path in dict.fromkeys([*before.files, *after.files]):
        if path in with_tensors:
            continue  # its tensors are compared instead
        if path not in before.files or path not in after.files:
            found.append((path, "removed" if path in before.files else "added"))
        elif _differ(before, after, path):
            found.append((path, "changed"))
    return found


def _wide(dtype: np.dtype[Any]) -> Any:
    """The dtype in which elements are compared; None if they are not numbers."""
    if dtype.kind == "c":
        return np.complex128
    numbers = dtype.kind in "biuf" or (dtype.kind == "V" and not dtype.name.startswith("void"))
    return np.float64 if numbers else None


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
