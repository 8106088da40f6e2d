"""How the tensors of two snapshots differ. Tensors with the same chunks are not read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from lamina.repository.content import Content
from lamina.repository.dtypes import as_bytes
from lamina.repository.tensor import TensorInfo, tensor_bytes
from lamina.repository.tensor_names import Tensors, shown_names

#: A tensor that both have with the same dtype and shape: its name, and its description before and after.
Pair: TypeAlias = tuple[str, TensorInfo, TensorInfo]
#: Bytes of tensors that are read at once, and elements that are compared at once (so that they fit into a cache).
_BATCH, BLOCK = 128 << 20, 1 << 15


@dataclass(frozen=True)
class TensorDiff:
    """How a tensor differs between two snapshots."""

    name: str
    status: str  # "added", "removed", "changed" or "same"
    nbytes: int
    changed_bytes: int  # bytes of the elements that differ in any bit
    before: TensorInfo | None
    after: TensorInfo | None


class TensorDiffs(list[TensorDiff]):
    """How the tensors of two snapshots differ, the most changed first; a notebook shows a table of it."""

    def _repr_html_(self) -> str:
        from lamina.repository.notebook import diff_html

        return diff_html(self)


@dataclass(frozen=True)
class Known:
    """A tensor that need not be read: added, removed, of another dtype or shape, or with the same chunks."""

    name: str
    status: str
    before: TensorInfo | None
    after: TensorInfo | None


class HasTensors(Protocol):
    """The content of a snapshot or of plain files."""

    @property
    def tensors(self) -> Tensors: ...


def diff(before: Content, after: Content) -> TensorDiffs:
    """How each tensor changed, the largest change in bytes first."""
    known, pairs = sorted_out(before, after)
    found = [_of_known(one) for one in known]
    for batch in batches(pairs):
        arrays = before.read(old for _, old, _ in batch), after.read(new for _, _, new in batch)
        for (name, old, new), a, b in zip(batch, *arrays, strict=True):
            changed = _changed_elements(a.reshape(-1), b.reshape(-1)) * a.itemsize
            found.append(TensorDiff(name, "changed" if changed else "same", new.nbytes, changed, old, new))
    return TensorDiffs(sorted(found, key=lambda d: (-d.changed_bytes, d.name)))


def sorted_out(before: HasTensors, after: HasTensors) -> tuple[list[Known], list[Pair]]:
    """The tensors whose result is known without reading, and the pairs that must be read.

    Tensors are paired by the path in the file, because Keras numbers the names of layers anew in each process.
    """
    known: list[Known] = []
    pairs: list[Pair] = []
    olds, news = before.tensors.by_path, after.tensors.by_path
    names = shown_names(olds | {path: new for path, new in news.items() if new.variable or path not in olds})
    for path, name in names.items():
        old, new = olds.get(path), news.get(path)
        if old is None or new is None:
            known.append(Known(name, "added" if old is None else "removed", old, new))
        elif (old.dtype, old.shape) != (new.dtype, new.shape):
            known.append(Known(name, "changed", old, new))
        elif _equal_chunks(before, old, after, new):
            known.append(Known(name, "same", old, new))
        else:
            pairs.append((name, old, new))
    return known, pairs


def batches(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """Group pairs into batches that are read at once."""
    batch: list[Pair] = []
    size = 0
    for pair in pairs:
        batch.append(pair)
        size += tensor_bytes(pair[1]) or 0
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def differing(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which elements differ in any bit; a boolean array of ``x.size`` elements."""
    if x.itemsize in (1, 2, 4, 8):
        bits = f"u{x.itemsize}"
        found: np.ndarray[Any, np.dtype[np.bool_]] = x.view(bits) != y.view(bits)
        return found
    return np.asarray((as_bytes(x) != as_bytes(y)).reshape(x.size, -1).any(axis=1))


def _changed_elements(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> int:
    blocks = range(0, a.size, BLOCK)
    return sum(int(np.count_nonzero(differing(a[at : at + BLOCK], b[at : at + BLOCK]))) for at in blocks)


def _equal_chunks(before: object, old: TensorInfo, after: object, new: TensorInfo) -> bool:
    """Whether both consist of the same chunks; False if a chunk also holds other bytes."""
    size = tensor_bytes(new)
    if size == 0:
        return True
    if not (isinstance(before, Content) and isinstance(after, Content)) or size is None:
        return False
    chunks = before.chunks(old)
    return sum(length for _, length in chunks) == size and chunks == after.chunks(new)


def _of_known(one: Known) -> TensorDiff:
    there = one.after or one.before
    assert there is not None
    changed = 0 if one.status == "same" else there.nbytes
    return TensorDiff(one.name, one.status, there.nbytes, changed, one.before, one.after)
