"""A snapshot of one repository in another one: the same file, under the same id."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lamina import _core
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot


def copy_snapshot(snapshot: Snapshot, target: Repository) -> tuple[Snapshot, bool, int]:
    """Copy a snapshot; each chunk is verified before it appears. The copy, whether it is new, and what it takes there.

    Raises:
        CorruptDataError: if anything of it is damaged; there is no copy then.
    """
    there = next((core for core in target._core.snapshots() if core.id == snapshot.id), None)
    if there is not None:
        return Snapshot(there, repository=target), False, 0
    source = snapshot._repository
    assert isinstance(source, Repository)
    held = _core.Temporary(target.path)
    try:
        _as_artifact(snapshot, source, held.path)
        core, new, grown = target._core.import_snapshot(held.path)
    finally:
        held.remove()
    return Snapshot(core, repository=target), new, grown


def user_aliases(snapshot: Snapshot) -> list[str]:
    """Those of its names that somebody has given it."""
    computed = {"latest", "best", f"epoch_{snapshot.epoch}", f"epoch_{snapshot.epoch}_batch_{snapshot.batch}"}
    return [alias for alias in snapshot.aliases if alias not in computed]


def _as_artifact(snapshot: Snapshot, source: Repository, folder: Path) -> None:
    """What a W&B artifact holds of a snapshot (docs/format.md §3); packs are linked where the file system can."""
    packs = folder / "packs"
    packs.mkdir()
    (folder / "lamina.json").write_bytes(source._core.snapshot_bytes(snapshot.number or 0))
    (folder / "lamina.placement").write_bytes(source._core.placement_bytes(snapshot._core))
    for name, _ in source._core.packs_of(snapshot._core):
        pack = source.path / "packs" / f"{name}.pack"
        try:
            os.link(pack, packs / pack.name)
        except OSError:
            shutil.copyfile(pack, packs / pack.name)
