"""MD5 of packs, by which W&B identifies files: many streams at once beside one after the other, on one thread."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benches.corpora import size_text
from benches.measure import Bench, Contender, Table, demand, race, times
from lamina import _core

#: Packs of a save of half a gigabyte.
PACKS, PACK = 16, 32 << 20
QUICK_PACK = 1 << 20
HASHLIB = "hashlib"
BUFFER = 256 << 10


def run(bench: Bench) -> Iterator[Table]:
    """One table: sixteen packs, and one alone, where lanes do not help."""
    size, rng = QUICK_PACK if bench.quick else PACK, np.random.default_rng(1)
    paths = [bench.folder / f"{number}.pack" for number in range(PACKS)]
    for path in paths:
        path.write_bytes(rng.bytes(size))
    wanted = [hashlib.md5(path.read_bytes()).hexdigest() for path in paths]
    for count in (PACKS, 1):
        bench.say(f"md5: {count} of {size_text(size)}")
        yield _table(paths[:count], wanted[:count], size, bench)


def _table(paths: list[Path], wanted: list[str], size: int, bench: Bench) -> Table:
    def check(found: list[str]) -> None:
        demand(found == wanted, "a digest differs")

    def with_hashlib(_: Any) -> list[str]:
        return [_hashlib(path) for path in paths]

    contenders = [
        Contender(HASHLIB, with_hashlib, check),
        Contender("lamina", lambda _: _core.md5_files(paths), check, ours=True),
    ]
    note = f"files in the page cache, one thread, kernels: {_core.cpu_level()} (LAMINA_CPU=avx2 asks for others)"
    title = f"md5 · {len(paths)} of {size_text(size)}"
    return times(title, note, race(contenders, bench.repeats), size * len(paths), {"hashlib": HASHLIB})


def _hashlib(path: Path) -> str:
    digest = hashlib.md5()
    buffer = bytearray(BUFFER)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()
