"""Snapshots and tensors in the form that the commands print."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.repository.tensor import tensor_bytes

if TYPE_CHECKING:
    from lamina.repository.repository import Repository
    from lamina.repository.snapshot import Snapshot
    from lamina.repository.tensor import TensorInfo

_SNAPSHOT = (
    *("number", "series", "run", "kind", "created_at", "epoch", "batch", "step", "next_epoch", "logs"),
    *("monitor", "mode", "value", "best", "metadata"),
    *("bytes_total", "bytes_new", "bytes_stored", "blocked_seconds", "capture_seconds", "wait_seconds"),
)


def snapshot_json(snapshot: Snapshot, aliases: list[str] | None = None) -> dict[str, Any]:
    """The fields of a snapshot; pass ``aliases`` if they are already known."""
    fields: dict[str, Any] = {"id": snapshot.id or None}
    fields |= {name: getattr(snapshot, name) for name in _SNAPSHOT}
    return fields | {"aliases": snapshot.aliases if aliases is None else aliases}


def tensor_json(tensor: TensorInfo, name: str | None = None) -> dict[str, Any]:
    """Description of a tensor, without its data; ``name`` is what people know it by."""
    return {
        "name": name or tensor.name,
        "path": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "role": tensor.role,
        "file": tensor.file,
        "bytes": tensor_bytes(tensor),
    }


def shape_of(tensor: TensorInfo) -> str:
    """The shape as text."""
    return "x".join(map(str, tensor.shape)) or "scalar"


def time_of(snapshot: Snapshot) -> str:
    """Save time in UTC, to the second."""
    return snapshot.created_at[:19].replace("T", " ")


def now() -> datetime:
    """The time that ages are counted to."""
    return datetime.now(timezone.utc)


def age_of(snapshot: Snapshot) -> str | None:
    """How long ago it was saved; the day for what is older than two months."""
    try:
        seconds = (now() - datetime.fromisoformat(snapshot.created_at.replace("Z", "+00:00"))).total_seconds()
    except (ValueError, TypeError):  # a plain file, or what another writer takes for a time
        return snapshot.created_at[:10] or None
    for size, unit in ((60, "s"), (60, "min"), (24, "h"), (60, "d")):
        if seconds < size:
            return f"{max(0, int(seconds))} {unit}"
        seconds /= size
    return snapshot.created_at[:10]


def moment(snapshot: Snapshot) -> str | None:
    """Epoch, and batch if it was saved within an epoch."""
    if snapshot.epoch is None:
        return None
    return f"{snapshot.epoch}" if snapshot.batch is None else f"{snapshot.epoch}, batch {snapshot.batch}"


def metric(snapshot: Snapshot) -> str | None:
    """The monitored metric and its value."""
    if snapshot.value is None:
        return None
    return f"{snapshot.monitor or 'value'} {snapshot.value:.5g}{' *' if snapshot.best else ''}"


def repository_at(source: str) -> Repository | None:
    """The repository that stands at a path, or at the address of a bucket; None if the source is something else."""
    from lamina.repository import repository
    from lamina.schemes import bucket_of

    if (bucket := bucket_of(source)) is not None:
        found: Repository | None = bucket.repository_at(source)
        return found
    return repository.open(source) if repository.stands_in(Path(source)) else None
