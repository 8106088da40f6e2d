"""Names, aliases, tags and metadata of artifact versions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal, TypeAlias

import wandb

from lamina.errors import InvalidInputError
from lamina.repository.json_values import plain
from lamina.repository.snapshot import Snapshot

#: wandb's limit of top-level metadata keys, and how many of them a callback's save uses itself.
MAX_METADATA, OWN_METADATA = 100, 18

# What wandb allows.
#: Characters of a collection's name.
MAX_NAME = 128
NAME = re.compile(rf"[a-zA-Z0-9_.-]{{1,{MAX_NAME}}}")
_TAG, _ALIAS = re.compile(r"[-\w]+( +[-\w]+)*"), re.compile(r"[^/:]+")
LAYOUTS = ("file", "packs")
Layout: TypeAlias = Literal["file", "packs"]
_OPTIONS = ("tags", "ttl", "description", "metadata", "aliases", "type")


@dataclass(frozen=True)
class Description:
    """Name, aliases and metadata of a version, without its files."""

    name: str
    type: str = "model"
    aliases: tuple[str, ...] = ("latest",)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    description: str | None = None
    tags: tuple[str, ...] = ()
    ttl: timedelta | None = None  # None: the collection's


def default_name(run: Any) -> str:
    return name_of_run(run, "model")


def name_of_run(run: Any, what: str) -> str:
    """``run_<id>_<what>``, cleaned: a run's id may have characters or a length that W&B forbids in a name."""
    return clean_name(f"run_{run.id}_{what}")


def clean_name(wanted: str) -> str:
    """The nearest name that W&B allows. Different names stay different."""
    if NAME.fullmatch(wanted):
        return wanted
    mark = hashlib.sha256(wanted.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    safe = re.sub(r"[^a-zA-Z0-9_.-]", "_", wanted)
    if len(safe) + 9 > MAX_NAME:
        safe = safe[: MAX_NAME - 9 - 30] + safe[-30:]
    wandb.termwarn(f"W&B does not allow the artifact name {wanted!r}; using {safe}-{mark}", repeat=False)
    return f"{safe}-{mark}"


def aliases_of(epoch: int | None, batch: int | None, *, best: bool) -> list[str]:
    """``latest``, ``epoch_N`` (with ``_batch_N`` inside an epoch; 0-based), and ``best`` if the version improved."""
    names = ["latest"]
    if epoch is not None:
        names.append(f"epoch_{epoch}" if batch is None else f"epoch_{epoch}_batch_{batch}")
    return [*names, "best"] if best else names


def snapshot_metadata(snapshot: Snapshot) -> dict[str, Any]:
    """The metadata of a version with ``layout="packs"``."""
    names = ("epoch", "batch", "step", "monitor", "mode", "value", "best")
    values = {name: getattr(snapshot, name) for name in names}
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
    """Metadata in a form that W&B accepts: numbers that are not finite become text, None is left out."""
    metadata: dict[str, Any] = plain({key: value for key, value in values.items() if value is not None})
    if len(metadata) > MAX_METADATA:
        raise InvalidInputError(f"W&B allows at most {MAX_METADATA} metadata keys. Received: {len(metadata)}")
    return metadata


def stamped(what: Description, saved: Mapping[str, Any]) -> Description:
    """Add when it was saved, which later tells the newer of two versions, unless the user's keys leave no room."""
    metadata = {**what.metadata, "saved": dict(saved)}
    return what if len(metadata) > MAX_METADATA else replace(what, metadata=metadata)


def artifact_options(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Check the argument ``artifact``."""
    if not isinstance(given, Mapping | None):
        raise InvalidInputError(f"artifact takes a dict with {', '.join(_OPTIONS)}. Received: {given!r}")
    options = dict(given or {})
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise InvalidInputError(f"artifact takes {', '.join(_OPTIONS)}. Received: {unknown[0]!r}")
    _check_metadata(options.get("metadata", {}))
    options["tags"] = tags_or_error(options.get("tags") or ())
    options["aliases"] = aliases_or_error(options.get("aliases") or ())
    ttl_or_error(options.get("ttl"))
    return options


def _check_metadata(values: Any) -> None:
    if not isinstance(values, Mapping):
        raise InvalidInputError(f"metadata must be a dict. Received: {values!r}")
    room = MAX_METADATA - OWN_METADATA
    if len(values) > room:
        raise InvalidInputError(
            f"metadata may have at most {room} keys: W&B allows {MAX_METADATA}, and lamina uses {OWN_METADATA}. "
            f"Received: {len(values)}"
        )


def aliases_or_error(aliases: str | Iterable[str]) -> list[str]:
    """One alias, or several, as a list."""
    return _listed("aliases", _ALIAS, aliases)


def tags_or_error(tags: str | Iterable[str]) -> list[str]:
    """One tag, or several, as a list."""
    return _listed("tags", _TAG, tags)


def ttl_or_error(ttl: Any) -> timedelta | None:
    """Check the argument ``ttl``: how long a version is kept; None for the default of the collection."""
    if not isinstance(ttl, timedelta | None) or (ttl is not None and ttl < timedelta(seconds=1)):
        raise InvalidInputError(f"ttl must be a datetime.timedelta of at least one second. Received: {ttl!r}")
    return ttl


def _listed(what: str, pattern: re.Pattern[str], values: str | Iterable[str]) -> list[str]:
    listed = [values] if isinstance(values, str) else list(values)
    if wrong := [value for value in listed if not (isinstance(value, str) and pattern.fullmatch(value))]:
        raise InvalidInputError(f"W&B does not allow {wrong[0]!r} in {what}")
    return listed


def layout_or_error(layout: Any) -> str:
    if layout not in LAYOUTS:
        raise InvalidInputError(f"layout must be 'file' or 'packs'. Received: {layout!r}")
    return str(layout)
