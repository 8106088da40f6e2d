"""Plans a ``.keras`` file: the zip archive that Keras writes, without the weights."""

from __future__ import annotations

import time
import zipfile
from dataclasses import dataclass, replace
from typing import Any

from lamina.files.plan import FilePlan
from lamina.keras.capture.sparse_image import SparseImage
from lamina.keras.private import saving_lib


@dataclass(frozen=True)
class Members:
    """The members of the archive besides the weights, as Keras serialised them at one moment."""

    config: bytes
    metadata: bytes
    assets: Any  # a DiskIOStore that layers have written to, or None

    def discard(self) -> None:
        if self.assets is not None:
            self.assets.archive = None
            self.assets.close()


def archive_plan(path: str, weights: FilePlan, literals: bytes, crc: int, members: Members) -> tuple[FilePlan, bytes]:
    """The plan of the archive and its literal bytes; ``crc`` is the CRC-32 of the weights' file."""
    image = SparseImage()
    with zipfile.ZipFile(image, "w") as archive:
        for name, text in (
            (saving_lib._METADATA_FILENAME, members.metadata),
            (saving_lib._CONFIG_FILENAME, members.config),
        ):
            with archive.open(name, "w") as member:
                member.write(text)
        start = _leave_room(archive, image, saving_lib._VARS_FNAME_H5, weights.size, crc)
        if members.assets is not None:
            members.assets.archive = archive
            members.assets.close()
    _put(image, weights, literals, start)
    tensors = tuple(replace(t, offset=t.offset + start if t.nbytes else 0) for t in weights.tensors)
    plan = FilePlan(path, image.size, tensors)
    return plan, b"".join(image.pieces(plan.literal_runs()))


def _leave_room(archive: zipfile.ZipFile, image: SparseImage, name: str, size: int, crc: int) -> int:
    """Add a member as ``writestr`` does, but skip its bytes; return the offset where they begin."""
    info = zipfile.ZipInfo(name, time.localtime()[:6])
    info.external_attr = 0o600 << 16
    info.file_size = info.compress_size = size
    info.CRC = crc
    image.seek(archive.start_dir)
    info.header_offset = image.tell()
    # zipfile uses the same margin of 5 % for a member of known size.
    image.write(info.FileHeader(zip64=size * 1.05 > zipfile.ZIP64_LIMIT))
    start = image.tell()
    archive.filelist.append(info)
    archive.NameToInfo[name] = info
    image.seek(start + size)
    archive.start_dir = start + size
    return start


def _put(image: SparseImage, weights: FilePlan, literals: bytes, start: int) -> None:
    at = 0
    for offset, length in weights.literal_runs():
        image.seek(start + offset)
        image.write(literals[at : at + length])
        at += length
