"""`pull`: what a bucket holds comes into a repository on this machine."""

from __future__ import annotations

import os

from lamina.errors import NotFoundError
from lamina.fetching.packs import FetchingReader
from lamina.remote.address import split
from lamina.remote.opening import RemoteRepository
from lamina.remote.push import Transferred
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.schemes import local_path
from lamina.writing import as_repository


def pull(remote: str, repository: str | os.PathLike[str] | Repository) -> Transferred:
    """Bring snapshots from a bucket into a repository: the very snapshots, with their ids, under its next numbers.

    Only packs that the repository lacks are fetched, and each chunk is verified before its snapshot appears. User
    aliases come with the snapshots that are new. What is there already is left as it is.

    Args:
        remote: the address of a repository, or with ``@REF`` of one of its snapshots, as for `lamina.restore`.
        repository: a directory; made where it is new.

    Examples:
        >>> import keras, lamina, os
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> lamina.save(model, "runs/a", aliases=["paper"]).number
        1
        >>> bucket = f"file://{os.getcwd()}/bucket"
        >>> sent = lamina.push("runs/a", bucket)
        >>> [snapshot.aliases for snapshot in lamina.pull(bucket, "runs/b").snapshots]
        [['latest', 'paper']]

    Raises:
        NotFoundError: if there is no such repository, or no such snapshot in it.
        CorruptDataError: if anything that arrives is damaged; its snapshot does not appear.
        StorageError: if the store refuses, or is not reachable; a second pull fetches what is still missing.
    """
    address, ref = split(remote)
    if not isinstance(repository, Repository):
        local_path(repository, "the directory of a repository")
    source = RemoteRepository(address)  # before a new repository would be made for nothing
    wanted = source.snapshots() if ref is None else [source.snapshot(ref)]
    target = as_repository(repository)
    here = {snapshot.id: snapshot for snapshot in target.snapshots()}
    brought = Transferred()
    for snapshot in wanted:
        if snapshot.id not in here:
            here[snapshot.id] = _bring(source, snapshot, target, brought)
            brought.snapshots.append(here[snapshot.id])
    _name([here[snapshot.id] for snapshot in wanted], source.user_aliases(), target, brought)
    return brought


def _bring(source: RemoteRepository, snapshot: Snapshot, target: Repository, brought: Transferred) -> Snapshot:
    packs = target.path / "packs"
    present = {path.stem for path in packs.glob("*.pack")}
    content = source._opened(snapshot, [packs])  # what was fetched goes with it
    reader = content.reader
    assert isinstance(reader, FetchingReader)
    reader.fetch_packs(present)
    core, _, grown = target._core.import_snapshot(reader.folder)
    brought.packs += len({path.stem for path in packs.glob("*.pack")} - present)
    brought.bytes += grown
    return Snapshot(core, repository=target)


def _name(here: list[Snapshot], names: dict[str, list[str]], target: Repository, brought: Transferred) -> None:
    """A name that the repository has given to another snapshot stays there, unless this one is new."""
    for snapshot in here:
        for alias in names.get(snapshot.id, []):
            if snapshot in brought.snapshots or not _is_taken(target, snapshot.series, alias):
                target.set_alias(snapshot, alias)


def _is_taken(target: Repository, series: str, alias: str) -> bool:
    try:
        target._core.resolve(series, alias)
    except NotFoundError:
        return False
    return True


pull.__module__ = "lamina"  # where users find it
