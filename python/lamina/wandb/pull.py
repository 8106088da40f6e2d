"""`pull`: copy a version of an artifact into a local repository, as a snapshot."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lamina.fetching.folder import new_folder
from lamina.fetching.packs import FetchingReader
from lamina.repository.repository import Repository, check_alias
from lamina.repository.snapshot import Snapshot
from lamina.schemes import DeletedError
from lamina.wandb.download.open_artifact import find, open_artifact
from lamina.writing import as_repository, save_path

_COMPUTED = ("required", "optional", "session", "state", "bytes_total", "bytes_new", "bytes_stored")


@dataclass(frozen=True)
class Pulled:
    """The result of a pull. ``new`` is False if the snapshot was already there; then nothing was changed."""

    snapshot: Snapshot
    new: bool
    bytes: int  # added to the repository


def pull(
    source: Any,
    repository: str | os.PathLike[str] | Repository,
    *,
    series: str | None = None,
    aliases: Iterable[str] = (),
) -> Snapshot:
    """Copy a version of an artifact into a repository. The snapshot keeps its id and gets the next number there.

    Only packs that the repository lacks are downloaded, and each chunk is verified before the snapshot appears. If the
    snapshot is already there, it only gets the ``aliases``. A version of plain files is saved as a new snapshot.

    Args:
        source: as for `lamina.wandb.open_artifact`.
        repository: the repository or its directory; created if it does not exist.
        series: put the snapshot into this series instead of its own; this changes its id.
        aliases: aliases of the snapshot in the repository.

    Examples:
        >>> import keras, lamina, wandb
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> snapshot = lamina.save(model, "runs/a")
        >>> with wandb.init(project="digits") as run:
        ...     artifact = lamina.wandb.log_checkpoint(snapshot, name="digits")
        >>> lamina.wandb.pull("wandb:digits/digits:latest", "runs/b").id == snapshot.id
        True

    Raises:
        NotFoundError: if there is no such version.
        ArtifactError: if W&B cannot be reached.
        CorruptDataError: if a pack is damaged, in the artifact or in the repository; no snapshot is added.
    """
    return bring(source, repository, series=series, aliases=aliases).snapshot


def bring(
    source: Any,
    repository: str | os.PathLike[str] | Repository,
    *,
    series: str | None = None,
    aliases: Iterable[str] = (),
) -> Pulled:
    """`pull`, but returns also what it added."""
    names = [name for name in ([aliases] if isinstance(aliases, str) else aliases) if name != "latest"]
    for name in names:
        check_alias(name)
    artifact = find(source)  # first: if it does not exist, no new repository must be left behind
    target = as_repository(repository)
    try:
        pulled = _bring(artifact, target, source, series)
    except DeletedError:  # the name stands at another version by now
        if not isinstance(source, str):
            raise
        pulled = _bring(find(source), target, source, series)
    target._name(pulled.snapshot, names)
    return pulled


def _bring(artifact: Any, target: Repository, source: Any, series: str | None) -> Pulled:
    opened = open_artifact(artifact, repository=target)
    reader = getattr(opened.content, "reader", None)
    if isinstance(reader, FetchingReader):
        return _import(target, reader, opened.snapshot.id, series)
    return _save(target, opened, source, series)


def _import(target: Repository, reader: FetchingReader, snapshot_id: str, series: str | None) -> Pulled:
    if series is not None or all(snapshot.id != snapshot_id for snapshot in target._core.snapshots()):
        reader.fetch_packs({path.stem for path in (target.path / "packs").glob("*.pack")})
    core, new, grown = target._core.import_snapshot(reader.folder, series)
    return Pulled(Snapshot(core, repository=target), new, grown)


def _save(target: Repository, opened: Any, source: Any, series: str | None) -> Pulled:
    fields = {key: value for key, value in json.loads(opened.snapshot._core.body()).items() if key not in _COMPUTED}
    if series is not None:
        fields["series"] = series
    if isinstance(source, str):
        fields["metadata"] = {**fields["metadata"], "pulled_from": source}
    held = new_folder()
    try:
        files = held.path / "files"
        opened.content.export(files)
        snapshot = save_path(target, files, fields)
    finally:
        held.remove()
    return Pulled(snapshot, True, snapshot.bytes_stored)
