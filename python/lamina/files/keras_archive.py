"""Reads from a .keras file without unpacking it: where its HDF5 file is, and how the model was compiled."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# The most bytes that one read of a file's structure may request: a hostile length must not allocate more.
MAX_READ = 16 << 20
KERAS_MEMBER = "model.weights.h5"
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
#: Where checksums stand in the header of a member and in its entry in the directory; the lengths of what follows that.
_LOCAL_CHECKSUM, _DIRECTORY_CHECKSUM = 14, 16
_DIRECTORY_ENTRY, _DIRECTORY_LENGTHS = 46, 28


def stored_weights(raw: io.FileIO, size: int) -> tuple[int, int] | None:
    """Offset and size of the embedded HDF5 file; None if it is compressed or encrypted."""
    with _opened(raw, size) as archive:
        members = [info for info in archive.infolist() if info.filename == KERAS_MEMBER]
    if len(members) != 1:
        return None
    info = members[0]
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.header_offset < 0:
        return None
    raw.seek(info.header_offset)
    header = raw.read(_LOCAL_HEADER.size + len(KERAS_MEMBER))
    if len(header) < _LOCAL_HEADER.size + len(KERAS_MEMBER):
        return None
    magic, _, flags, method, _, _, _, _, _, name_length, extra_length = _LOCAL_HEADER.unpack_from(header)
    if magic != b"PK\3\4" or flags & 1 or method != zipfile.ZIP_STORED:
        return None
    if header[_LOCAL_HEADER.size :] != KERAS_MEMBER.encode() or name_length != len(KERAS_MEMBER):
        return None
    start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    return (start, info.file_size) if start + info.file_size <= size else None


def renew_checksum(path: Path) -> None:
    """Give the embedded HDF5 file, whose bytes have changed in place, the checksum that they have now.

    It stands twice: before the member, and in the directory at the end of the archive.
    """
    with path.open("r+b", buffering=0) as raw:
        size = path.stat().st_size
        found = stored_weights(raw, size)
        if found is None:
            return
        with _opened(raw, size) as archive:
            members, at = archive.infolist(), archive.start_dir
        checksum = struct.pack("<L", _checksum(raw, *found))
        for info in members:
            raw.seek(at)
            name, extra, comment = struct.unpack_from("<3H", raw.read(_DIRECTORY_ENTRY), _DIRECTORY_LENGTHS)
            if info.filename == KERAS_MEMBER:
                for place in (info.header_offset + _LOCAL_CHECKSUM, at + _DIRECTORY_CHECKSUM):
                    raw.seek(place)
                    raw.write(checksum)
            at += _DIRECTORY_ENTRY + name + extra + comment


def _checksum(raw: io.FileIO, start: int, length: int) -> int:
    raw.seek(start)
    checksum = 0
    while length and (block := raw.read(min(length, MAX_READ))):
        checksum, length = zlib.crc32(block, checksum), length - len(block)
    return checksum


def training(path: Path) -> dict[str, str]:
    """The ``training`` field of a snapshot of a ``.keras`` file: its optimizer's class, without loss scaling."""
    if path.suffix != ".keras" or not path.is_file():
        return {}
    try:
        with path.open("rb", buffering=0) as raw, _opened(raw, path.stat().st_size) as archive:
            optimizer = json.loads(_read(archive, "config.json"))["compile_config"]["optimizer"]
        return {"optimizer": str(optimizer["config"].get("inner_optimizer", optimizer)["class_name"])}
    except Exception:  # damage raises almost any exception; reading the file itself gives a proper error
        return {}


def is_unpacked(names: Collection[str]) -> bool:
    """Whether these are the files of ``model.save(folder, zipped=False)``: a ``.keras`` archive as a folder."""
    return {"config.json", "metadata.json"} <= set(names) and bool({KERAS_MEMBER, "model.weights.json"} & set(names))


def _opened(raw: io.FileIO, size: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(cast(IO[bytes], Window(raw, 0, size)))


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read a small member. `ZipFile.read` would unpack everything before it checks the size."""
    info = archive.getinfo(name)
    # For other methods zipfile unpacks without a limit.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.file_size > MAX_READ:
        raise zipfile.BadZipFile(f"{name} is too large, or compressed by a method that Keras does not use")
    with archive.open(info) as member:
        return member.read(info.file_size)


class Window(io.RawIOBase):
    """A part of a file as a read-only file object. A single read is limited to `MAX_READ` bytes."""

    def __init__(self, raw: io.FileIO, start: int, size: int) -> None:
        self._raw, self._start, self._size, self._at = raw, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = (0, self._at, self._size)[whence]
        if base + offset < 0:
            raise OSError("seek before the start of the window")
        self._at = base + offset
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        left = max(self._size - self._at, 0)
        self._check(left if size < 0 else size)
        return super().read(size) or b""

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        self._check(len(view))
        wanted = max(min(len(view), self._size - self._at), 0)
        self._raw.seek(self._start + self._at)
        done = 0
        while done < wanted and (n := self._raw.readinto(view[done:wanted])):
            done += n
        self._at += done
        # h5py ignores short reads and would use whatever was in the buffer.
        view[done:] = bytes(len(view) - done)
        return done

    @staticmethod
    def _check(size: int) -> None:
        if size > MAX_READ:
            raise OSError(f"refused to read {size} bytes of a file's structure at once; at most {MAX_READ} are allowed")
