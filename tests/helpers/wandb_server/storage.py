"""Blobs on disk, by key; a blob appears whole, by rename."""

from __future__ import annotations

import os
import shutil
from hashlib import md5
from itertools import count
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote


class Storage:
    """A folder of blobs; keys are relative paths whose parts are quoted, so no key leaves the folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / "incoming"
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._incoming.mkdir(parents=True)
        self._serial = count()

    def path(self, key: str) -> Path:
        parts = (quote(part, safe="=").replace(".", "%2E") for part in key.split("/"))
        return self._root.joinpath("blobs", *parts)

    def exists(self, key: str) -> bool:
        return self.path(key).is_file()

    def size(self, key: str) -> int:
        return self.path(key).stat().st_size

    def read(self, key: str) -> bytes:
        return self.path(key).read_bytes()

    def write(self, key: str, content: bytes) -> None:
        path = self.incoming()
        path.write_bytes(content)
        self.accept(path, key)

    def incoming(self) -> Path:
        """A fresh temporary file's path."""
        return self._incoming / str(next(self._serial))

    def accept(self, path: Path, key: str) -> None:
        target = self.path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)

    def delete(self, key: str) -> None:
        self.path(key).unlink(missing_ok=True)

    def keys(self, folder: str) -> list[str]:
        """The keys below a folder (only for folders whose names need no quoting)."""
        base = self.path(folder)
        return [f"{folder}/{path.relative_to(base)}" for path in base.rglob("*") if path.is_file()]

    def join(self, keys: list[str], target: str) -> str:
        """Put parts together into one blob and give back its MD5 in hex."""
        digest, path = md5(), self.incoming()
        with path.open("wb") as output:
            for key in keys:
                with self.path(key).open("rb") as part:
                    _copy(part, output, digest)
                self.delete(key)
        self.accept(path, target)
        return digest.hexdigest()


def _copy(source: BinaryIO, target: BinaryIO, digest: object) -> None:
    while chunk := source.read(1 << 20):
        digest.update(chunk)  # type: ignore[attr-defined]
        target.write(chunk)


def flip(chunk: bytes) -> bytes:
    """The same number of bytes, with the first one wrong."""
    return bytes([chunk[0] ^ 0xFF]) + chunk[1:] if chunk else chunk
