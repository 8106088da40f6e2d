"""A version that arrives late: what newer or better ones are called stays theirs."""

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
    """Of the aliases of a late version, those that stay where they are, and the versions that have them.

    Where the server cannot say, it takes them, as it would have done in time.
    """
    holders = {alias: server.committed(what.name, alias) for alias in what.aliases}
    return {
        alias: holder
        for alias, holder in holders.items()
        if holder is not None and _stays(alias, dict(holder.metadata), what.metadata)
    }


def without(what: Description, held: Mapping[str, Any]) -> Description:
    """``latest`` remains: wandb's client gives it to whatever it logs."""
    return replace(what, aliases=tuple(alias for alias in what.aliases if alias == "latest" or alias not in held))


def put_back(server: Server, what: Description, held: Mapping[str, Any]) -> None:
    """``latest`` goes back to the version that had it."""
    if "latest" not in held:
        return
    version = held["latest"].version
    try:
        holder = server.artifact(f"{server.qualified(what.name)}:{version}")
        holder.aliases.append("latest")
        holder.save()
    except Exception as error:
        warnings.warn(f"{what.name}:latest is the version that came late, not {version}: {error}", stacklevel=3)


def _stays(alias: str, holder: Mapping[str, Any], late: Mapping[str, Any]) -> bool:
    better = is_as_good(holder, late) if alias == "best" else None
    return _newer(holder, late) if better is None else better


def is_as_good(holder: Mapping[str, Any], other: Mapping[str, Any]) -> bool | None:
    """Whether the holder of ``best`` keeps it; None where the two were not judged by the same metric."""
    if (holder.get("monitor"), holder.get("mode")) != (other.get("monitor"), other.get("mode")):
        return None
    had, has = _number(holder, "value"), _number(other, "value")
    if had is None or has is None:
        return None
    return had >= has if other.get("mode") == "max" else had <= has


def _newer(holder: Mapping[str, Any], late: Mapping[str, Any]) -> bool:
    """Whether the holder was saved after the late one.

    Numbers of one repository cannot be wrong. Times are those of clocks, perhaps of two machines. Steps begin anew with
    each training, and are all that versions of older releases have.
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
