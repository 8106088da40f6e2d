"""Finds the version on the server that a record describes."""

from __future__ import annotations

from typing import Any

from lamina.wandb.server import Server
from lamina.wandb.upload.journal import Record


def find(server: Server, record: Record) -> Any | None:
    """The committed version that a record describes; None if there is none or the server does not answer."""
    for alias in record.what.aliases:
        found = server.committed(record.what.name, alias)
        if found is not None and _is(found, record):
            return found
    try:
        every = server.api.artifacts(record.what.type, server.qualified(record.what.name))
        same = (found for found in every if _is(found, record))
        return next((found for found in same if str(found.state).endswith("COMMITTED")), None)
    except Exception:
        return None


def _is(found: Any, record: Record) -> bool:
    """Compare the digests, or else the files: the server computes the digest of a version from several processes."""
    if found.digest == record.digest:
        return True
    try:
        if dict(found.metadata).get("snapshot") not in record.snapshots:
            return False
        there = {str(path): (entry.digest, entry.size) for path, entry in found.manifest.entries.items()}
    except Exception:
        return False
    return there == {entry.path: (entry.digest, entry.size) for entry in record.entries}
