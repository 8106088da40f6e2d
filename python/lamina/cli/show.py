"""`lamina show`: describe one snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lamina.cli.command import AsJson, Source, verb
from lamina.cli.describe import moment, shape_of, snapshot_json, tensor_json, time_of
from lamina.cli.output import clean, human, number, print_fields, print_json, print_table
from lamina.repository.tensor import tensor_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lamina.files.plain import Opened
    from lamina.repository.snapshot import Snapshot
    from lamina.repository.tensor import TensorInfo

_KEYS = (
    "source, snapshot (id, number, series, run, kind, created_at, epoch, batch, step, next_epoch, logs, monitor, mode, "
    "value, best, metadata, bytes_total, bytes_new, bytes_stored, blocked_seconds, capture_seconds, wait_seconds, "
    "aliases), files (path, bytes), tensors (name, path in the file, dtype, shape, role, file, bytes), training, "
    "training_tensors, software"
)


@verb("show", example="lamina show runs/a@best --tensors", keys=_KEYS)
def show(
    source: Source,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TENSOR]...",
            help="List these tensors alone: encoder/kernel, layers/dense/vars/0, or encoder for all below it.",
            show_default=False,
        ),
    ] = None,
    tensors: Annotated[bool, typer.Option("--tensors", "-t", help="List the tensors.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a snapshot: origin, contents and cost."""
    from lamina.sources import resolve

    opened = resolve(source)
    listed = opened.content.tensors.find(names) if names else dict(opened.content.tensors)
    if as_json:
        print_json({"source": source} | _json(opened, listed))
        return
    if names:
        _print_tensors(listed)
        return
    print_fields(_fields(opened))
    print()
    print_table(["file", ">size"], [(path, human(size)) for path, size in opened.content.files.items()])
    if tensors:
        print()
        _print_tensors(listed)


def _print_tensors(tensors: Mapping[str, TensorInfo]) -> None:
    rows = [(name, t.dtype, shape_of(t), human(tensor_bytes(t)), t.role) for name, t in tensors.items()]
    print_table(["tensor", "dtype", ">shape", ">size", "role"], rows)


def _json(opened: Opened, tensors: Mapping[str, TensorInfo]) -> dict[str, object]:
    snapshot, content = opened.snapshot, opened.content
    return {
        "snapshot": snapshot_json(snapshot),
        "files": [{"path": path, "bytes": size} for path, size in content.files.items()],
        "tensors": [tensor_json(tensor, name) for name, tensor in tensors.items()],
        "training": snapshot.training,
        "training_tensors": [tensor_json(tensor) for tensor in content.training.values()],
        "software": snapshot.software,
    }


def _fields(opened: Opened) -> list[tuple[str, object]]:
    s = opened.snapshot
    logs = ", ".join(f"{clean(name)} {number(value)}" for name, value in s.logs.items())
    metadata = ", ".join(f"{clean(name)}={clean(value)}" for name, value in s.metadata.items())
    software = ", ".join(f"{clean(name)} {clean(version)}" for name, version in s.software.items())
    better = f" ({s.mode})" if s.mode else ""
    monitored = s.value is not None
    saved = bool(s.id)  # a plain file has no metadata
    return [
        ("snapshot", s.id),
        ("number", s.number),
        ("series", s.series),
        ("run", s.run),
        ("kind", s.kind),
        ("created", f"{time_of(s)} UTC" if saved else None),
        ("epoch", moment(s)),
        ("step", s.step),
        ("next epoch", s.next_epoch),
        ("monitor", f"{s.monitor}{better} {number(s.value)}" if monitored else s.monitor),
        ("best", ("yes" if s.best else "no") if monitored else None),
        ("logs", logs),
        ("aliases", ", ".join(s.aliases)),
        ("metadata", metadata),
        ("software", software),
        ("size", human(s.bytes_total)),
        ("new", human(s.bytes_new) if saved else None),
        ("stored", human(s.bytes_stored) if saved else None),
        ("blocked", _blocked(s) if saved else None),
        ("tensors", len(opened.content.tensors)),
        ("training state", ", ".join([*s.training, *opened.content.training])),
    ]


def _blocked(snapshot: Snapshot) -> str:
    total = f"{snapshot.blocked_seconds:.3g} s"
    if snapshot.capture_seconds is None or snapshot.wait_seconds is None:
        return total
    return f"{total}: {snapshot.capture_seconds:.3g} s capture, {snapshot.wait_seconds:.3g} s wait for an earlier save"
