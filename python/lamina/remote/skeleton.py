"""A bucket as a repository on this machine whose packs have holes: all that can be known without reading chunks."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

from lamina.fetching.transfer import Range, make_sparse
from lamina.remote.bucket import Bucket
from lamina.remote.transfer import Transfer

# docs/format.md §6
_HEAD, _TRAILER = 8, 80
_FOOTER_LENGTH = struct.Struct("<Q")
#: A footer has 44 bytes for each chunk of usually 1 MiB: one request brings it with its trailer, mostly.
_GUESS = 16 << 10


def build(bucket: Bucket, folder: Path, *, whole: bool = False) -> Path:
    """Make it in a folder; its packs have their beginnings and ends, or all of their bytes if they are ``whole``."""
    for part in ("snapshots", "aliases"):
        shutil.copytree(bucket.mirror / part, folder / part)
    (folder / "config.json").write_bytes(bucket.config)
    (folder / "packs").mkdir()
    transfer = Transfer(bucket.store)
    for name, size in bucket.packs.items():
        make_sparse(_path(folder, name), size)
    if whole:
        transfer.fetch(_range(folder, name, 0, size) for name, size in bucket.packs.items())
        return folder
    transfer.fetch(_guessed(folder, bucket.packs))
    transfer.fetch(_rest_of_footers(folder, bucket.packs))
    return folder


def _guessed(folder: Path, packs: dict[str, int]) -> Iterator[Range]:
    for name, size in packs.items():
        if size <= _GUESS + _HEAD:
            yield _range(folder, name, 0, size)
        else:
            yield _range(folder, name, 0, _HEAD)
            yield _range(folder, name, size - _GUESS, size)


def _rest_of_footers(folder: Path, packs: dict[str, int]) -> Iterator[Range]:
    for name, size in packs.items():
        if size <= _GUESS + _HEAD:
            continue
        with _path(folder, name).open("rb") as file:
            file.seek(size - _TRAILER + 8)
            (footer,) = _FOOTER_LENGTH.unpack(file.read(8))
        start = size - _TRAILER - footer
        if _HEAD <= start < size - _GUESS:  # what it says may be damage; the engine finds that out
            yield _range(folder, name, start, size - _GUESS)


def _range(folder: Path, name: str, start: int, end: int) -> Range:
    return Range(f"packs/{name}.pack", start, end - start, _path(folder, name))


def _path(folder: Path, name: str) -> Path:
    return folder / "packs" / f"{name}.pack"
