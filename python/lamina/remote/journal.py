"""What waits in a repository for a bucket: written down before the first request, and removed once it is there.

A record holds its snapshot and packs against prune (docs/format.md §4), and says where they are to go.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lamina import _core
from lamina.errors import CorruptDataError, StorageError
from lamina.remote.address import Address, parse
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot

#: What tells these records from those of uploads to W&B.
_PREFIX = "remote-"


@dataclass(frozen=True)
class Record:
    """One snapshot on its way to one bucket."""

    path: Path
    snapshot: str
    remote: str

    def remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


def note(repository: Repository, snapshot: Snapshot, address: Address) -> Record:
    """Write down that a snapshot is to go to a bucket; once, however often it is said."""
    key = hashlib.sha256(f"{address.url}\n{snapshot.id}".encode()).hexdigest()[:32]
    record = Record(repository.path.absolute() / "journal" / f"{_PREFIX}{key}.json", snapshot.id, address.url)
    packs = [name for name, _ in repository._core.packs_of(snapshot._core)]
    body = {"snapshots": [snapshot.id], "packs": packs, "remote": address.url}
    data = np.frombuffer(_core.seal("journal", json.dumps(body)), np.uint8)
    try:
        record.path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {record.path.parent}: {error.strerror or error}") from error
    _core.write_file(record.path, data.size, [], data)
    return record


def is_of_bucket(path: Path) -> bool:
    """Whether a file of a journal is a record of ours; the others are of uploads to W&B."""
    return path.name.startswith(_PREFIX)


def waiting(repository: Repository, address: Address | None = None) -> list[Record]:
    """What waits for a bucket, or for all of them."""
    return [record for record in _records(repository) if address is None or record.remote == address.url]


def _records(repository: Repository) -> Iterator[Record]:
    for path in sorted((repository.path.absolute() / "journal").glob(f"{_PREFIX}*.json")):
        try:
            body = json.loads(_core.unseal("journal", path.read_bytes(), str(path)))
            (snapshot,), remote = body["snapshots"], parse(body["remote"]).url
        except FileNotFoundError:  # it has arrived meanwhile
            continue
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptDataError(f"{path} does not say what waits for a bucket: {error!r}") from error
        yield Record(path, str(snapshot), remote)
