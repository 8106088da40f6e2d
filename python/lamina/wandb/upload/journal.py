"""The journal: a record per pending upload, written before the first request and removed once the server has it.

A record is an envelope of kind ``journal`` (docs/format.md §4). It holds the exact manifest, so that a second attempt
sends the same version and W&B recognises it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from lamina import _core
from lamina.errors import CorruptDataError, StorageError
from lamina.remote.journal import is_of_bucket
from lamina.wandb.description import NAME, Description, aliases_or_error, tags_or_error, ttl_or_error
from lamina.wandb.manifest import FileEntry, Reference, as_base64
from lamina.wandb.upload.staging import Staging

#: docs/format.md §10
_MAX_JSON = 64 << 20


@dataclass(frozen=True)
class Record:
    """One version on its way to W&B."""

    key: str
    run: dict[str, Any]  # id, entity, project, offline
    what: Description
    entries: tuple[FileEntry, ...]
    snapshots: tuple[str, ...] = ()
    references: tuple[Reference, ...] = ()  # added by the user
    number: int = 0  # order among the records of its folder
    digest: str | None = None  # of the manifest; None until it is sent
    staging: Staging | None = field(default=None, compare=False)

    @property
    def packs(self) -> list[str]:
        names = (entry.path for entry in self.entries)
        return [name[6:-5] for name in names if name.startswith("packs/") and name.endswith(".pack")]

    def write(self) -> None:
        """Write it to disk, atomically."""
        assert self.staging is not None
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
            self.staging.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {self.staging.folder}: {error.strerror or error}") from error
        _core.write_file(self._path, data.size, [], data)

    @property
    def _path(self) -> Path:
        assert self.staging is not None
        return self.staging.folder / f"{self.key}.json"

    def remove(self, *, files: bool = True) -> None:
        """Delete the record, and the files that were staged for it: the server has them."""
        assert self.staging is not None
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        if files:
            self.staging.remove(self.key)

    @property
    def waits(self) -> bool:
        """Whether it is still in the journal."""
        return self._path.exists()

    @property
    def complete(self) -> bool:
        """Whether all its files are staged; False if the process ended while it staged them."""
        return all(entry.digest for entry in self.entries)

    def sent_as(self, digest: str, entries: list[FileEntry]) -> Record:
        return replace(self, digest=digest, entries=tuple(entries))

    def missing(self) -> list[str]:
        """The files that are missing or damaged."""
        assert self.staging is not None
        here = [(e, self.staging.root / e.at) for e in self.entries if e.at is not None]
        absent = [str(path) for _, path in here if not path.is_file() or path.is_symlink()]
        present = [(e, path) for e, path in here if str(path) not in absent]
        digests = _core.md5_files([path for _, path in present]) if present else []
        changed = [
            f"{path} (damaged)"
            for (entry, path), digest in zip(present, digests, strict=True)
            if entry.digest != as_base64(digest)
        ]
        return absent + changed


def records(staging: Staging) -> Iterator[Record]:
    """The records of a folder, in the order in which they were made."""
    paths = [path for path in staging.folder.glob("[!.]*.json") if not is_of_bucket(path)]
    found = [_read(path, staging) for path in paths]
    yield from sorted(found, key=lambda record: record.number)


def _read(path: Path, staging: Staging) -> Record:
    if not path.is_file() or path.stat().st_size > _MAX_JSON:  # to open a pipe could block for ever
        raise CorruptDataError(f"{path} is not a record of an upload: expected a file of at most {_MAX_JSON} bytes")
    _refuse_links(path, staging)
    body = json.loads(_core.unseal("journal", path.read_bytes(), str(path)))
    try:
        return Record(
            _text(path.stem, _KEY),
            _run(**{"shown": None, **body["run"]}),
            _description(**body["artifact"]),
            tuple(_entry(*entry) for entry in body["entries"]),
            tuple(_text(snapshot) for snapshot in _typed(body["snapshots"], list)),
            tuple(_reference(**reference) for reference in body.get("references", ())),
            _typed(body["number"], int),
            _text_or_none(body["digest"]),
            staging,
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CorruptDataError(f"{path} is not a record of an upload: {error!r}") from error


# A record is untrusted: run directories are copied and sent around. Each field is checked when it is read.

_KEY = re.compile(r"[0-9a-f]{32}")
#: A part of an address on the server, as wandb allows it.
_PART = re.compile(r"[^/\\#?%:\x00-\x1f\x7f]{1,256}")
_PATH = re.compile(r"[^\\\x00-\x1f\x7f]{1,4096}")
#: Bytes of one file; W&B allows less.
_MAX_FILE = 1 << 43


def _refuse_links(path: Path, staging: Staging) -> None:
    """Files that are staged for a record must stay below the root."""
    for each in (staging.folder, path, path.with_suffix("")):
        if each.is_symlink():
            raise CorruptDataError(f"{each} is a link; expected a file or folder that lamina created")


def _typed(value: Any, wanted: type) -> Any:
    if type(value) is not wanted:
        raise TypeError(f"expected {wanted.__name__}. Received: {value!r:.80}")
    return value


def _text(value: Any, pattern: re.Pattern[str] = _PATH) -> str:
    if not pattern.fullmatch(_typed(value, str)) or (pattern is _PART and value in (".", "..")):
        raise ValueError(f"unexpected text {value!r:.80}")
    return str(value)


def _text_or_none(value: Any, pattern: re.Pattern[str] = _PATH) -> str | None:
    return None if value is None else _text(value, pattern)


def _size(value: Any) -> int:
    if not 0 <= _typed(value, int) <= _MAX_FILE:
        raise ValueError(f"expected a file size. Received: {value}")
    return int(value)


def _below(path: str) -> str:
    if path.startswith("/") or set(path.split("/")) & {"", ".", ".."}:
        raise ValueError(f"{path!r} is not below the record's root")
    return path


def _run(id: Any, entity: Any, project: Any, offline: Any, shown: Any) -> dict[str, Any]:
    """``shown`` was written by older releases; it is not read."""
    facts = {"id": _text(id, _PART), "offline": _typed(offline, bool)}
    return facts | {"entity": _text_or_none(entity, _PART), "project": _text_or_none(project, _PART)}


def _description(
    name: Any, type: Any, aliases: Any, metadata: Any, description: Any, tags: Any, ttl: Any
) -> Description:
    if ttl is not None and not isinstance(ttl, (int, float)):
        raise TypeError(f"expected seconds. Received: {ttl!r:.80}")
    return Description(
        _text(name, NAME),
        _text(type, _PART),
        tuple(aliases_or_error(_typed(aliases, list))),
        _typed(metadata, dict),
        None if description is None else _typed(description, str),
        tuple(tags_or_error(_typed(tags, list))),
        ttl_or_error(None if ttl is None else timedelta(seconds=ttl)),
    )


def _entry(path: Any, digest: Any, size: Any, at: Any, birth: Any) -> FileEntry:
    return FileEntry(
        _below(_text(path)),
        "" if digest == "" else _text(digest),
        _size(size),
        None if at is None else _below(_text(at)),
        _text_or_none(birth),
    )


def _reference(path: Any, ref: Any, digest: Any, size: Any, extra: Any) -> Reference:
    known = None if size is None else _size(size)
    return Reference(_below(_text(path)), _text(ref), _typed(digest, str), known, _typed(extra, dict))
