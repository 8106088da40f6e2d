"""A version that arrives late: what newer or better ones are called stays theirs."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lamina.wandb.naming import Description
from lamina.wandb.server import Server

#: Names of a moment belong to one version only.
_MOMENT = re.compile(r"epoch_\d+(_batch_\d+)?")


def held_by_others(server: Server, what: Description) -> dict[str, Any]:
    """Of the aliases of a late version, those that stay where they are, and the versions that have them.

    Where the server cannot say, it takes them, as it would have done in time.
    """
    wanted = [alias for alias in what.aliases if not _MOMENT.fullmatch(alias)]
    holders = {alias: server.committed(what.name, alias) for alias in wanted}
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
    if alias == "best" and (holder.get("monitor"), holder.get("mode")) == (late.get("monitor"), late.get("mode")):
        had, has = _number(holder, "value"), _number(late, "value")
        if had is not None and has is not None:
            return had >= has if late.get("mode") == "max" else had <= has
    had, has = _number(holder, "step"), _number(late, "step")
    return had is not None and has is not None and had > has


def _number(metadata: Mapping[str, Any], name: str) -> float | None:
    value = metadata.get(name)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
