"""The minimum for any checkpoint: copy, hash, write and read the same bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benches import peers
from benches.measure import Bench, Contender, demand
from benches.peers import Bytes
from lamina import _core

COPY = "memory copy"
WRITE = "write + fsync"


def copy(data: Bytes) -> Contender:
    """Copy to memory that was touched before, on one thread."""
    target = np.zeros_like(data)

    def run(_: Any) -> None:
        np.copyto(target, data)

    return Contender(COPY, run, lambda _: demand(np.array_equal(target, data), "the copy differs"))


def hashes(data: Bytes, bench: Bench) -> Iterator[Contender]:
    """BLAKE3 of the bytes."""
    seen: set[str] = set()

    def check(value: str) -> None:
        seen.add(value)
        demand(len(seen) == 1, "the digest depends on the number of threads")

    for name, digest in peers.blake3(bench.missing):
        yield Contender(name, partial(_apply, digest, data), check)


def _apply(digest: Callable[[Bytes], str], data: Bytes, _: Any) -> str:
    return digest(data)


def write(data: Bytes, folder: Path) -> Contender:
    """Write a new file and flush it to disk."""
    path = folder / "written"

    def prepare() -> None:
        path.unlink(missing_ok=True)

    def run(_: Any) -> None:
        with path.open("wb", buffering=0) as file:
            rest = memoryview(data.data)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())

    return Contender(WRITE, run, lambda _: demand(same(path, data), "the file differs"), prepare)


def same(path: Path, data: Bytes) -> bool:
    """Whether a file holds exactly these bytes."""
    return path.stat().st_size == data.size and np.array_equal(np.fromfile(path, np.uint8), data)


def threads() -> str:
    """The number of threads of the engine, for a note."""
    n = _core.default_threads()
    return f"{n} engine thread{'s' * (n > 1)}"
