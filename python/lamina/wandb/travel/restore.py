#!/usr/bin/env python3
"""Restore the original files of a lamina artifact or repository, without lamina.

This single file is part of every artifact. It needs Python 3.10 and two packages:

    pip install numpy zstandard             (with `pip install blake3` as well it is several times faster)
    python restore.py                       the artifact that contains this script -> ./restored
    python restore.py SOURCE -o DIR         an artifact directory or a repository -> DIR
    python restore.py REPOSITORY --list
    python restore.py REPOSITORY --snapshot NUMBER|ID

As a module: ``open_source(path)`` has ``snapshots``, ``restore``, ``tensors``, ``training`` and ``verify``.

It was written from docs/format.md alone and shares no code with the engine. Each stored byte is checked
against its BLAKE3 digest before it is used. So damaged data gives an error that says where the damage is, and
never wrong data.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import itertools
import json
import math
import os
import re
import secrets
import stat
import struct
import sys
import unicodedata
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

try:
    import numpy as np
    import numpy.typing as npt
    import zstandard

    if tuple(map(int, zstandard.__version__.split(".")[:2])) < (0, 19):
        raise ImportError(f"zstandard {zstandard.__version__} is too old, 0.19 is needed")
except ImportError as missing:
    if __name__ == "__main__":
        sys.exit(f"restore.py: {missing}; run: pip install --upgrade numpy zstandard")
    raise

# Limits (§10 of the format): a larger number in a file is refused before anything is allocated.
MAX_CHUNK, MAX_CONTENT, MAX_DEPTH = 4 << 20, 1 << 26, 4
MAX_ENTRIES, MAX_PACK, MAX_PLACEMENT, MAX_JSON, MAX_STRUCTURE = 1 << 20, 1 << 40, 4 << 30, 64 << 20, 1 << 30
MAX_FILES, MAX_TENSORS, MAX_RANK = 1 << 20, 1 << 24, 64
# A structure of up to so many bytes is always accepted; a longer one may have at most so many times its stored bytes.
# Real structures do not compress better, and a hostile file of 10 KB could otherwise fill gigabytes.
FREE_STRUCTURE, DENSEST_STRUCTURE = 16 << 20, 256
MAX_WINDOW = 8 << 20  # zstd: what every decoder must support
CACHED_CHUNKS = 16  # tensors of a file alternate with literal bytes, which share chunks; at most 64 MiB

# The form of JSON files in all versions (§4); the groups are kind, version, digest, body.
ENVELOPE = re.compile(
    rb'\{"lamina":"([a-z]+)","version":([1-9][0-9]{0,8}),"blake3":"([0-9a-f]{64})",\n"body":(\{[^\n]*\})\n\}\n'
)
HEADER, TRAILER_MAGIC, PLACEMENT_MAGIC = b"LAMINAPK", b"LAMINAFT", b"LAMINAPL"
TRAILER = struct.Struct("<IIQQQQ32s8s")  # version, entries, footer, required, optional, salt, digest, magic
ENTRY = np.dtype([("id", "V32"), ("encoded", "<u4"), ("raw", "<u4"), ("codec", "u1"), ("kind", "u1"), ("zero", "<u2")])
CONTENT = np.dtype([("id", "V32"), ("length", "<u4")])
RAW, ZSTD, PLANES, DELTA = range(4)
FEATURES, FEATURE_BITS = frozenset({"delta"}), 1
ROLES = frozenset({"weights", "optimizer", "counters", "training"})
DTYPE = re.compile(r"\|[biu]1|[<>][iu][248]|[<>]f(2|4|8|12|16)|[<>]c(8|16|24|32)|(\|[SV]|[<>]U)[1-9][0-9]{0,8}")
ML_DTYPES = re.compile(
    "bfloat16|float8_(e3m4|e4m3|e4m3b11fnuz|e4m3fn|e4m3fnuz|e5m2|e5m2fnuz|e8m0fnu)"
    "|float6_e2m3fn|float6_e3m2fn|float4_e2m1fn|u?int[24]"
)


class RestoreError(Exception):
    """The files cannot be restored; the message is one sentence for the user."""


class DamagedError(RestoreError):
    """Stored bytes are not the bytes that were written."""


class UnsupportedError(RestoreError):
    """The data needs a newer reader, or lamina itself."""


def _demand(good: object, message: str) -> None:
    if not good:
        raise DamagedError(message)


def _demand_version(version: int, what: object) -> None:
    if version != 1:
        raise UnsupportedError(f"{what} has format version {version}; this reader knows version 1")


# --- BLAKE3: all chunks of 1 KiB advance together, one numpy lane each -------------------------------------

Words = npt.NDArray[np.uint32]
Counters = npt.NDArray[np.uint64]
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
PIECE = 4 << 20  # a complete subtree, so that hashing a file needs little memory
IV = np.frombuffer(
    bytes.fromhex("6A09E667 BB67AE85 3C6EF372 A54FF53A 510E527F 9B05688C 1F83D9AB 5BE0CD19"), ">u4"
).astype(np.uint32)[:, None]
PERMUTATION = np.array([2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8])
# For each round, the message words in rows of four: both words of the columns, then of the diagonals.
SCHEDULE = [np.array([0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15])]
for _ in range(6):
    SCHEDULE.append(PERMUTATION[SCHEDULE[-1]])
ROLL = [np.roll(np.arange(4), -by) for by in range(4)]


def _rotate(words: Words, by: int, spare: Words) -> None:
    np.left_shift(words, np.uint32(32 - by), out=spare)
    np.right_shift(words, np.uint32(by), out=words)
    np.bitwise_or(words, spare, out=words)


def _mix(a: Words, b: Words, c: Words, d: Words, first: Words, second: Words, spare: Words) -> None:
    for word, turn_d, turn_b in ((first, 16, 12), (second, 8, 7)):
        a += b
        a += word
        d ^= a
        _rotate(d, turn_d, spare)
        c += d
        b ^= c
        _rotate(b, turn_b, spare)


def _compress(chain: Words, block: Words, counter: Counters, length: Words, flags: Words) -> Words:
    """From chaining values (8, lanes) and blocks (16, lanes) to the next chaining values."""
    a, b, c = chain[:4].copy(), chain[4:].copy(), np.repeat(IV[:4], chain.shape[1], axis=1)
    low, high = counter.astype(np.uint32), (counter >> np.uint64(32)).astype(np.uint32)
    d, spare = np.stack([low, high, length, flags]), np.empty_like(a)
    for order in SCHEDULE:
        words = block[order]
        _mix(a, b, c, d, words[:4], words[4:8], spare)
        b, c, d = b[ROLL[1]], c[ROLL[2]], d[ROLL[3]]
        _mix(a, b, c, d, words[8:12], words[12:], spare)
        b, c, d = b[ROLL[3]], c[ROLL[2]], d[ROLL[1]]
    return np.concatenate([a ^ c, b ^ d])


def _leaves(data: bytes | bytearray, first: int, alone: bool) -> Words:
    """Chaining values (8, lanes) of the 1 KiB chunks; the last one may be short: its lane stops early."""
    lanes = max(1, -(-len(data) // 1024))
    padded = np.zeros(lanes * 1024, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    words = padded.view("<u4").astype(np.uint32, copy=False).reshape(lanes, 16, 16)
    counter = np.arange(first, first + lanes, dtype=np.uint64)
    rest = len(data) - (lanes - 1) * 1024
    end = max(1, -(-rest // 64)) - 1
    chain = np.repeat(IV, lanes, axis=1)
    for index in range(16 if lanes > 1 else end + 1):
        active = lanes if index <= end else lanes - 1
        length = np.full(active, 64, np.uint32)
        flags = np.full(active, CHUNK_START * (index == 0) | CHUNK_END * (index == 15), np.uint32)
        if index == end:
            length[-1] = rest - 64 * end
            flags[-1] |= CHUNK_END | (ROOT if alone and lanes == 1 else 0)
        block = np.ascontiguousarray(words[:active, index].T)
        chain[:, :active] = _compress(chain[:, :active], block, counter[:active], length, flags)
    return chain


def _fold(chain: Words, root: bool) -> Words:
    """Join neighbours level by level (an odd last one moves up) until one chaining value is left."""
    while (lanes := chain.shape[1]) > 1:
        pairs = lanes // 2
        block = np.concatenate([chain[:, 0 : 2 * pairs : 2], chain[:, 1 : 2 * pairs : 2]])
        flags = np.full(pairs, PARENT | (ROOT if root and lanes == 2 else 0), np.uint32)
        counter, length = np.zeros(pairs, np.uint64), np.full(pairs, 64, np.uint32)
        above = _compress(np.repeat(IV, pairs, axis=1), block, counter, length, flags)
        chain = np.concatenate([above, chain[:, 2 * pairs :]], axis=1)
    return chain


class NumpyBlake3:
    """BLAKE3 with 32 bytes of output; used like the class of the ``blake3`` package."""

    def __init__(self, data: bytes = b"") -> None:
        self._buffer = bytearray()
        self._done: list[Words] = []
        self.update(data)

    def update(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) > PIECE:  # the last piece waits: it may hold the root
            piece, first = self._buffer[:PIECE], len(self._done) * PIECE // 1024
            self._done.append(_fold(_leaves(piece, first, alone=False), root=False))
            del self._buffer[:PIECE]

    def digest(self) -> bytes:
        alone = not self._done
        last = _fold(_leaves(self._buffer, len(self._done) * PIECE // 1024, alone), root=alone)
        root = _fold(np.concatenate([*self._done, last], axis=1), root=True)
        return root[:, 0].astype("<u4").tobytes()


Blake3: Any = NumpyBlake3
with contextlib.suppress(ImportError, AttributeError):
    Blake3 = importlib.import_module("blake3").blake3


def blake3(data: bytes) -> bytes:
    digest: bytes = Blake3(data).digest()
    return digest


# --- Codecs (§7) -------------------------------------------------------------------------------------------


def _unzstd(frame: bytes, length: int) -> bytes:
    """Decode one frame of exactly ``length`` bytes; a frame that claims another length is not decoded."""
    try:
        claimed = zstandard.frame_content_size(frame)
        _demand(claimed in (-1, length), f"a zstd frame claims {claimed} bytes instead of {length}")
        decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        data: bytes = decoder.decompress(frame, max_output_size=length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DamagedError(f"a zstd frame cannot be decoded ({error})") from None
    _demand(len(data) == length, f"a zstd frame holds {len(data)} bytes instead of {length}")
    return data


def _plane(mode: int, stored: bytes, count: int) -> bytes:
    if mode == 0 and len(stored) == count:
        return stored
    if mode == 1:
        return _unzstd(stored, count)
    if mode == 2 and len(stored) == 1:
        return stored * count
    raise DamagedError(f"a byte plane has mode {mode} and {len(stored)} bytes")


def _unplane(encoded: bytes, length: int) -> bytes:
    width, transform = (encoded[0], encoded[1]) if len(encoded) >= 2 else (0, 0)
    start = 2 + 5 * width
    good = width in (1, 2, 4, 8) and transform <= 1 and length % width == 0 and len(encoded) >= start
    _demand(good, f"byte planes of width {width} and transform {transform} do not fit {length} bytes")
    count = length // width
    words = np.empty((count, width), np.uint8)
    for index, (mode, size) in enumerate(struct.iter_unpack("<BI", encoded[2:start])):
        words[:, index] = np.frombuffer(_plane(mode, encoded[start : start + size], count), np.uint8)
        start += size
    _demand(start == len(encoded), "byte planes do not fill their chunk")
    if transform:
        turned = words.view(f"<u{width}")
        words = ((turned >> 1) | (turned << (8 * width - 1))).astype(turned.dtype, copy=False)
    return words.tobytes()


def _image(words: npt.NDArray[Any], floats: int) -> npt.NDArray[Any]:
    """Map floats to integers in the same order (§7): negative ones are inverted, and below the others."""
    top = words.dtype.type(1 << (8 * words.itemsize - 1))
    return np.where(words & top, ~words, words | top) if floats else words


def _undelta(encoded: bytes, base: bytes, length: int) -> bytes:
    floats, age, width = encoded[:3] if len(encoded) > 2 else (0, 0, 0)
    good = floats <= 1 and age and width in (1, 2, 4, 8) and len(base) == length
    _demand(good, f"a delta of form {floats} and width {width} does not fit {length} bytes")
    steps = np.frombuffer(_unplane(encoded[2:], length), f"<u{width}")
    one = steps.dtype.type(1)
    image = _image(np.frombuffer(base, steps.dtype), floats) + ((steps >> one) ^ (~(steps & one) + one))
    if floats:
        top = steps.dtype.type(1 << (8 * width - 1))
        image = np.where(image & top, image ^ top, ~image)
    data: bytes = image.astype(steps.dtype, copy=False).tobytes()
    return data


def _decode(codec: int, encoded: bytes, length: int) -> bytes:
    if codec == ZSTD:
        return _unzstd(encoded, length)
    return _unplane(encoded, length) if codec == PLANES else encoded


# --- Envelopes, packs and the placement (§4, §6) -----------------------------------------------------------


def _opened(path: Path) -> io.BufferedReader:
    """Open a regular file only: a pipe could block, and a device may never end."""
    opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if stat.S_ISREG(os.fstat(opened).st_mode):
        return os.fdopen(opened, "rb")
    os.close(opened)
    raise DamagedError(f"{path} is not a regular file")


def _whole(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _json(data: bytes, what: str) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(constant)

    try:
        value = json.loads(data.decode(), parse_constant=refuse)
    except (ValueError, RecursionError):
        value = None
    _demand(isinstance(value, dict), f"{what} is damaged: it does not hold a JSON object")
    return value  # type: ignore[no-any-return]


def read_envelope(path: Path, kind: str) -> tuple[str, dict[str, Any]]:
    """Read the digest and the body of a JSON file of the kind ``config`` or ``snapshot``."""
    with _opened(path) as file:
        data = file.read(MAX_JSON + 1)
    match = ENVELOPE.fullmatch(data)
    if len(data) > MAX_JSON or match is None:
        raise DamagedError(f"{path} is damaged: it is not a JSON document of lamina")
    digest = match[3].decode()
    found = blake3(data[: match.start(3)] + data[match.end(3) :]).hex()
    _demand(found == digest, f"{path} is damaged: its digest does not match")
    _demand(match[1] == kind.encode(), f"{path} holds a {match[1].decode()}; expected a {kind}")
    _demand_version(int(match[2]), path)
    body = _json(match[4], str(path))
    for names in (body.get("required"), body.get("optional")):
        good = isinstance(names, list) and all(isinstance(name, str) for name in names)
        _demand(good, f"{path} is damaged: it does not list its features")
    if unknown := [name for name in body["required"] if name not in FEATURES]:
        raise UnsupportedError(f"{path} needs lamina itself: it requires {', '.join(map(ascii, unknown))}")
    return digest, body


class Pack(NamedTuple):
    path: Path
    length: int

    def read(self, offset: int, length: int) -> bytes:
        try:
            with _opened(self.path) as file:
                found = file.seek(0, os.SEEK_END)
                file.seek(offset)
                data = file.read(length)
        except FileNotFoundError:
            raise DamagedError(f"pack {self.path.stem} is missing") from None
        good = found == self.length and len(data) == length
        _demand(good, f"pack {self.path.stem} has {found} bytes instead of {self.length}")
        return data


class Location(NamedTuple):
    """Where a chunk is stored, and how."""

    pack: Pack
    offset: int
    encoded: int
    raw: int
    codec: int
    base: bytes | None


Index = dict[bytes, list[Location]]


def _add_pack(index: Index, pack: Pack, footer: bytes, trailer: bytes) -> None:
    """Check footer and trailer (§6.3), then add the chunks to the index."""
    name = f"pack {pack.path.stem}"
    version, count, size, required, _optional, _salt, digest, magic = TRAILER.unpack(trailer)
    good = magic == TRAILER_MAGIC and size == len(footer) and blake3(HEADER + footer + trailer[:40]) == digest
    _demand(good, f"{name} is damaged: the digest of its footer does not match")
    _demand_version(version, name)
    if unknown := required & ~FEATURE_BITS:
        bits = (f"bit {bit}" for bit in range(64) if unknown >> bit & 1)
        raise UnsupportedError(f"{name} needs lamina itself: it requires {', '.join(bits)}")
    split = count * ENTRY.itemsize
    good = 1 <= count <= MAX_ENTRIES and len(footer) >= split
    _demand(good, f"{name} is damaged: {count} entries do not make a footer of {len(footer)} bytes")
    entries = np.frombuffer(footer, ENTRY, count)
    deltas = int((entries["codec"] == DELTA).sum())
    good = len(footer) == split + 32 * deltas and (required & FEATURE_BITS or not deltas)
    _demand(good, f"{name} is damaged: it does not list the bases of its {deltas} deltas")
    bases = (footer[at : at + 32] for at in range(split, len(footer), 32))
    encoded, raw = entries["encoded"].astype(np.int64), entries["raw"]
    fine = (encoded >= 1) & (encoded <= raw) & (raw <= MAX_CHUNK)
    fine &= (entries["codec"] <= DELTA) & (entries["kind"] <= 2) & (entries["zero"] == 0)
    fine &= (entries["codec"] != RAW) | (encoded == raw)
    ends = len(HEADER) + np.cumsum(encoded)
    good = fine.all() and ends[-1] + len(footer) + len(trailer) == pack.length <= MAX_PACK
    _demand(good, f"{name} is damaged: its entries do not describe {pack.length} bytes")
    columns = (entries["id"], ends - encoded, encoded, raw, entries["codec"])
    for chunk, offset, size, length, codec in zip(*(column.tolist() for column in columns), strict=True):
        base = next(bases) if codec == DELTA else None
        index.setdefault(chunk, []).append(Location(pack, offset, size, length, codec, base))


def _add_pack_file(index: Index, path: Path) -> None:
    pack = Pack(path, path.stat().st_size)
    least = len(HEADER) + TRAILER.size
    good = pack.length >= least and pack.read(0, len(HEADER)) == HEADER
    _demand(good, f"pack {path.stem} is damaged: it does not begin as a pack")
    trailer = pack.read(pack.length - TRAILER.size, TRAILER.size)
    size = TRAILER.unpack(trailer)[2]
    good = size <= min(pack.length - least, MAX_ENTRIES * (ENTRY.itemsize + 32))
    _demand(good, f"pack {path.stem} is damaged: its footer does not fit")
    _add_pack(index, pack, pack.read(pack.length - TRAILER.size - size, size), trailer)


def _read_placement(path: Path) -> Index:
    with _opened(path) as file:
        data = file.read(MAX_PLACEMENT + 1)
    good = 48 <= len(data) <= MAX_PLACEMENT and data[:8] == PLACEMENT_MAGIC and blake3(data[:-32]) == data[-32:]
    _demand(good, f"{path} is damaged: its digest does not match")
    version, packs = struct.unpack_from("<II", data, 8)
    _demand_version(version, path)
    index: Index = {}
    position, end, before = 16, len(data) - 32, b""
    for _ in range(packs):
        _demand(end - position >= 48, f"{path} is damaged: it ends inside a pack's entry")
        name, length, size = struct.unpack_from("<32sQQ", data, position)
        position += 48
        good = name > before and TRAILER.size <= size <= end - position
        _demand(good, f"{path} is damaged: its entry for pack {name.hex()} does not fit")
        middle, after = position + size - TRAILER.size, position + size
        pack = Pack(path.parent / "packs" / f"{name.hex()}.pack", length)
        _add_pack(index, pack, data[position:middle], data[middle:after])
        position, before = after, name
    _demand(position == end, f"{path} is damaged: it holds more than its {packs} packs")
    return index


# --- Structure and state (§5) ------------------------------------------------------------------------------


def _check_paths(paths: list[str]) -> None:
    """Refuse paths that could leave the target folder, or that are the same file on some file system."""
    for path in paths:
        bad = any(part in ("", ".", "..") for part in path.split("/"))
        bad = bad or any(sign in "\\:" or unicodedata.category(sign) in ("Cc", "Cs") for sign in path)
        good = not bad and len(path.encode()) <= 1024
        _demand(good, f"the snapshot names a file with the forbidden path {path!a}")
    known = {_folded(path) for path in paths}
    _demand(len(known) == len(paths), "the snapshot names two files that are the same for some file systems")
    for path in known:
        parts = path.split("/")
        good = not any("/".join(parts[:depth]) in known for depth in range(1, len(parts)))
        _demand(good, f"the snapshot uses a file as the folder of {path!a}")


def _folded(path: str) -> str:
    """A form that is equal for paths that some file system treats as the same."""
    lower = unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).lower())
    return "/".join(part.rstrip(". ") for part in lower.split("/"))


def _check_disjoint(runs: list[tuple[int, int]]) -> None:
    """Refuse a snapshot that uses a byte of its state twice, so that it cannot expand beyond its state."""
    runs = sorted(run for run in runs if run[1])
    for (start, length), (following, _) in itertools.pairwise(runs):
        _demand(start + length <= following, f"the snapshot uses byte {following} of its state twice")


def _element(name: str) -> np.dtype[Any]:
    """The dtype for a name of the format; opaque bytes of the same size if ml_dtypes lacks it."""
    if ML_DTYPES.fullmatch(name):
        with contextlib.suppress(ImportError, AttributeError):
            known: np.dtype[Any] = np.dtype(getattr(importlib.import_module("ml_dtypes"), name))
            return known
        return np.dtype("V2" if name == "bfloat16" else "u1")
    _demand(DTYPE.fullmatch(name), f"the snapshot names the dtype {name!a}, which the format does not have")
    try:
        return np.dtype(name)
    except (TypeError, ValueError):
        raise UnsupportedError(f"numpy does not know the dtype {name!a} here") from None


class Tensor(NamedTuple):
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    length: int


def _tensor(record: object, state_length: int) -> Tensor:
    match record:
        case [str(name), str(dtype), list(shape), str(role), int(offset)] if (
            role in ROLES and len(shape) <= MAX_RANK and all(_whole(side, 0, (1 << 64) - 1) for side in shape)
        ):
            element = _element(dtype)
            length = element.itemsize * math.prod(shape)
            if _whole(offset, 0, state_length - length if length else 0):
                return Tensor(name, element, tuple(shape), offset, length)
    raise DamagedError(f"the snapshot has an invalid tensor description: {ascii(record)[:200]}")


Entries = npt.NDArray[Any]  # of the dtype CONTENT


class State:
    """The state of one snapshot: its bytes, and the files and tensors in them."""

    def __init__(self, source: Source, body: dict[str, Any]) -> None:
        match body.get("state"):
            case {"length": length, "structure": list(structure), "depth": depth, "root": list(root)}:
                deepest = MAX_DEPTH if root else 0
                good = _whole(length, 0, MAX_CONTENT * MAX_CHUNK) and _whole(depth, 0, deepest)
                _demand(good, f"the snapshot's state has the length {length!a} and the depth {depth!a}")
            case _:
                raise DamagedError("the snapshot does not describe its state")
        self._source, self.length = source, length
        content = self._expand(_entries(root), depth)
        self._ids, self._ends = content["id"], np.cumsum(content["length"], dtype=np.int64)
        total = int(self._ends[-1]) if len(content) else 0
        _demand(total == length, f"the snapshot's chunks add up to {total} bytes instead of {length}")
        self.files, self._training = self._parse(_entries(structure))

    def _expand(self, level: Entries, depth: int) -> Entries:
        """Replace nodes by the chunks that they list, until only content is left."""
        limit = min(MAX_CONTENT, self.length, max(1 << 20, self.length >> 12)) * CONTENT.itemsize
        for _ in range(depth):
            below = bytearray()
            for chunk, length in level.tolist():
                below += self._source.chunk(chunk, length)
                good = length % CONTENT.itemsize == 0 and len(below) <= limit
                _demand(good, f"node {chunk.hex()} does not list chunks, or too many")
            level = _checked(below)
        return level

    def _parse(self, structure: Entries) -> tuple[list[dict[str, Any]], list[Any]]:
        length = int(structure["length"].sum(dtype=np.int64))
        _demand(length <= MAX_STRUCTURE, f"the snapshot's structure is longer than {MAX_STRUCTURE} bytes")
        self._check_density(structure)
        data = b"".join(self._source.chunk(chunk, length) for chunk, length in structure.tolist())
        match _json(data, "the snapshot's structure"):
            case {"files": list(files), "training": list(training)} if len(files) <= MAX_FILES:
                _check_disjoint([extent for file in files for extent in self._extents(file)])
                _check_paths([file["path"] for file in files])
                count = sum(len(file["tensors"]) for file in files) + len(training)
                _demand(count <= MAX_TENSORS, f"the snapshot has more than {MAX_TENSORS} tensors")
                return files, training
        raise DamagedError("the snapshot's structure does not list files and training tensors")

    def _check_density(self, structure: Entries) -> None:
        """Refuse a structure that is too long for its stored chunks; chunks that are not here do not count."""
        length, stored = 0, {}
        for chunk, size in structure.tolist():
            if encoded := self._source.stored(chunk):
                length, stored[chunk] = length + size, encoded
        room = sum(stored.values())
        good = length <= max(FREE_STRUCTURE, DENSEST_STRUCTURE * room)
        _demand(good, f"a structure of {length} bytes cannot be stored as {room}")

    def _extents(self, file: object) -> list[tuple[int, int]]:
        found = []
        match file:
            case {"path": str(path), "size": size, "tensors": list(), "extents": list(extents)}:
                for extent in extents:
                    match extent:
                        case [int(offset), length] if _whole(length, 1, self.length - offset):
                            _demand(_whole(offset, 0, self.length), f"file {path!a} begins before the state")
                            found.append((offset, length))
                        case _:
                            raise DamagedError(f"file {path!a} has the invalid extent {ascii(extent)[:100]}")
                good = type(size) is int and size == sum(length for _, length in found)
                _demand(good, f"the extents of file {path!a} do not add up to its size")
                return found
        raise DamagedError(f"the snapshot has an invalid file description: {ascii(file)[:200]}")

    def read(self, offset: int, length: int) -> Iterator[memoryview]:
        index = int(np.searchsorted(self._ends, offset, side="right"))
        while length:
            end = int(self._ends[index])
            start = int(self._ends[index - 1]) if index else 0
            data = memoryview(self._source.chunk(self._ids[index].tobytes(), end - start))
            part = data[offset - start : offset - start + length]
            yield part
            offset, length, index = offset + len(part), length - len(part), index + 1

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The tensors of files, and those of the training state, by name.

        If two files have a tensor of the same name, all tensors of files are called ``FILE:NAME``.
        """
        records = [(file["path"], record) for file in self.files for record in file["tensors"]]
        found = [(path, _tensor(record, self.length)) for path, record in records]
        training = [_tensor(record, self.length) for record in self._training]
        _check_disjoint([(t.offset, t.length) for t in [*training, *(tensor for _, tensor in found)]])
        outside = {tensor.name: tensor for tensor in training}
        inside = {tensor.name: tensor for _, tensor in found}
        if len(inside) < len(found):
            inside = {f"{path}:{tensor.name}": tensor for path, tensor in found}
        good = len(inside) == len(found) and len(outside) == len(training)
        _demand(good, "the snapshot gives two tensors of one file the same name")
        return inside, outside


def _checked(packed: bytes | bytearray) -> Entries:
    entries = np.frombuffer(bytes(packed), CONTENT)
    good = ((entries["length"] >= 1) & (entries["length"] <= MAX_CHUNK)).all()
    _demand(good, f"the snapshot lists a chunk that is empty or longer than {MAX_CHUNK} bytes")
    return entries


def _entries(pairs: list[Any]) -> Entries:
    packed = bytearray()
    for pair in pairs:
        match pair:
            case [str(name), length] if re.fullmatch("[0-9a-f]{64}", name) and _whole(length, 1, MAX_CHUNK):
                packed += bytes.fromhex(name) + struct.pack("<I", length)
            case _:
                raise DamagedError(f"the snapshot lists a chunk as {ascii(pair)[:200]}")
    return _checked(packed)


# --- The source --------------------------------------------------------------------------------------------


def _refuse_existing(target: Path, force: bool) -> None:
    if not force and os.path.lexists(target):
        raise RestoreError(f"{target} exists; choose another folder, or overwrite it with --force")


class Source:
    """An artifact directory or a repository; ``open_source`` makes it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._index: Index | None = None
        self._unread: list[RestoreError] = []  # why packs of a repository could not be used
        self._used: set[Pack] = set()
        self._cache: OrderedDict[bytes, bytes] = OrderedDict()
        self.is_artifact = (root / "lamina.json").is_file()
        if self.is_artifact:
            self._files = {0: root / "lamina.json"}  # by number; an artifact has none
        elif (root / "config.json").is_file() and (root / "snapshots").is_dir():
            read_envelope(root / "config.json", "config")
            found = sorted((root / "snapshots").glob("*.json"))
            self._files = {int(path.stem): path for path in found if re.fullmatch("[0-9]{10}", path.stem)}
        else:
            raise RestoreError(f"{root} is neither an artifact (lamina.json) nor a repository (config.json)")

    def snapshots(self) -> list[dict[str, Any]]:
        """The snapshots, oldest first: their fields, ``id``, and ``number`` (None in an artifact)."""
        return [self._snapshot(number) for number in self._files]

    def _snapshot(self, number: int) -> dict[str, Any]:
        digest, body = read_envelope(self._files[number], "snapshot")
        for field in ("created_at", "series", "kind"):
            _demand(isinstance(body.get(field), str), f"{self._files[number]} is damaged: it has no {field}")
        return {**body, "id": digest[:32], "number": number or None}

    def find(self, wanted: int | str | None = None) -> dict[str, Any]:
        """The snapshot of this number or id; without one, the newest, if there is only one series."""
        if wanted is None:
            return self._newest()
        text = str(wanted)
        if re.fullmatch("[0-9]{1,10}", text):
            if int(text) in self._files:
                return self._snapshot(int(text))
        else:
            readable, unread = self._readable()
            for snapshot in readable:
                if snapshot["id"] == text:
                    return snapshot
            if unread:
                raise unread[0]
        raise RestoreError(f"{self.root} has no snapshot {text!a}")

    def _newest(self) -> dict[str, Any]:
        if not self._files:
            raise RestoreError(f"{self.root} has no snapshots")
        newest = self._snapshot(max(self._files))
        series = {str(snapshot.get("series")): snapshot["number"] for snapshot in self._readable()[0]}
        if len(series) == 1:
            return newest
        listed = ", ".join(f"{number} of {name!a}" for name, number in sorted(series.items()))
        raise RestoreError(f"{self.root} holds several series; name a snapshot, for example: {listed}")

    def _readable(self) -> tuple[list[dict[str, Any]], list[RestoreError]]:
        """The snapshots that can be read, and the errors of the others."""
        readable, unread = [], []
        for number in self._files:
            try:
                readable.append(self._snapshot(number))
            except RestoreError as error:
                unread.append(error)
        return readable, unread

    def restore(
        self, directory: str | os.PathLike[str], snapshot: int | str | None = None, *, force: bool = False
    ) -> list[Path]:
        """Write the files of a snapshot into a directory; returns their paths."""
        return list(self.restoring(directory, snapshot, force=force))

    def restoring(
        self, directory: str | os.PathLike[str], snapshot: int | str | None = None, *, force: bool = False
    ) -> Iterator[Path]:
        """Like `restore`, but yields each path when its file is written."""
        state, base = State(self, self.find(snapshot)), Path(directory)
        for file in state.files:
            _refuse_existing(base / file["path"], force)
        base.mkdir(parents=True, exist_ok=True)
        for file in state.files:
            try:
                yield self._write(state, base, file, force)
            except RestoreError as error:
                raise type(error)(f"file {file['path']!a} cannot be restored: {error}") from None

    def _write(self, state: State, base: Path, file: dict[str, Any], force: bool) -> Path:
        target: Path = base / file["path"]
        inside, folder = base.resolve(), target.parent.resolve()
        if folder != inside and inside not in folder.parents:
            raise RestoreError(f"a link leads from {target.parent} out of {base}")
        folder.mkdir(parents=True, exist_ok=True)
        hidden = folder / f".{secrets.token_hex(8)}.part"
        try:
            with hidden.open("xb") as out:
                for offset, length in file["extents"]:
                    out.writelines(state.read(offset, length))
                out.flush()
                os.fsync(out.fileno())
            _refuse_existing(target, force)
            hidden.replace(target)
        except BaseException:
            hidden.unlink(missing_ok=True)
            raise
        return target

    def tensors(self, snapshot: int | str | None = None) -> dict[str, npt.NDArray[Any]]:
        """The tensors of a snapshot's files, as new arrays in memory."""
        state = State(self, self.find(snapshot))
        return {name: _array(state, tensor) for name, tensor in state.tensors()[0].items()}

    def training(self, snapshot: int | str | None = None) -> dict[str, npt.NDArray[Any]]:
        """The tensors of a snapshot's training state, which are in no file."""
        state = State(self, self.find(snapshot))
        return {name: _array(state, tensor) for name, tensor in state.tensors()[1].items()}

    def verify(self, snapshot: int | str | None = None) -> None:
        """Read everything that a snapshot needs, and its packs as a whole; raises an error at the first damage."""
        self._cache.clear()
        self._used.clear()
        state = State(self, self.find(snapshot))
        state.tensors()
        for _ in state.read(0, state.length):
            pass
        for pack in sorted(self._used):
            hasher = Blake3()
            for offset in range(0, pack.length, PIECE):
                hasher.update(pack.read(offset, min(PIECE, pack.length - offset)))
            good = hasher.digest().hex() == pack.path.stem
            _demand(good, f"pack {pack.path.stem} is damaged: its bytes do not have the digest of its name")

    def chunk(self, chunk: bytes, length: int) -> bytes:
        """The bytes of a chunk, from any pack that has them intact."""
        data = self._cache.pop(chunk, None) or self._load(chunk)
        _demand(len(data) == length, f"chunk {chunk.hex()} has {len(data)} bytes instead of {length}")
        self._cache[chunk] = data
        if len(self._cache) > CACHED_CHUNKS:
            self._cache.popitem(last=False)
        return data

    def stored(self, chunk: bytes) -> int:
        """The fewest bytes that a chunk takes in a pack; 0 if no pack has it."""
        return min((location.encoded for location in self._locations(chunk)), default=0)

    def _locations(self, chunk: bytes) -> list[Location]:
        if self._index is None:
            self._index = self._read_index()
        return self._index.get(chunk, [])

    def _decoded(self, location: Location) -> bytes:
        encoded = location.pack.read(location.offset, location.encoded)
        if location.base is None:
            return _decode(location.codec, encoded, location.raw)
        try:  # a base is never a delta itself
            base = self._cache.get(location.base) or self._load(location.base, whole=True)
        except DamagedError as error:
            raise DamagedError(f"its base cannot be read: {error}") from None
        return _undelta(encoded, base, location.raw)

    def _load(self, chunk: bytes, *, whole: bool = False) -> bytes:
        failed = None
        for location in sorted(self._locations(chunk), key=lambda location: location.base or b""):
            if whole and location.base:
                continue
            try:
                data = self._decoded(location)
                _demand(len(data) == location.raw and blake3(data) == chunk, "its bytes do not match its digest")
                self._used.add(location.pack)
                return data
            except DamagedError as error:
                where = f"chunk {chunk.hex()} in pack {location.pack.path.stem}"
                failed = failed or DamagedError(f"{where} is damaged: {error}")
        if failed:
            raise failed
        reason = f" ({self._unread[0]})" if self._unread else ""
        kind = type(self._unread[0]) if self._unread else DamagedError
        raise kind(f"chunk {chunk.hex()} is in none of the packs{reason}")

    def _read_index(self) -> Index:
        placement = self.root / "lamina.placement"
        if self.is_artifact and placement.exists():
            return _read_placement(placement)
        index: Index = {}
        for path in sorted((self.root / "packs").glob("*.pack")):
            try:
                if re.fullmatch("[0-9a-f]{64}", path.stem):
                    _add_pack_file(index, path)
            except RestoreError as error:  # other snapshots may not need this pack
                self._unread.append(error)
        return index


def _array(state: State, tensor: Tensor) -> npt.NDArray[Any]:
    data = bytearray().join(state.read(tensor.offset, tensor.length))
    try:
        return np.frombuffer(data, np.uint8).view(tensor.dtype).reshape(tensor.shape)
    except ValueError as error:
        raise RestoreError(f"numpy cannot hold the tensor {tensor.name!a}: {error}") from None


def open_source(path: str | os.PathLike[str]) -> Source:
    return Source(Path(path))


def _line(snapshot: dict[str, Any]) -> str:
    fields = ("created_at", "kind", "series", "epoch", "bytes_total")
    shown = (f"{name}={snapshot.get(name)!a}" for name in fields)
    return "  ".join([f"{snapshot['number'] or '-':>6}", snapshot["id"], *shown])


def main(arguments: list[str] | None = None) -> int:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="Restore the original files of a lamina artifact or repository.")
    about = "artifact directory or repository (default: the folder of this script)"
    parser.add_argument("source", nargs="?", default=here, metavar="SOURCE", help=about)
    parser.add_argument("-o", "--output", default="restored", metavar="DIR", help="default: ./restored")
    parser.add_argument("--snapshot", metavar="NUMBER|ID", help="default: the newest")
    parser.add_argument("--list", action="store_true", help="list the snapshots and write nothing")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):  # the terminal may not be able to show every character of a path
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        source = open_source(options.source)
        if options.list:
            for snapshot in source.snapshots():
                print(_line(snapshot))
            return 0
        for path in source.restoring(options.output, options.snapshot, force=options.force):
            print(f"{path}  {path.stat().st_size} bytes, verified", flush=True)
    except (RestoreError, OSError, UnicodeError) as error:
        print(f"restore.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
