"""`lamina diff`: which tensors changed between two sources, and by how much."""

from __future__ import annotations

import math
from collections import Counter
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamina.cli.command import SOURCES, AsJson, verb
from lamina.cli.describe import shape_of
from lamina.cli.output import human, print_json, print_table, progress
from lamina.repository.tensor import tensor_bytes

if TYPE_CHECKING:
    from lamina.compare import Change
    from lamina.repository.tensor import TensorInfo


class Order(str, Enum):
    """Sort order of the tensors, largest first."""

    l2 = "l2"
    max = "max"
    bytes = "bytes"
    name = "name"


@verb(
    "diff",
    example="lamina diff runs/a@epoch_3 runs/a@best",
    keys="a, b, counts (added, removed, changed, same), tensors (name, status, bytes, changed_bytes, l2, max, "
    "before and after: dtype, shape), files (path, status; those without tensors that changed)",
)
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help=SOURCES, show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="Same forms as A.", show_default=False)],
    sort: Annotated[
        Order,
        typer.Option("--sort", metavar="ORDER", help="l2 (relative distance), max, bytes (changed ones) or name."),
    ] = Order.l2,
    everything: Annotated[bool, typer.Option("--all", help="Also list unchanged tensors.")] = False,
    weights: Annotated[bool, typer.Option("--weights", "-w", help="Leave out the optimizer's state.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show which tensors changed from A to B: changed bytes, relative L2 distance, largest change of an element.

    Weights come first, then the optimizer's state.
    """
    found, files = _compared(a, b, weights)
    listed = sorted((c for c in found if everything or c.status != "same"), key=lambda c: _key(c, sort))
    counts = Counter(change.status for change in found)
    if as_json:
        numbers = {status: counts[status] for status in ("added", "removed", "changed", "same")}
        changed_files = [{"path": path, "status": status} for path, status in files]
        tensors = [_json(change) for change in listed]
        print_json({"a": a, "b": b, "counts": numbers, "tensors": tensors, "files": changed_files})
        return
    if listed:
        print_table(["tensor", "change", ">size", ">changed", ">l2", ">max"], [_row(change) for change in listed])
    if files:
        print_table(["file", "change"], files)
    print(_summary(counts, len(found), len(files)))


def _compared(a: str, b: str, weights: bool) -> tuple[list[Change], list[tuple[str, str]]]:
    from lamina.compare import changed_files, changes, measured
    from lamina.sources import resolve

    before, after = resolve(a).content, resolve(b).content
    known, pairs = changes(before, after)
    if weights:
        known = [change for change in known if _is_weight(change.after or change.before)]
        pairs = [pair for pair in pairs if _is_weight(pair[2])]
    with progress("comparing", sum(tensor_bytes(old) or 0 for _, old, _ in pairs)) as advance:
        read = list(measured(before, after, pairs, advance))
    with progress("comparing files"):
        files = changed_files(before, after)
    return [*known, *read], files


def _key(change: Change, order: Order) -> tuple[Any, ...]:
    later = not _is_weight(change.after or change.before)
    if order is Order.name:
        return (later, change.name)
    value = change.changed_bytes if order is Order.bytes else getattr(change, order.value)
    # Tensors without a distance, or with NaN, come first: people look for them.
    size = math.inf if value is None or math.isnan(value) else float(value)
    return (later, change.status == "same", -size, change.name)


def _is_weight(tensor: TensorInfo | None) -> bool:
    return tensor is not None and tensor.role == "weights"


def _row(change: Change) -> list[object]:
    distances = [None if d is None else f"{d:.3g}" for d in (change.l2, change.max)]
    how = change.status
    if change.before and change.after and _form(change.before) != _form(change.after):
        how = f"{_form(change.before)} → {_form(change.after)}"
    return [change.name, how, human(change.bytes), human(change.changed_bytes), *distances]


def _form(tensor: TensorInfo) -> str:
    return f"{tensor.dtype} {shape_of(tensor)}"


def _json(change: Change) -> dict[str, Any]:
    names = ("name", "status", "bytes", "changed_bytes", "l2", "max")
    forms = {
        side: None if tensor is None else {"dtype": tensor.dtype, "shape": list(tensor.shape)}
        for side, tensor in (("before", change.before), ("after", change.after))
    }
    return {name: getattr(change, name) for name in names} | forms


def _summary(counts: Counter[str], tensors: int, files: int) -> str:
    if counts["same"] == tensors and not files:
        return f"no difference in {tensors} tensors"
    parts = [f"{counts[status]} {status}" for status in ("changed", "added", "removed", "same")]
    return f"{tensors} tensors: {', '.join(parts)}"
