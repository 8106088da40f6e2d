"""How the tensors of two snapshots differ."""

from __future__ import annotations

from dataclasses import dataclass

from lamina.repository.content import Content
from lamina.repository.tensor import TensorInfo


@dataclass(frozen=True)
class TensorDiff:
    """How a tensor of two snapshots differs: ``"added"``, ``"removed"``, ``"changed"`` or ``"same"``."""

    name: str
    status: str
    nbytes: int
    changed_bytes: int  # in chunks that differ
    before: TensorInfo | None
    after: TensorInfo | None


def diff(before: Content, after: Content) -> list[TensorDiff]:
    """How each tensor changed, the most changed first; of large ones only names are read."""
    names = list(dict.fromkeys([*before.tensors, *after.tensors]))
    moved = _changed_small(before, after)
    return sorted((_of_tensor(name, before, after, moved) for name in names), key=lambda d: -d.changed_bytes)


def _small(tensor: TensorInfo) -> bool:
    """Whether a tensor shares chunks with others, so that their ids say nothing of it alone (docs/format.md §5.2)."""
    return tensor.nbytes < 16 << 10


def _changed_small(before: Content, after: Content) -> set[str]:
    """The small tensors of both whose bytes differ; these are read."""
    both = [(before.tensors[n], after.tensors[n]) for n in before.tensors.keys() & after.tensors.keys()]
    both = [(old, new) for old, new in both if _small(old) and (old.dtype, old.shape) == (new.dtype, new.shape)]
    old_values, new_values = before.read(old for old, _ in both), after.read(new for _, new in both)
    values = zip(both, old_values, new_values, strict=True)
    return {names[1].name for names, old, new in values if old.tobytes() != new.tobytes()}


def _of_tensor(name: str, before: Content, after: Content, moved: set[str]) -> TensorDiff:
    old, new = before.tensors.get(name), after.tensors.get(name)
    if old is None or new is None:
        there = old or new
        assert there is not None
        return TensorDiff(name, "removed" if new is None else "added", there.nbytes, there.nbytes, old, new)
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        return TensorDiff(name, "changed", new.nbytes, new.nbytes, old, new)
    if _small(new):
        changed = new.nbytes if new.name in moved else 0
    else:
        pairs = zip(before.chunks(old), after.chunks(new), strict=True)
        changed = sum(length for (was, _), (now_, length) in pairs if was != now_)
    return TensorDiff(name, "changed" if changed else "same", new.nbytes, changed, old, new)
