"""Reads of a snapshot that stands elsewhere: what they need is fetched first, into sparse files, and nothing else."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from lamina import _core
from lamina.errors import CorruptDataError
from lamina.fetching.copies import immutable_copy
from lamina.fetching.transfer import Range, Transfer, make_sparse

#: A pack is downloaded whole if at least this share of it is needed, or if it is at most this small.
WHOLE_SHARE, WHOLE_BYTES = 0.6, 1 << 20
#: A gap of at most so many bytes between two ranges is downloaded too: it costs less than a second request.
GAP_BYTES = 128 << 10
# docs/format.md §6
_ENTRY, _TAIL = struct.Struct("<32sIIBBH"), 80
_HEAD, _PACK = 8, struct.Struct("<32sQQ")
_DELTA, _NODE = 3, 1
_MAX_PACK = 1 << 40
Span: TypeAlias = tuple[int, int]  # from, to


@dataclass(frozen=True)
class StoredChunk:
    """One place of a chunk: a pack, and where in it."""

    pack: str
    offset: int
    length: int
    base: str | None
    kind: int


#: Pack → length, pack → its end (footer and trailer), chunk → where it is stored.
Placement: TypeAlias = "tuple[dict[str, int], dict[str, bytes], dict[str, list[StoredChunk]]]"


def read_placement(placement: bytes, what: str) -> Placement:
    """Parse ``lamina.placement``.

    Raises:
        CorruptDataError: if it is damaged.
    """
    try:
        return _read_placement(placement)
    except (struct.error, IndexError, ValueError) as error:
        raise CorruptDataError(f"{what} is damaged: {error}") from error


def _read_placement(data: bytes) -> Placement:
    magic, _, count = struct.unpack_from("<8sII", data)
    if magic != b"LAMINAPL":
        raise ValueError("it does not begin with LAMINAPL")
    packs: dict[str, int] = {}
    tails: dict[str, bytes] = {}
    chunks: dict[str, list[StoredChunk]] = {}
    at = 16
    for _ in range(count):
        digest, length, tail = _PACK.unpack_from(data, at)
        at += _PACK.size
        if not _TAIL <= tail <= length <= _MAX_PACK or at + tail > len(data):
            raise ValueError(f"pack {digest.hex()} cannot have {length} bytes, {tail} of them after its chunks")
        footer = data[at : at + tail - _TAIL]
        (entries,) = struct.unpack_from("<I", data, at + tail - _TAIL + 4)
        packs[digest.hex()] = length
        tails[digest.hex()] = data[at : at + tail]
        _add_entries(chunks, digest.hex(), footer, entries, length)
        at += tail
    return packs, tails, chunks


def _add_entries(chunks: dict[str, list[StoredChunk]], pack: str, footer: bytes, count: int, length: int) -> None:
    if count * _ENTRY.size > len(footer):
        raise ValueError(f"the footer of pack {pack} is too short")
    bases = (footer[at : at + 32].hex() for at in range(count * _ENTRY.size, len(footer), 32))
    offset = _HEAD
    for number in range(count):
        chunk, encoded, _, codec, kind, _ = _ENTRY.unpack_from(footer, number * _ENTRY.size)
        base = next(bases, None) if codec == _DELTA else None
        if offset + encoded > length:
            raise ValueError(f"a chunk lies outside of pack {pack}")
        chunks.setdefault(chunk.hex(), []).append(StoredChunk(pack, offset, encoded, base, kind))
        offset += encoded


def _merged(spans: Iterable[Span], gap: int) -> list[Span]:
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start - found[-1][1] <= gap:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _without(spans: list[Span], there: list[Span]) -> list[Span]:
    """``spans`` without the bytes in ``there``; both are sorted and do not overlap."""
    found = []
    for start, end in spans:
        for have, until in there:
            if until <= start or have >= end:
                continue
            if have > start:
                found.append((start, have))
            start = max(start, until)
        if start < end:
            found.append((start, end))
    return found


class PackStore:
    """Pack files in a folder, downloaded as far as they were needed."""

    def __init__(self, folder: Path, transfer: Transfer, placement: bytes, local: Sequence[Path], what: str) -> None:
        self.folder = folder
        self._transfer = transfer
        self._what = what
        self._sizes, self._tails, self._chunks = read_placement(placement, f"lamina.placement of {what}")
        self._local = local
        self._from_local: set[str] = set()
        self._there: dict[str, list[Span]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for name in self._sizes:
            self._use_local(name)

    def _use_local(self, name: str) -> None:
        """Use the pack of a local repository, if one has it."""
        for folder in self._local:
            source = folder / f"{name}.pack"
            if source.is_file() and source.stat().st_size == self._sizes[name]:
                immutable_copy(source, self._path(name))
                self._from_local.add(name)
                return

    def discard_local(self) -> bool:
        """Discard packs that came from local repositories; False if there are none."""
        local, self._from_local = self._from_local, set()
        for name in local:
            self._path(name).unlink(missing_ok=True)
        return bool(local)

    def metadata(self, state: Mapping[str, Any]) -> set[str]:
        """Ids of the chunks that must be read before the content is known."""
        found = {chunk for chunk, _ in state["structure"]}
        if state["depth"] > 0:
            found |= {chunk for chunk, _ in state["root"]}
        if state["depth"] > 1:
            found |= {c for c, stored in self._chunks.items() if any(each.kind == _NODE for each in stored)}
        return found

    def need(self, chunks: Iterable[str]) -> None:
        """Download these chunks and their bases, as far as they are not here yet."""
        wanted: dict[str, list[Span]] = {}
        seen = set(chunks)
        left = list(seen)
        while left:
            for stored in self._readable(left.pop()):
                if stored.base is not None and stored.base not in seen:  # damaged bases may form a cycle
                    seen.add(stored.base)
                    left.append(stored.base)
                wanted.setdefault(stored.pack, []).append((stored.offset, stored.offset + stored.length))
        missing = {pack: self._missing(pack, spans) for pack, spans in wanted.items() if pack not in self._from_local}
        self._transfer.fetch(
            Range(f"packs/{pack}.pack", start, end - start, self._path(pack))
            for pack, spans in missing.items()
            for start, end in spans
        )
        for pack, spans in missing.items():
            self._check_frame(pack, spans)
            self._there[pack] = _merged([*self._there.get(pack, ()), *spans], 0)

    def need_packs(self, without: Set[str]) -> None:
        """Download whole packs."""
        wanted = {pack: [(0, size)] for pack, size in self._sizes.items() if pack not in without}
        for pack, spans in wanted.items():
            missing = self._missing(pack, spans)
            self._transfer.fetch(
                Range(f"packs/{pack}.pack", start, end - start, self._path(pack)) for start, end in missing
            )
            self._there[pack] = spans

    def _readable(self, chunk: str) -> list[StoredChunk]:
        """Where the engine reads a chunk from: not from a delta, if it is also stored without one."""
        stored = self._chunks.get(chunk, [])
        return [each for each in stored if each.base is None] or stored

    def _check_frame(self, pack: str, spans: list[Span]) -> None:
        """Check the downloaded header and tail of a pack; the engine verifies the chunks between them."""
        tail = self._tails[pack]
        for expected, at in ((b"LAMINAPK", 0), (tail, self._sizes[pack] - len(tail))):
            if any(start <= at and at + len(expected) <= end for start, end in spans):
                with self._path(pack).open("rb") as file:
                    file.seek(at)
                    found = file.read(len(expected))
                if found != expected:
                    raise CorruptDataError(f"packs/{pack}.pack of {self._what} arrived damaged")

    def _missing(self, pack: str, spans: list[Span]) -> list[Span]:
        size, path = self._sizes[pack], self._path(pack)
        if not path.exists():
            make_sparse(path, size)
        there = self._there.get(pack, [])
        if size <= WHOLE_BYTES or sum(end - start for start, end in spans) >= WHOLE_SHARE * size:
            spans = [(0, size)]
        return _merged(_without(_merged(spans, 0), there), GAP_BYTES if not there else 0)

    def _path(self, pack: str) -> Path:
        return self.folder / f"{pack}.pack"


class FetchingReader:
    """A reader for `lamina.repository.content.Content` that downloads first what it reads."""

    def __init__(self, folder: Path, store: PackStore, what: str) -> None:
        self._folder = folder
        self._store = store
        self._what = what
        body = _core.unseal("snapshot", (folder / "lamina.json").read_bytes(), f"lamina.json of {what}")
        self._state = json.loads(body)["state"]
        try:
            self._reader = self._opened()
        except CorruptDataError:
            if not self._store.discard_local():
                raise
            self._reader = self._opened()

    def _opened(self) -> _core.Reader:
        self._store.need(self._store.metadata(self._state))
        folder = self._folder
        return _core.Reader.open_artifact(folder / "lamina.json", folder / "lamina.placement", self._store.folder)

    @property
    def folder(self) -> Path:
        """The local copy, in the form of an artifact directory; its packs may have holes."""
        return self._folder

    def fetch_packs(self, without: Set[str]) -> None:
        """Download all packs that are not in ``without``, each whole."""
        self._store.need_packs(without)

    def structure(self) -> str:
        return self._reader.structure()

    def chunks(self, offset: int, length: int) -> list[tuple[str, int]]:
        return self._reader.chunks(offset, length)

    def encoded(self, offset: int, length: int) -> list[int]:
        return self._reader.encoded(offset, length)

    def packs(self) -> list[str]:
        return self._reader.packs()

    def read(self, wants: Sequence[tuple[int, np.ndarray[Any, np.dtype[np.uint8]]]], threads: int = 0) -> None:
        spans = [(offset, buffer.nbytes) for offset, buffer in wants]
        self._verified(spans, lambda: self._reader.read(wants, threads))

    def export(self, folder: Path, threads: int = 0) -> list[Path]:
        exported: list[Path] = self._verified(
            [(0, self._state["length"])], lambda: self._reader.export(folder, threads)
        )
        return exported

    def _verified(self, spans: Iterable[tuple[int, int]], read: Any) -> Any:
        listed = list(spans)
        self._fetch(listed)
        try:
            return read()
        except CorruptDataError:
            if not self._store.discard_local():
                raise
        self._reader = self._opened()  # packs of a local repository are damaged; try those of the server
        self._fetch(listed)
        return read()

    def _fetch(self, spans: Iterable[tuple[int, int]]) -> None:
        self._store.need({chunk for span in spans for chunk, _ in self._reader.chunks(*span)})
