"""Repair: what a repository has lost is looked for in other copies of it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lamina import _core
from lamina.errors import InvalidInputError, NotFoundError
from lamina.repository.repository import RepairReport, Repository, losses
from lamina.repository.repository import open as open_repository
from lamina.timestamps import now


def repair_at(path: str | os.PathLike[str], sources: Sequence[Any]) -> RepairReport:
    """Repair the repository in a directory, also one that cannot be opened: its ``config.json`` comes first."""
    folders = [_folder(source) for source in sources if not _is_remote(source)]
    config = _report(_core.Repository.restore_config(os.fspath(path), folders, now()))
    rest = repair(open_repository(path), sources)
    quarantined, restored = config.quarantined + rest.quarantined, config.restored + rest.restored
    return replace(rest, quarantined=quarantined, restored=restored)


def repair(repository: Repository, sources: Sequence[Any]) -> RepairReport:
    """Find the damage first, so that of an artifact only the packs are fetched that are damaged or missing."""
    local = [source for source in sources if not _is_remote(source)]
    folders = [_folder(source) for source in local]
    damaged = repository._core.damaged_packs()
    held: list[Any] = []  # what was fetched is deleted with its reader
    for source in sources:
        if _is_remote(source):
            held.append(_fetched(source, repository, damaged))
            folders.append(held[-1].content.reader.folder)
    return _report(repository._core.repair(damaged, folders))


def _is_remote(source: Any) -> bool:
    return (isinstance(source, str) and source.startswith("wandb:")) or hasattr(source, "manifest")


def _folder(source: Any) -> Path:
    if isinstance(source, Repository):
        return source.path
    if not isinstance(source, (str, os.PathLike)):
        raise InvalidInputError(f"expected a repository, an artifact directory or 'wandb:…'. Received: {source!r}")
    folder = Path(source)
    if not folder.exists():
        raise NotFoundError(f"{folder} does not exist; expected a repository or an artifact directory")
    if not (folder / "packs").is_dir():
        raise InvalidInputError(f"{folder} is neither a repository nor an artifact directory: it has no packs")
    return folder


def _fetched(source: Any, repository: Repository, damaged: Sequence[str]) -> Any:
    from lamina import wandb
    from lamina.wandb.download.fetching import FetchingReader

    opened = wandb.open_artifact(source.removeprefix("wandb:") if isinstance(source, str) else source)
    reader: Any = getattr(opened.content, "reader", None)
    if not isinstance(reader, FetchingReader):
        raise InvalidInputError(f"{source} is a plain file; only artifacts with packs can repair a repository")
    there = {path.stem for path in (repository.path / "packs").glob("*.pack")}
    reader.fetch_packs(there - set(damaged))
    return opened


def _report(text: str) -> RepairReport:
    found = json.loads(text)
    return RepairReport(lost=losses(found.pop("lost")), **found)
