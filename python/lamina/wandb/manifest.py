"""The files of an artifact version, and how they are declared to wandb without being read again."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lamina import _core
from lamina.wandb import private


@dataclass(frozen=True)
class FileEntry:
    """One file of an artifact."""

    path: str  # in the artifact
    digest: str  # MD5, base64
    size: int
    at: str | None = None  # local path, relative to the root of its record
    birth: str | None = None  # if the server has it: id of the version that first stored it


@dataclass(frozen=True)
class Reference:
    """A reference: a file that an artifact names but does not hold."""

    path: str  # in the artifact
    ref: str
    digest: str
    size: int | None
    extra: dict[str, Any]


def measured(files: Iterable[tuple[str, Path]], root: Path, known: Mapping[str, str] | None = None) -> list[FileEntry]:
    """Entries of files below ``root``. Digests in ``known``, by path in the artifact, are not computed again."""
    listed, known = list(files), known or {}
    unknown = [file for path, file in listed if path not in known]
    fresh = dict(zip(unknown, map(as_base64, _core.md5_files(unknown)), strict=True)) if unknown else {}
    return [
        FileEntry(
            path,
            known[path] if path in known else fresh[file],
            file.stat().st_size,
            file.relative_to(root).as_posix(),
        )
        for path, file in listed
    ]


def as_base64(digest: str) -> str:
    return base64.b64encode(bytes.fromhex(digest)).decode()


def known_entries(base: Any) -> dict[str, FileEntry]:
    """The files of a committed version, by path in the artifact."""
    return {
        str(path): FileEntry(str(path), entry.digest, entry.size or 0, None, entry.birth_artifact_id or base.id)
        for path, entry in base.manifest.entries.items()
        if entry.ref is None and "alg" not in entry.extra
    }


def carried(entries: Iterable[FileEntry], there: Mapping[str, FileEntry]) -> list[FileEntry]:
    """Mark the entries whose content the server has under the same path; they are not sent again."""
    return [replace(entry, birth=_birth(entry, there.get(entry.path))) for entry in entries]


def _birth(entry: FileEntry, other: FileEntry | None) -> str | None:
    same = other is not None and (entry.digest, entry.size) == (other.digest, other.size)
    return other.birth if same and other is not None else None


def references_of(artifact: Any) -> tuple[Reference, ...]:
    """The references that the user added to an artifact."""
    entries = [(str(path), entry) for path, entry in artifact.manifest.entries.items() if entry.ref is not None]
    return tuple(Reference(path, str(e.ref), e.digest, e.size, dict(e.extra)) for path, e in entries)


def refer(artifact: Any, references: Iterable[Reference]) -> None:
    """Add references to an artifact."""
    for each in references:
        if not private.add_entry(artifact, **asdict(each)):
            artifact.add_reference(each.ref, each.path, checksum=False)


def fill(artifact: Any, entries: Iterable[FileEntry], root: Path) -> None:
    """Declare entries, whose files are below ``root``, an absolute path.

    wandb would resolve a relative path in the working directory of the process that sends the file. The log of an
    offline run may be sent from any directory.
    """
    for entry in entries:
        declared = private.add_entry(
            artifact,
            path=entry.path,
            digest=entry.digest,
            size=entry.size,
            local_path=None if entry.birth else f"{root}/{entry.at}",
            birth_artifact_id=entry.birth,
            skip_cache=True,
        )
        if not declared:
            _fill_publicly(artifact, entry, root)


def _fill_publicly(artifact: Any, entry: FileEntry, root: Path) -> None:
    """The same through public calls: wandb hashes the file again, and the server recognises what it has."""
    artifact.add_file(str(root / str(entry.at)), entry.path, policy="immutable", skip_cache=True, overwrite=True)
