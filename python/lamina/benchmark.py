"""Measures lamina with one checkpoint on this machine, beside the unavoidable work: copying, hashing, writing.

All cases take turns. The first round does not count, and a run counts only if its result is correct.
"""

from __future__ import annotations

import importlib
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from lamina import _core, api
from lamina.errors import StorageError
from lamina.files import h5
from lamina.repository import repository
from lamina.units import human
from lamina.writing import as_repository

_Bytes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
#: Size of the pieces of a tensor that the codec gets; the engine's chunk size.
CHUNK = 1 << 20
#: Bytes that the codec encodes on one thread: far more than fits into caches.
CODEC_BYTES = 128 << 20
#: Copies of the checkpoint that are on the disk at once, and one more as a reserve.
COPIES = 5


@dataclass(frozen=True)
class Case:
    """One row to measure. ``right`` tells whether the result is correct; it and ``prepare`` are not timed."""

    name: str
    run: Callable[[], Any]
    right: Callable[[Any], bool]
    nbytes: int
    prepare: Callable[[], Any] = lambda: None
    stored: Callable[[Any], int | None] = lambda _: None


@dataclass
class Result:
    """The measurements of a case; ``failure`` is the reason if there are none."""

    name: str
    nbytes: int
    seconds: list[float] = field(default_factory=list)
    stored: int | None = None
    failure: str | None = None

    @property
    def median(self) -> float | None:
        """Seconds of the middle run."""
        return None if self.failure or not self.seconds else statistics.median(self.seconds)


def measure(file: Path, folder: Path, repeats: int) -> list[Result]:
    """Measure with this checkpoint; ``folder`` is an empty folder on the disk to measure."""
    size, free = file.stat().st_size, shutil.disk_usage(folder).free
    if free < COPIES * size:
        raise StorageError(f"{folder} has {human(free)} free; measuring {file} needs {human(COPIES * size)}")
    cases = [*_baselines(file, folder), *_ways(file, folder), *_codec(file)]
    results = {case.name: Result(case.name, case.nbytes) for case in cases}
    for turn in range(repeats + 1):
        for case in cases[turn % len(cases) :] + cases[: turn % len(cases)]:
            if results[case.name].failure is None:
                _run(case, results[case.name], counts=turn > 0)
    return list(results.values())


def random_checkpoint(file: Path, nbytes: int) -> None:
    """Write a weights file like Keras's, with untrained weights; they compress worse than trained ones."""
    step, generator = 16 << 20, np.random.default_rng(0)
    sizes = [min(step, nbytes - at) // 4 for at in range(0, nbytes, step)]
    h5.write_vectors(file, (generator.standard_normal(size, np.float32) * np.float32(0.05) for size in sizes))


def _run(case: Case, result: Result, *, counts: bool) -> None:
    try:
        case.prepare()
        start = time.perf_counter()
        found = case.run()
        seconds = time.perf_counter() - start
        if not case.right(found):
            raise ValueError("the result is wrong")
    except Exception as error:  # another library may raise anything; the other cases continue
        result.failure = f"{type(error).__name__}: {error}"
        return
    result.stored = case.stored(found)
    if counts:
        result.seconds.append(seconds)


def _baselines(file: Path, folder: Path) -> Iterator[Case]:
    data = np.fromfile(file, np.uint8)
    target, written = np.zeros_like(data), folder / "written"
    yield Case("memory copy", lambda: np.copyto(target, data), lambda _: np.array_equal(target, data), data.size)
    if (hasher := _installed("blake3")) is not None:
        digests: set[bytes] = set()

        def same(digest: bytes) -> bool:
            digests.add(digest)
            return len(digests) == 1

        yield Case("BLAKE3", lambda: hasher.blake3(data.data, max_threads=1).digest(), same, data.size)

    def write() -> None:
        with written.open("wb", buffering=0) as out:
            rest = memoryview(data.data)
            while rest:
                rest = rest[out.write(rest) :]
            os.fsync(out.fileno())

    yield Case(
        "write + fsync", write, lambda _: _same(written, data), data.size, lambda: written.unlink(missing_ok=True)
    )


def _ways(file: Path, folder: Path) -> Iterator[Case]:
    data = np.memmap(file, np.uint8, "r")
    size, first, out = data.size, folder / "first", folder / "out"
    held = as_repository(folder / "held")
    snapshot = api.save(file, held)

    def comes_back(saved: Any) -> bool:
        return _same(api.export(saved, folder / "back")[0], data)

    def emptied(directory: Path) -> Callable[[], None]:
        return lambda: shutil.rmtree(directory, ignore_errors=True)

    yield Case("lamina save", lambda: api.save(file, first), comes_back, size, emptied(first), _stored)
    yield Case("lamina save, unchanged", lambda: api.save(file, held), comes_back, size, stored=_stored)
    yield Case("lamina verify --full", lambda: repository.open(held.path).verify(full=True), bool, size)
    yield Case(
        "lamina export", lambda: api.export(snapshot, out), lambda paths: _same(paths[0], data), size, emptied(out)
    )


def _codec(file: Path) -> Iterator[Case]:
    """Encode and decode on one thread, in memory, chunk by chunk as in a save."""
    dtype, chunks = _chunks(file)
    if not chunks:
        return
    size = sum(chunk.size for chunk in chunks)
    encoded = [_core.encode(chunk, dtype, "auto") for chunk in chunks]
    yield Case(
        "encode, one thread",
        lambda: [_core.encode(chunk, dtype, "auto") for chunk in chunks],
        lambda found: bool(found == encoded),
        size,
        stored=lambda found: sum(len(data) for _, data in found),
    )
    yield Case(
        "decode, one thread",
        lambda: [_core.decode(codec, data, c.size) for (codec, data), c in zip(encoded, chunks, strict=True)],
        lambda found: all(np.array_equal(np.frombuffer(b, np.uint8), c) for b, c in zip(found, chunks, strict=True)),
        size,
    )
    if (library := _installed("zstandard")) is not None:
        packer, unpacker = library.ZstdCompressor(level=3), library.ZstdDecompressor()
        yield Case(
            "zstd 3, one thread",
            lambda: [packer.compress(chunk.data) for chunk in chunks],
            lambda found: all(unpacker.decompress(d) == c.tobytes() for d, c in zip(found, chunks, strict=True)),
            size,
            stored=lambda found: sum(map(len, found)),
        )


def _chunks(file: Path) -> tuple[str, Sequence[_Bytes]]:
    """The dtype with the most bytes, and chunks of its large tensors."""
    tensors = [t for t in h5.plan_file(file, file.name).tensors if t.nbytes >= CHUNK]
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    dtype = max(sizes, key=lambda name: sizes[name], default="|u1")
    data = np.memmap(file, np.uint8, "r")
    starts = [(t, at) for t in tensors if t.dtype == dtype for at in range(0, t.nbytes // CHUNK * CHUNK, CHUNK)]
    return dtype, [np.array(data[t.offset + at :][:CHUNK]) for t, at in starts[: CODEC_BYTES // CHUNK]]


def _same(path: Path, data: _Bytes) -> bool:
    return path.stat().st_size == data.size and np.array_equal(np.fromfile(path, np.uint8), data)


def _stored(snapshot: Any) -> int:
    return int(snapshot.bytes_stored)


def _installed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
