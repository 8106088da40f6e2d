"""`log_checkpoint`: log a checkpoint as a version of a W&B artifact, outside `fit`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, overload

import wandb

from lamina.errors import ArtifactError, InvalidInputError, LaminaError, NotFoundError
from lamina.fetching.copies import own_copy
from lamina.repository.repository import Repository, open_or_create, stands_in
from lamina.repository.snapshot import Snapshot
from lamina.schemes import local_path
from lamina.wandb.description import (
    Description,
    Layout,
    aliases_of,
    aliases_or_error,
    default_name,
    layout_or_error,
    snapshot_metadata,
    tags_or_error,
    ttl_or_error,
)
from lamina.wandb.upload.draft import file_upload, new_draft, packs_upload
from lamina.wandb.upload.publisher import Upload, publisher_of
from lamina.wandb.upload.shared_upload import log_shared
from lamina.wandb.upload.writers import Writers
from lamina.writing import as_repository, save_path

#: The repository for a file, beside it, if the caller names none. Not that of a training, whose only series would no
#: longer be the only one.
DEFAULT_REPOSITORY = ".lamina-logged"
#: Why ``layout="file"`` refuses a snapshot.
FILE_LAYOUT = "layout='file' logs a checkpoint file, not a snapshot; export the snapshot first, or use layout='packs'"


@overload
def log_checkpoint(
    path_or_snapshot: str | os.PathLike[str] | Snapshot,
    *,
    run: Any = ...,
    name: str | None = ...,
    aliases: Iterable[str] = ...,
    layout: Layout = ...,
    type: str = ...,
    metadata: Mapping[str, Any] | None = ...,
    description: str | None = ...,
    tags: Iterable[str] = ...,
    ttl: timedelta | None = ...,
    repository: str | os.PathLike[str] | Repository | None = ...,
    writers: None = ...,
) -> wandb.Artifact: ...


@overload
def log_checkpoint(
    path_or_snapshot: str | os.PathLike[str] | Snapshot,
    *,
    run: Any = ...,
    name: str | None = ...,
    aliases: Iterable[str] = ...,
    layout: Layout = ...,
    type: str = ...,
    metadata: Mapping[str, Any] | None = ...,
    description: str | None = ...,
    tags: Iterable[str] = ...,
    ttl: timedelta | None = ...,
    repository: str | os.PathLike[str] | Repository | None = ...,
    writers: Writers,
) -> wandb.Artifact | None: ...


def log_checkpoint(
    path_or_snapshot: str | os.PathLike[str] | Snapshot,
    *,
    run: Any = None,
    name: str | None = None,
    aliases: Iterable[str] = (),
    layout: Layout = "packs",
    type: str = "model",
    metadata: Mapping[str, Any] | None = None,
    description: str | None = None,
    tags: Iterable[str] = (),
    ttl: timedelta | None = None,
    repository: str | os.PathLike[str] | Repository | None = None,
    writers: Writers | None = None,
) -> wandb.Artifact | None:
    """Log a checkpoint file, or a snapshot of a repository, as a version of an artifact.

    The upload continues after this returns; ``artifact.wait()`` waits for it.

    Args:
        path_or_snapshot: a checkpoint file, or a snapshot of a repository.
        run: the W&B run; default: the active one.
        name: the collection; default: ``run_<id>_model``.
        aliases: further aliases. ``latest`` is always set; a snapshot also gets ``epoch_N``, and ``best`` if it is the
            best of its series.
        layout: ``"packs"`` uploads what changed, compressed; ``"file"`` uploads the plain file.
        type: the artifact type.
        metadata: further metadata of the version.
        description: shown on the page of the version.
        tags: tags of the version.
        ttl: how long W&B keeps the version; default: as the collection says.
        repository: for a path with ``layout="packs"``: the repository it is saved into first; default:
            ``.lamina-logged`` beside the file.
        writers: for a snapshot whose repository several processes can read: they upload it together, each a part of
            the packs. All of them must call this, also those without a run. When it returns, the version is committed
            and its list of files was checked.

    Examples:
        >>> import keras, lamina, wandb
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> snapshot = lamina.save(model, "runs/a")
        >>> with wandb.init(project="digits") as run:
        ...     artifact = lamina.wandb.log_checkpoint(snapshot, name="digits")
        >>> artifact.name
        'digits:v0'

    Returns:
        The `wandb.Artifact`; for a disabled run, what wandb returns then. With ``writers``, None in all processes but
        one.

    Raises:
        ArtifactError: if there is no run, or W&B refuses the artifact. With ``writers`` also if a process failed or did
            not respond: then the version stays in the repository, and `push` sends it.
        InvalidInputError: if W&B does not allow a name or a value, or the snapshot is in no repository.
        NotFoundError: if the file does not exist.
    """
    run = run if run is not None else wandb.run
    if run is None and writers is None:
        raise ArtifactError("there is no active W&B run: call wandb.init() first, or pass run=")
    what = Description(
        name or ("" if run is None else default_name(run)),
        type,
        _unique(["latest", *aliases_or_error(aliases)]),
        dict(metadata or {}),
        description,
        _unique(tags_or_error(tags)),
        ttl_or_error(ttl),
    )
    layout_or_error(layout)
    if writers is not None:
        snapshot, home = _for_several(path_or_snapshot, layout)
        return log_shared(run, _described(what, snapshot), home, snapshot, writers)
    if run.disabled:
        return run.log_artifact(new_draft(what), aliases=list(what.aliases))
    if layout == "file":
        upload = _plain(run, what, path_or_snapshot)
    else:
        upload = _packed(run, what, path_or_snapshot, repository)
    try:
        return publisher_of(run).log_now(upload)
    except (wandb.Error, ValueError, TypeError) as error:
        upload.record.remove()
        raise ArtifactError(f"upload of {what.name} failed: {error}") from error


def _plain(run: Any, what: Description, source: str | os.PathLike[str] | Snapshot) -> Upload:
    if isinstance(source, Snapshot):
        raise InvalidInputError(FILE_LAYOUT)
    path = _path_of(source)
    if not path.is_file():
        raise NotFoundError(f"{path} is not a file; expected a checkpoint file")
    return file_upload(run, new_draft(what), what, path.name, lambda target: own_copy(path, target))


def _packed(
    run: Any,
    what: Description,
    source: str | os.PathLike[str] | Snapshot,
    repository: str | os.PathLike[str] | Repository | None,
) -> Upload:
    if isinstance(source, Snapshot):
        snapshot, home = source, _repository_of(source)
    else:
        path = _path_of(source)
        home = _home_of(path, repository)
        snapshot = save_path(home, path, {"series": what.name, "run": run.id})
    full = _described(what, snapshot)
    upload = packs_upload(run, new_draft(full), full, home, snapshot)
    upload.judged = "best" not in what.aliases
    return upload


def _path_of(source: Any) -> Path:
    """Refuse a repository where a snapshot is meant: its files would all be saved into another repository."""
    if isinstance(source, (str, os.PathLike)):
        path = local_path(source)
        if not stands_in(path):
            return path
    raise InvalidInputError(
        "log_checkpoint takes a checkpoint file, or a snapshot such as lamina.open(REPOSITORY).snapshot('best'). "
        f"Received: {source!r}"
    )


def _described(what: Description, snapshot: Snapshot) -> Description:
    """Add the aliases and the metadata of a snapshot."""
    aliases = _unique([*aliases_of(snapshot.epoch, snapshot.batch, best=_is_best(snapshot)), *what.aliases])
    return replace(what, aliases=aliases, metadata=snapshot_metadata(snapshot) | dict(what.metadata))


def _is_best(snapshot: Snapshot) -> bool:
    """Whether it is still the best of its series: an old snapshot must not take ``best`` from a better one."""
    if not snapshot.best:
        return False
    try:
        return _repository_of(snapshot)._core.resolve(snapshot.series, "best").id == snapshot.id
    except LaminaError:  # another snapshot is damaged; trust what was true when this one was saved
        return True


def _for_several(source: str | os.PathLike[str] | Snapshot, layout: str) -> tuple[Snapshot, Repository]:
    if not isinstance(source, Snapshot) or layout != "packs":
        raise InvalidInputError("writers= needs a snapshot and layout='packs'; save it first, in one process")
    return source, _repository_of(source)


def _repository_of(snapshot: Snapshot) -> Repository:
    if not isinstance(snapshot._repository, Repository):
        raise InvalidInputError("the snapshot is in no local repository; copy it into one with lamina.wandb.pull")
    return as_repository(snapshot._repository)


def _home_of(path: Path, repository: str | os.PathLike[str] | Repository | None) -> Repository:
    if repository is not None:
        return as_repository(repository)
    return open_or_create(path.absolute().parent / DEFAULT_REPOSITORY)


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
