"""Ways to write packs to disk: their time, their CPU time, and how much of the page cache they fill.

For a buffered write, kernel threads write pages to disk later; that work is not part of the CPU time.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benches.baselines import same
from benches.corpora import size_text
from benches.measure import Bench, Contender, Table, demand, race, times

#: Packs of a save of half a gigabyte, and what is written at a time.
PACKS, PACK, QUICK_PACK, PIECE = 16, 32 << 20, 1 << 20, 1 << 20
BUFFERED = "buffered"
#: Of sync_file_range.
WRITE = 2


@dataclass(frozen=True)
class Way:
    """How a file is opened, and what follows each piece and the flush."""

    name: str
    flags: int = 0
    after_piece: Callable[[int, int], None] = lambda file, at: None
    after_flush: Callable[[int], None] = lambda file: None
    cached: list[float] = field(default_factory=list)


def run(bench: Bench) -> Iterator[Table]:
    """One table; Linux only."""
    if sys.platform != "linux":
        bench.missing["writes"] = "it asks Linux for sync_file_range and O_DIRECT"
        return
    size = QUICK_PACK if bench.quick else PACK
    bench.say(f"writes: {PACKS} of {size_text(size)}")
    memory = mmap.mmap(-1, PACKS * size)  # page-aligned, as O_DIRECT requires
    data = np.frombuffer(memory, np.uint8)
    data[:] = np.random.default_rng(1).integers(0, 256, data.size, np.uint8)
    ways = [
        Way(BUFFERED),
        Way("DONTNEED after the flush", after_flush=_forget),
        Way("sync_file_range, then DONTNEED", 0, _begin_flush, _forget),
        Way("O_DIRECT", os.O_DIRECT),
    ]
    contenders = [_contender(way, data, size, bench.folder) for way in ways]
    note = (
        "packs one after the other from warm memory, fsync of each; 'cached' is the part that is in the page cache "
        "afterwards; CPU is that of this process"
    )
    table = times("writes", note, race(contenders, bench.repeats), data.size, {"buffered": BUFFERED})
    for row, way in zip(table.rows, ways, strict=True):
        row.values = {**row.values, "cached": statistics.median(way.cached or [float("nan")])}
    table.formats = {**table.formats, "cached": "{:.2f}"}
    yield table


def _contender(way: Way, data: Any, size: int, folder: Path) -> Contender:
    path = folder / "written"
    path.mkdir(exist_ok=True)

    def prepare() -> None:
        for pack in path.iterdir():
            pack.unlink()

    def write(_: Any) -> None:
        for number in range(PACKS):
            _write(way, path / str(number), data[number * size :][:size].data)

    def check(_: Any) -> None:
        packs = sorted(path.iterdir(), key=lambda pack: int(pack.name))
        way.cached.append(statistics.mean(_resident(pack) for pack in packs))
        right = [same(pack, data[number * size :][:size]) for number, pack in enumerate(packs)]
        demand(len(right) == PACKS and all(right), "a pack differs")

    return Contender(way.name, write, check, prepare)


def _write(way: Way, path: Path, data: Any) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | way.flags)
    try:
        for at in range(0, len(data), PIECE):
            done = os.pwrite(file, data[at : at + PIECE], at)
            demand(done == PIECE, "a piece was written only partly")
            way.after_piece(file, at)
        os.fsync(file)
        way.after_flush(file)
    finally:
        os.close(file)


def _begin_flush(file: int, at: int) -> None:
    _libc().sync_file_range(file, ctypes.c_int64(at), ctypes.c_int64(PIECE), WRITE)


def _forget(file: int) -> None:
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def _resident(path: Path) -> float:
    """The part of a file that is in the page cache."""
    size = path.stat().st_size
    pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE) as mapped:
        start = ctypes.addressof(anchor := ctypes.c_char.from_buffer(mapped))
        found = _libc().mincore(ctypes.c_void_p(start), ctypes.c_size_t(size), pages)
        del anchor
    demand(found == 0, "mincore failed")
    return sum(page & 1 for page in pages) / len(pages)


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)
