"""`push`: what a repository holds goes to a bucket. Packs first; the snapshot's one conditional write is the commit."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from lamina import _core
from lamina.errors import CorruptDataError, NotFoundError
from lamina.fetching.packs import read_placement
from lamina.remote import journal
from lamina.remote.address import Address, parse
from lamina.remote.bucket import Bucket, in_parallel
from lamina.repository import repository as repositories
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.schemes import local_path

#: Packs at once; a large one has several connections of its own.
_PACKS_AT_ONCE = 6


@dataclass
class Transferred:
    """What a push or a pull has brought."""

    snapshots: list[Snapshot] = field(default_factory=list)  # that were not there before
    packs: int = 0
    bytes: int = 0  # of these packs


def push(repository: str | os.PathLike[str] | Repository, remote: str) -> Transferred:
    """Send to a bucket what it lacks of a repository: snapshots, the packs that they need, and user aliases.

    Packs are named by their content, and no bucket gets one twice. A snapshot appears there whole or not at all, under
    the bucket's own next number, and with its id: several repositories may be pushed to one bucket. What was deleted in
    the repository stays in the bucket.

    Args:
        repository: its directory.
        remote: ``"s3://BUCKET/PREFIX"``, ``"gs://…"``, ``"az://…"`` or ``"file:///FOLDER"``; it becomes a repository if
            it is none. Credentials and endpoints come from the conventions of the store, such as ``AWS_ENDPOINT_URL``.

    Examples:
        >>> import keras, lamina, os
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> lamina.save(model, "runs/a").number
        1
        >>> bucket = f"file://{os.getcwd()}/bucket"
        >>> [snapshot.number for snapshot in lamina.push("runs/a", bucket).snapshots]
        [1]
        >>> lamina.push("runs/a", bucket).snapshots
        []

    Raises:
        InvalidInputError: if the remote is no address of a bucket, or ``lamina[cloud]`` is not installed.
        NotFoundError: if there is no such bucket.
        StorageError: if the store refuses, or is not reachable; what was sent is not sent again.
        CorruptDataError: if a pack is damaged; its snapshot was not sent.
        UnsupportedFormatError: if the store has no conditional writes.
    """
    address = parse(remote)
    home = repository if isinstance(repository, Repository) else _opened(repository)
    bucket = Bucket(address, make=True)
    known = {snapshot.id for snapshot in _there(bucket)}
    todo = [one for one in home.snapshots() if one.id not in known or not _is_whole(home, bucket, one)]
    # A prune meanwhile leaves alone what is in the journal. What a training has noted there stays if this fails.
    noted = {record.snapshot for record in journal.waiting(home, address)}
    records = [journal.note(home, snapshot, address) for snapshot in todo if snapshot.id not in noted]
    try:
        sent = _send(home, bucket, todo, known)
        _send_aliases(home, bucket, known)
    finally:
        for record in records:
            record.remove()
    _forget(home, address, known | {snapshot.id for snapshot in todo})
    return sent


def _opened(directory: str | os.PathLike[str]) -> Repository:
    return repositories.open(local_path(directory, "the directory of a repository"))


def send_waiting(home: Repository, bucket: Bucket) -> list[Snapshot]:
    """Send what the journal of a repository says; each record goes with the arrival of its snapshot."""
    known = {snapshot.id for snapshot in _there(bucket)}
    mine = {snapshot.id: snapshot for snapshot in home.snapshots()}
    sent = []
    for record in _in_order(journal.waiting(home, bucket.store.address), mine):
        if record.snapshot not in known and record.snapshot in mine:
            sent += _send(home, bucket, [mine[record.snapshot]], known).snapshots
        record.remove()
    _send_aliases(home, bucket, known)
    return sent


def finish(home: Repository) -> dict[str, list[Snapshot]]:
    """Send what waits in a repository for any bucket; the snapshots that are there now, by address."""
    remotes = sorted({record.remote for record in journal.waiting(home)})
    return {remote: send_waiting(home, Bucket(parse(remote), make=True)) for remote in remotes}


def _in_order(records: Iterable[journal.Record], mine: dict[str, Snapshot]) -> list[journal.Record]:
    numbers = {name: snapshot.number or 0 for name, snapshot in mine.items()}
    return sorted(records, key=lambda record: numbers.get(record.snapshot, 0))


def _there(bucket: Bucket) -> list[Snapshot]:
    return Repository(_core.Repository.open(bucket.mirror)).snapshots()


def _is_whole(home: Repository, bucket: Bucket, snapshot: Snapshot) -> bool:
    """Whether a snapshot of the bucket has all that it needs there, as far as a listing tells."""
    if snapshot.id not in bucket.placements:  # it came by a plain copy
        return False
    if all(bucket.packs.get(name) == size for name, size in home._core.packs_of(snapshot._core)):
        return True
    # A repack may have put its chunks into other packs here.
    placement = bucket.placement(snapshot.id)
    if placement is None:
        return False
    sizes, _, _ = read_placement(placement, f"the placement of snapshot {snapshot.id} in {bucket.url}")
    return all(bucket.packs.get(name) == size for name, size in sizes.items())


def _forget(home: Repository, address: Address, arrived: set[str]) -> None:
    for record in journal.waiting(home, address):
        if record.snapshot in arrived:
            record.remove()


def _send(home: Repository, bucket: Bucket, snapshots: list[Snapshot], known: set[str]) -> Transferred:
    sent = Transferred()
    wanted = {snapshot.id: home._core.packs_of(snapshot._core) for snapshot in snapshots}
    packs = {name: size for listed in wanted.values() for name, size in listed}
    missing = {name: size for name, size in packs.items() if bucket.packs.get(name) != size}
    watcher = _core.watcher()
    if watcher is not None:
        watcher.begin("sending", sum(missing.values()))
    for snapshot in snapshots:
        mine = [name for name, _ in wanted[snapshot.id] if name in missing]
        _send_packs(home, bucket, {name: missing.pop(name) for name in mine}, sent)
        bucket.store.put(f"placements/{snapshot.id}.placement", home._core.placement_bytes(snapshot._core))
        if snapshot.id not in known:
            bucket.commit(home._core.snapshot_bytes(snapshot.number or 0))
            known.add(snapshot.id)
            sent.snapshots.append(snapshot)
    return sent


def _send_packs(home: Repository, bucket: Bucket, packs: dict[str, int], sent: Transferred) -> None:
    damaged = home._core.damaged_packs(list(packs)) if packs else []
    if damaged:
        raise CorruptDataError(
            f"packs/{damaged[0]}.pack in {home.path} is damaged, and was not sent; lamina verify --repair --from OTHER "
            "brings back what another copy has"
        )
    watcher = _core.watcher()

    def put(name: str) -> None:
        path = home.path / "packs" / f"{name}.pack"
        if not path.exists():
            raise NotFoundError(f"{path} is gone, so its snapshot was not sent")
        bucket.store.put(f"packs/{name}.pack", path)
        bucket.packs[name] = packs[name]
        if watcher is not None:
            watcher.advance(packs[name])

    in_parallel(put, packs, _PACKS_AT_ONCE)
    sent.packs += len(packs)
    sent.bytes += sum(packs.values())


def _send_aliases(home: Repository, bucket: Bucket, known: set[str]) -> None:
    for path in sorted((home.path / "aliases").glob("*.json")):
        if path.name.startswith("."):
            continue
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # somebody has deleted it
            continue
        if json.loads(_core.unseal("alias", content, str(path)))["snapshot"] in known:
            bucket.set_alias(path.name, content)


push.__module__ = "lamina"  # where users find it
