"""The journal: what is on its way to W&B, written down before the first request, and removed once it has arrived.

A record is an envelope of kind ``journal`` (docs/format.md §4). It holds the exact manifest, so that a second attempt
asks for the same version and W&B recognises it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from lamina import _core
from lamina.errors import CorruptDataError, StorageError
from lamina.wandb.description import Description
from lamina.wandb.manifest import FileEntry, Reference, as_base64
from lamina.wandb.upload.staging import Place

#: docs/format.md §10
_MAX_JSON = 64 << 20


@dataclass(frozen=True)
class Record:
    """One version on its way."""

    key: str
    run: dict[str, Any]  # id, entity, project, offline; for an offline run also shown
    what: Description
    entries: tuple[FileEntry, ...]
    snapshots: tuple[str, ...] = ()
    references: tuple[Reference, ...] = ()  # of the user's, to what stands elsewhere
    number: int = 0  # order among the records of a place
    digest: str | None = None  # of the manifest, once it was about to be sent
    place: Place | None = field(default=None, compare=False)

    @property
    def packs(self) -> list[str]:
        names = (entry.path for entry in self.entries)
        return [name[6:-5] for name in names if name.startswith("packs/") and name.endswith(".pack")]

    def write(self) -> None:
        """Put it on disk, whole or not at all."""
        assert self.place is not None
        what = asdict(self.what)
        what["ttl"] = self.what.ttl.total_seconds() if isinstance(self.what.ttl, timedelta) else None
        fields = {
            "snapshots": list(self.snapshots),
            "packs": self.packs,
            "number": self.number,
            "run": self.run,
            "artifact": what,
            "digest": self.digest,
            "references": [asdict(reference) for reference in self.references],
            "entries": [[e.path, e.digest, e.size, e.at, e.birth] for e in self.entries],
        }
        data = np.frombuffer(_core.seal("journal", json.dumps(fields)), np.uint8)
        try:
            self.place.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {self.place.folder}: {error.strerror or error}") from error
        _core.write_file(self._path, data.size, [], data)

    @property
    def _path(self) -> Path:
        assert self.place is not None
        return self.place.folder / f"{self.key}.json"

    def remove(self, *, files: bool = True) -> None:
        """It has arrived: neither the record nor the files that were made for it are needed."""
        assert self.place is not None
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        if files:
            self.place.remove(self.key)

    @property
    def waits(self) -> bool:
        """Whether it still is in the journal."""
        return self._path.exists()

    @property
    def complete(self) -> bool:
        """Whether all that it needs was put aside; not, if the process ended while that was done."""
        return all(entry.digest for entry in self.entries)

    def sent_as(self, digest: str, entries: list[FileEntry]) -> Record:
        return replace(self, digest=digest, entries=tuple(entries))

    def missing(self) -> list[str]:
        """Files that are not there, or not what they were."""
        assert self.place is not None
        here = [(e, self.place.root / e.at) for e in self.entries if e.at is not None]
        absent = [str(path) for _, path in here if not path.is_file()]
        present = [(e, path) for e, path in here if path.is_file()]
        digests = _core.md5_files([path for _, path in present]) if present else []
        changed = [
            f"{path} (damaged)"
            for (entry, path), digest in zip(present, digests, strict=True)
            if entry.digest != as_base64(digest)
        ]
        return absent + changed


def records(place: Place) -> Iterator[Record]:
    """The records of a place, in the order in which they were made."""
    found = [_read(path, place) for path in place.folder.glob("*.json") if not path.name.startswith(".")]
    yield from sorted(found, key=lambda record: record.number)


def _read(path: Path, place: Place) -> Record:
    if not path.is_file() or path.stat().st_size > _MAX_JSON:  # whoever opens a pipe may wait for ever
        raise CorruptDataError(f"{path} is no record of an upload")
    body = json.loads(_core.unseal("journal", path.read_bytes(), str(path)))
    try:
        what = dict(body["artifact"])
        what |= {"aliases": tuple(what["aliases"]), "tags": tuple(what["tags"])}
        what["ttl"] = None if what["ttl"] is None else timedelta(seconds=what["ttl"])
        return Record(
            path.stem,
            dict(body["run"]),
            Description(**what),
            tuple(_entry(*entry) for entry in body["entries"]),
            tuple(body["snapshots"]),
            tuple(Reference(**reference) for reference in body.get("references", ())),
            int(body["number"]),
            body["digest"],
            place,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptDataError(f"{path} is no record of an upload: {error!r}") from error


def _entry(path: str, digest: str, size: int, at: str | None, birth: str | None) -> FileEntry:
    if at is not None and (at.startswith("/") or set(at.split("/")) & {"", ".", ".."}):
        raise ValueError(f"{at!r} is not below the record's root")
    return FileEntry(path, digest, size, at, birth)
