"""`log_checkpoint`: a checkpoint as a version of a W&B artifact, outside `fit`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import wandb

from lamina.errors import ArtifactError, InvalidInputError, NotFoundError
from lamina.repository import Repository, open_or_create
from lamina.saving import as_repository, save_path
from lamina.snapshot import Snapshot
from lamina.wandb.drafting import file_version, new_draft, packs_version
from lamina.wandb.links import own_copy
from lamina.wandb.naming import (
    Description,
    aliases_of,
    aliases_or_error,
    default_name,
    layout_or_error,
    snapshot_metadata,
)
from lamina.wandb.publisher import publisher_of

#: Where the packs of files go for which no repository is named.
DEFAULT_REPOSITORY = ".lamina"
#: Why a snapshot is refused.
FILE_LAYOUT = "layout='file' logs a checkpoint file; export the snapshot first, or use 'packs'"


def log_checkpoint(
    path_or_snapshot: str | os.PathLike[str] | Snapshot,
    *,
    run: Any = None,
    name: str | None = None,
    aliases: Iterable[str] = (),
    layout: str = "packs",
    type: str = "model",
    metadata: Mapping[str, Any] | None = None,
    description: str | None = None,
    tags: Iterable[str] = (),
    ttl: timedelta | None = None,
    repository: str | os.PathLike[str] | Repository | None = None,
) -> Any:
    """Log a checkpoint file, or a snapshot of a repository, as a version of an artifact.

    The upload goes on after this returns; ``artifact.wait()`` waits for it.

    Args:
        path_or_snapshot: a checkpoint file, or a snapshot that stands in a repository.
        run: the W&B run; without it, the active one.
        name: the collection; ``run_<id>_model`` without it.
        aliases: besides ``latest``, and besides ``epoch_N`` and ``best`` where a snapshot says so.
        layout: ``"packs"`` uploads what changed, compressed; ``"file"`` the plain file.
        repository: for a path with ``layout="packs"``: where it is saved first. ``.lamina`` beside it without one.

    Returns:
        The `wandb.Artifact`; where the run is disabled, what wandb gives then.

    Raises:
        ArtifactError: if there is no run, or it refuses the artifact.
    """
    run = run if run is not None else wandb.run
    if run is None:
        raise ArtifactError("there is no active W&B run: call wandb.init() first, or pass run=")
    what = Description(
        name or default_name(run),
        type,
        _unique(["latest", *aliases_or_error(aliases)]),
        dict(metadata or {}),
        description,
        _unique(_listed(tags)),
        ttl,
    )
    if run.disabled:
        return run.log_artifact(new_draft(what), aliases=list(what.aliases))
    if layout_or_error(layout) == "file":
        version = _plain(run, what, path_or_snapshot)
    else:
        version = _packed(run, what, path_or_snapshot, repository)
    try:
        return publisher_of(run).log_now(version)
    except (wandb.Error, ValueError, TypeError) as error:
        version.record.remove()
        raise ArtifactError(f"W&B did not take {what.name}: {error}") from error


def _plain(run: Any, what: Description, source: str | os.PathLike[str] | Snapshot) -> Any:
    if isinstance(source, Snapshot):
        raise InvalidInputError(FILE_LAYOUT)
    path = Path(source)
    if not path.is_file():
        raise NotFoundError(f"{path} is no file")
    return file_version(run, new_draft(what), what, path.name, lambda target: own_copy(path, target))


def _packed(
    run: Any,
    what: Description,
    source: str | os.PathLike[str] | Snapshot,
    repository: str | os.PathLike[str] | Repository | None,
) -> Any:
    if isinstance(source, Snapshot):
        snapshot, home = source, source._repository
        if home is None:
            raise InvalidInputError("the snapshot stands in no repository; its packs are not here")
    else:
        home = _home_of(Path(source), repository)
        snapshot = save_path(home, Path(source), {"series": what.name, "run": run.id})
    aliases = _unique([*aliases_of(snapshot.epoch, snapshot.batch, best=snapshot.best), *what.aliases])
    metadata = snapshot_metadata(snapshot) | dict(what.metadata)
    full = Description(what.name, what.type, aliases, metadata, what.description, what.tags, what.ttl)
    return packs_version(run, new_draft(full), full, home, snapshot)


def _home_of(path: Path, repository: str | os.PathLike[str] | Repository | None) -> Repository:
    if repository is not None:
        return as_repository(repository)
    return open_or_create(path.absolute().parent / DEFAULT_REPOSITORY)


def _listed(values: Iterable[str]) -> list[str]:
    return [values] if isinstance(values, str) else list(values)


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
