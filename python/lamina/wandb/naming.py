"""How artifact versions are called, and what their page says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lamina.errors import InvalidInputError
from lamina.snapshot import Snapshot, plain

#: wandb's limit of top-level keys; ours are fewer than this.
MAX_METADATA = 100

LAYOUTS = ("file", "packs")
_OPTIONS = ("tags", "ttl", "description", "metadata", "aliases", "type")


@dataclass(frozen=True)
class Description:
    """What a version is called and what is said of it; its content comes apart."""

    name: str
    type: str = "model"
    aliases: tuple[str, ...] = ("latest",)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    description: str | None = None
    tags: tuple[str, ...] = ()
    ttl: Any = None  # timedelta; None: the collection's


def default_name(run: Any) -> str:
    return f"run_{run.id}_model"


def aliases_of(epoch: int | None, batch: int | None, *, best: bool) -> list[str]:
    """``latest`` and the moment, 0-based; ``best`` moves to a version that improved."""
    names = ["latest"]
    if epoch is not None:
        names.append(f"epoch_{epoch}" if batch is None else f"epoch_{epoch}_batch_{batch}")
    return [*names, "best"] if best else names


def snapshot_metadata(snapshot: Snapshot) -> dict[str, Any]:
    """What the page of a version with ``layout="packs"`` shows."""
    values = {name: getattr(snapshot, name) for name in ("epoch", "batch", "step", "monitor", "value", "best")}
    sizes = {name: getattr(snapshot, name) for name in ("bytes_total", "bytes_new", "bytes_stored")}
    more = {
        "logs": snapshot.logs,
        "blocked_seconds": snapshot.blocked_seconds,
        "snapshot": snapshot.id,
        "series": snapshot.series,
        "kind": snapshot.kind,
        "software": snapshot.software,
        "layout": "packs",
    }
    return values | sizes | more | snapshot.metadata


def metadata_for_wandb(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what W&B refuses: numbers that are not finite (as text) and nothing for None."""
    metadata: dict[str, Any] = plain({key: value for key, value in values.items() if value is not None})
    if len(metadata) > MAX_METADATA:
        raise InvalidInputError(f"W&B takes {MAX_METADATA} keys of metadata at most. Received: {len(metadata)}")
    return metadata


def artifact_options(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Checks the argument ``artifact``."""
    options = dict(given or {})
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise InvalidInputError(f"artifact takes {', '.join(_OPTIONS)}. Received: {unknown[0]!r}")
    for name in ("tags", "aliases"):
        if isinstance(options.get(name), str):
            options[name] = [options[name]]
    return options


def layout_or_error(layout: Any) -> str:
    if layout not in LAYOUTS:
        raise InvalidInputError(f"layout must be 'file' or 'packs'. Received: {layout!r}")
    return str(layout)
