"""Resolves a source: a repository, a snapshot of it, an artifact, or a checkpoint file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar, Union, runtime_checkable

from lamina import _core
from lamina.errors import InvalidInputError, NotFoundError, StorageError
from lamina.files.plain import Opened, open_plain
from lamina.repository import repository
from lamina.repository.content import Content
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.schemes import Artifact, DeletedError, bucket_of, local_path, opener_of

T = TypeVar("T")


@runtime_checkable
class Made(Protocol):
    """What lamina has computed, such as an average."""

    def _as_source(self) -> Opened: ...


Source: TypeAlias = Union[str, "os.PathLike[str]", Snapshot, Repository, Artifact, Made]


def resolve(source: Source) -> Opened:
    """Open a source: ``DIR``, ``DIR@REF``, ``DIR@SERIES:REF``, also in a bucket (``s3://BUCKET/PREFIX@REF``); an
    artifact directory, a checkpoint file, ``wandb:[entity/][project/]name:alias``, a ``wandb.Artifact``, a
    `Repository` or a `Snapshot`.

    Raises:
        NotFoundError: if it does not exist.
        InvalidInputError: if it is none of these.
    """
    if isinstance(source, Snapshot):
        return Opened(source._opened(), source)
    if isinstance(source, Repository):
        return _of(source.snapshot())
    if isinstance(source, Made):
        return source._as_source()
    if (opener := opener_of(source)) is not None:
        opened: Opened = opener.open_source(source)
        return opened
    if isinstance(source, (str, os.PathLike)):
        return _path(os.fspath(source))
    raise InvalidInputError(
        "expected a directory, DIR@alias, a checkpoint file, 's3://…', 'wandb:…', a wandb.Artifact or a Snapshot. "
        f"Received: {source!r} of type {type(source).__name__}"
    )


def read(source: Source, work: Callable[[Opened], T]) -> T:
    """``work`` on an opened source. A version on the server may be deleted meanwhile, as retention does; then its name
    is looked up once more, and stands at another version.

    Raises:
        NotFoundError: if that is deleted as well, or no name was given but the version.
    """
    try:
        return work(resolve(source))
    except DeletedError:
        if not isinstance(source, str):
            raise
    return work(resolve(source))


def _of(snapshot: Snapshot) -> Opened:
    return Opened(snapshot._opened(), snapshot)


def in_repository(source: Source) -> tuple[Path | str, str] | None:
    """The repository and the reference in it that a path, or an address of a bucket, names; None for another source."""
    if isinstance(source, str) and (bucket := bucket_of(source)) is not None:
        return bucket.in_repository(source)
    if not isinstance(source, (str, os.PathLike)) or opener_of(source) is not None:
        return None
    path = local_path(source, "a source")
    if _exists(path):
        return (path, "latest") if repository.stands_in(path) else None
    text = os.fspath(source)
    folder, at, ref = text.rpartition("@")
    return (Path(folder), ref or "latest") if at and _exists(Path(folder)) else None


def _path(text: str) -> Opened:
    named = in_repository(text)
    if named is not None:
        folder, ref = named
        return _of(repository.open(folder).snapshot(ref))
    path = Path(text)
    if _exists(path):
        return _existing(path)
    before, colon, after = text.rpartition(":")
    if colon and repository.stands_in(Path(before)):
        raise NotFoundError(f"{text} does not exist; to name a snapshot of a repository, use @: {before}@{after}")
    raise NotFoundError(f"{text} does not exist; expected a repository, a checkpoint file or DIR@ALIAS")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise StorageError(f"cannot access {path}: {error.strerror or error}") from error


def _existing(path: Path) -> Opened:
    if path.is_dir() and (inner := _repositories_inside(path)):
        raise InvalidInputError(f"{path} is not a repository, but contains one: use {' or '.join(map(str, inner))}")
    if path.is_dir() and (path / "lamina.json").exists():
        return open_artifact_directory(path)
    return open_plain(path)


def _repositories_inside(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir() and repository.stands_in(child))
    except OSError as error:
        raise StorageError(f"cannot read {folder}: {error.strerror or error}") from error


def open_artifact_directory(path: Path, packs: Path | None = None) -> Opened:
    """Open the directory of a downloaded W&B artifact with ``layout="packs"``; by default its packs are in it."""
    snapshot = path / "lamina.json"
    reader = _core.Reader.open_artifact(snapshot, path / "lamina.placement", packs or path / "packs")
    content = Content(reader)
    core = _core.parse_snapshot(snapshot.read_bytes(), str(snapshot))
    return Opened(content, Snapshot(core, content=content))
