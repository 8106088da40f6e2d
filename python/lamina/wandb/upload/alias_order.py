"""Aliases when versions arrive out of order: newer or better versions keep theirs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from lamina.wandb.description import Description
from lamina.wandb.server import Server


def held_by_others(server: Server, what: Description) -> dict[str, Any]:
    """The aliases that a late version must leave to others: alias → the version that keeps it.

    If the server does not answer, the late version takes its aliases, as it would have in time.
    """
    holders = {alias: server.committed(what.name, alias) for alias in what.aliases}
    return {
        alias: holder
        for alias, holder in holders.items()
        if holder is not None and _stays(alias, dict(holder.metadata), what.metadata)
    }


def without(what: Description, held: Mapping[str, Any]) -> Description:
    """The description without those aliases. ``latest`` remains: wandb gives it to every version that it logs."""
    return replace(what, aliases=tuple(alias for alias in what.aliases if alias == "latest" or alias not in held))


def put_back(server: Server, what: Description, held: Mapping[str, Any]) -> None:
    """Move ``latest`` back to the version that had it."""
    if "latest" not in held:
        return
    version = held["latest"].version
    try:
        holder = server.artifact(f"{server.qualified(what.name)}:{version}")
        holder.aliases.append("latest")
        holder.save()
    except Exception as error:
        warnings.warn(
            f"{what.name}:latest names a late version; could not move it back to {version}: {error}", stacklevel=3
        )


def _stays(alias: str, holder: Mapping[str, Any], late: Mapping[str, Any]) -> bool:
    better = is_as_good(holder, late) if alias == "best" else None
    return is_newer(holder, late) if better is None else better


def is_as_good(holder: Mapping[str, Any], other: Mapping[str, Any]) -> bool | None:
    """Whether the holder of ``best`` is at least as good as another version; None if their metrics differ."""
    if (holder.get("monitor"), holder.get("mode")) != (other.get("monitor"), other.get("mode")):
        return None
    had, has = _number(holder, "value"), _number(other, "value")
    if had is None or has is None:
        return None
    return had >= has if other.get("mode") == "max" else had <= has


def is_newer(holder: Mapping[str, Any], late: Mapping[str, Any]) -> bool:
    """Whether the holder was saved after the late version.

    Snapshot numbers of one repository are reliable. Times may come from the clocks of two machines. Step counts start
    again with each training; versions of older releases have nothing else.
    """
    had, has = _saved(holder), _saved(late)
    if had.get("repository") and had.get("repository") == has.get("repository"):
        numbers = _number(had, "number"), _number(has, "number")
        if numbers[0] is not None and numbers[1] is not None:
            return numbers[0] > numbers[1]
    times = _time(had), _time(has)
    if times[0] is not None and times[1] is not None:
        return times[0] > times[1]
    steps = _number(holder, "step"), _number(late, "step")
    return steps[0] is not None and steps[1] is not None and steps[0] > steps[1]


def _saved(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    saved = metadata.get("saved")
    return saved if isinstance(saved, Mapping) else {}


def _time(saved: Mapping[str, Any]) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(saved["at"]).replace("Z", "+00:00"))
    except (KeyError, ValueError):
        return None
    return moment if moment.tzinfo is not None else None


def _number(metadata: Mapping[str, Any], name: str) -> float | None:
    value = metadata.get(name)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
