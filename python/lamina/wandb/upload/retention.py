"""Retention on the server: which versions of a collection are deleted. In doubt, a version stays."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lamina.repository.keep import Keep
from lamina.wandb.description import LAYOUTS
from lamina.wandb.upload.journal import Record, records
from lamina.wandb.upload.publisher import Publisher

_COMPUTED = re.compile(r"latest|best|epoch_\d+(_batch_\d+)?")


@dataclass(frozen=True)
class LoggedVersion:
    """A committed version that lamina logged, and its metadata."""

    number: int
    artifact: Any
    metadata: Mapping[str, Any]

    @property
    def value(self) -> float | None:
        value = self.metadata.get("value")
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None

    @property
    def criterion(self) -> tuple[Any, Any]:
        return self.metadata.get("monitor"), self.metadata.get("mode")


def apply(keep: Keep, newest: Any, publisher: Publisher) -> list[str]:
    """Delete the versions that ``keep`` does not keep; returns the names of the deleted ones.

    Call it on the publisher's thread, so that no version is logged meanwhile.
    """
    versions = _versions(publisher, newest)
    held = held_numbers(keep, versions)
    births = {entry.birth for record in _under_way(publisher) for entry in record.entries}
    deleted = []
    for version in versions:
        if version.number in held or version.artifact.id in births or _is_held(version.artifact, newest):
            continue
        try:
            version.artifact.delete(delete_aliases=True)
            deleted.append(version.artifact.name)
        except Exception:  # a protected alias, or no permission; it stays
            continue
    return deleted


def held_numbers(keep: Keep, versions: Iterable[LoggedVersion]) -> set[int]:
    """Numbers of the versions that ``keep`` keeps, by the rules for snapshots of a repository."""
    newest_first = sorted(versions, key=lambda version: -version.number)
    held = {version.number for version in newest_first[: max(1, keep.last or 0)]}
    held |= {version.number for version in _ranking(newest_first)[: keep.best or 0]}
    if keep.every is not None:
        held |= {version.number for version in newest_first if _is_due(version.metadata, keep.every)}
    return held


def _ranking(newest_first: list[LoggedVersion]) -> list[LoggedVersion]:
    valued = [version for version in newest_first if version.value is not None and version.criterion[1]]
    if not valued:
        return []
    same = [version for version in valued if version.criterion == valued[0].criterion]
    sign = -1.0 if valued[0].criterion[1] == "max" else 1.0
    return sorted(same, key=lambda version: (sign * (version.value or 0.0), version.number))


def _is_due(metadata: Mapping[str, Any], every: int) -> bool:
    epoch = metadata.get("epoch")
    return isinstance(epoch, int) and metadata.get("batch") is None and (epoch + 1) % every == 0


def _versions(publisher: Publisher, newest: Any) -> list[LoggedVersion]:
    """The versions of the collection that lamina logged; none if the server does not list all versions."""
    try:
        name = publisher.server.qualified(newest.name.split(":")[0])
        found = list(publisher.server.api.artifacts(newest.type, name))
        if newest.id not in [artifact.id for artifact in found]:
            return []
        return [
            LoggedVersion(int(artifact.version[1:]), artifact, dict(artifact.metadata))
            for artifact in found
            if str(artifact.state).endswith("COMMITTED") and artifact.metadata.get("layout") in LAYOUTS
        ]
    except Exception:
        return []


def _is_held(artifact: Any, newest: Any) -> bool:
    """Whether it is the newest, or a user has given it an alias or a link."""
    try:
        if artifact.id == newest.id or any(not _COMPUTED.fullmatch(alias) for alias in artifact.aliases):
            return True
        return bool(artifact.linked_artifacts)
    except Exception:
        return True


def _under_way(publisher: Publisher) -> list[Record]:
    """Pending uploads that may refer to files of older versions: of this process, and in the journals it knows."""
    under_way = [upload.record for upload in publisher.unsettled()]
    folders = {record.staging for record in under_way if record.staging is not None}
    return under_way + [record for staging in folders for record in records(staging)]
