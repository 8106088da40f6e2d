"""The cost of a version after a thousand others, with ten thousand tensors, and with a state of many gigabytes."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import lamina
from benches.blocked import peak, reset_peak, status
from benches.corpora import size_text
from benches.measure import Bench, Row, Table, demand
from benches.state import State, check_export
from benches.stored import on_disk
from lamina import Keep
from lamina.repository.repository import Repository

#: Part of the tensors that moves between two versions.
PART = 0.01
WINDOW = 10
#: Every so many versions one is exported and compared.
CHECKED = 100
NEWEST = 20
LARGE, QUICK_LARGE = 8 << 30, 64 << 20
#: At most so many bytes in one tensor of the large state, and at least so many tensors.
LAYER, LAYERS = 128 << 20, 10

FORMATS = {
    "CPU ms": "{:.1f}",
    "ms": "{:.1f}",
    "new kB": "{:,.1f}",
    "added kB": "{:,.1f}",
    "packs / live": "{:.3f}",
    "packs": "{:.0f}",
    "placement kB": "{:,.1f}",
    "reads": "{:,.0f}",
    "restore CPU ms": "{:.1f}",
    "open ms": "{:.1f}",
    "RSS MB": "{:,.0f}",
}


def run(bench: Bench) -> Iterator[Table]:
    """Many versions, with and without retention; many tensors; a large state."""
    few = [16 << 10] * 200
    many = [(64, 256, 2048, 5120)[i % 4] for i in range(200 if bench.quick else 10_000)]
    versions = 40 if bench.quick else 1000
    for keep in (None, Keep(last=NEWEST)):
        yield _versions("scale", few if bench.quick else few * 5, versions, keep, bench)
    yield _versions("tensors", many, min(versions, 100), None, bench)
    yield _large(bench)


# Many versions.


@dataclass
class _Watched:
    """A growing repository, and the cost of each version."""

    state: State
    repository: Repository
    keep: Keep | None
    costs: list[dict[str, float]] = field(default_factory=list)

    def save(self, look: bool) -> Any:
        """Save the state; with ``look`` also measure the disk usage and a restore."""
        before = self._bytes() if look else 0
        start, cpu = time.perf_counter(), time.process_time()
        snapshot = self.state.save(self.repository, "auto")
        cost = {"ms": (time.perf_counter() - start) * 1e3, "CPU ms": (time.process_time() - cpu) * 1e3}
        if look:
            cost |= self._look(snapshot, before)
        if self.keep:
            start, cpu = time.perf_counter(), time.process_time()
            self.repository.prune(self.keep)
            cost["ms"] += (time.perf_counter() - start) * 1e3
            cost["CPU ms"] += (time.process_time() - cpu) * 1e3
        self.costs.append(cost)
        return snapshot

    def _bytes(self) -> int:
        return on_disk(self.repository.path)

    def _look(self, snapshot: Any, before: int) -> dict[str, float]:
        core = self.repository._core
        reader = core.reader(snapshot._core)
        packs = core.packs_of(snapshot._core)
        live = sum(reader.encoded(0, self.state.nbytes))
        cost = {
            "new kB": snapshot.bytes_new / 1e3,
            "added kB": (self._bytes() - before) / 1e3,
            "packs / live": sum(length for _, length in packs) / live,
            "packs": len(packs),
            "placement kB": len(core.placement_bytes(snapshot._core)) / 1e3,
            "RSS MB": status("VmRSS") / 1e6,
        }
        start = time.perf_counter()
        again = lamina.open(self.repository.path).snapshot("latest")
        names = list(again.tensors)
        cost["open ms"] = (time.perf_counter() - start) * 1e3
        reads, cpu = _reads(), time.process_time()
        again._opened().read_named(names)
        return cost | {"reads": _reads() - reads, "restore CPU ms": (time.process_time() - cpu) * 1e3}

    def middle(self, last: int) -> dict[str, float]:
        """Medians of the versions up to number ``last``."""
        window = self.costs[last - WINDOW : last]
        return {name: statistics.median(cost[name] for cost in window) for name in FORMATS}


def _reads() -> int:
    """The number of file reads of this process."""
    try:
        return int(Path("/proc/self/io").read_text().split()[5])
    except OSError:  # Linux only
        return 0


def _versions(title: str, shapes: list[int], versions: int, keep: Keep | None, bench: Bench) -> Table:
    state, folder = State(shapes), bench.folder / "versions"
    about = f"{versions:,} versions of {len(shapes):,} tensors, {size_text(state.nbytes)}"
    bench.say(f"scale: {about}, keep={keep}")
    watched = _Watched(state, lamina.repository.repository.open_or_create(folder), keep)
    # The 10th, 100th and 1000th version. The first window ends later, so that its middle is the 10th version.
    ends = {10: 10 + WINDOW // 2} | {end: end for end in (100, 1000) if end < versions} | {versions: versions}
    looked = {number for end in ends.values() for number in range(end - WINDOW + 1, end + 1)}
    failure = ""
    try:
        for number in range(1, versions + 1):
            snapshot = watched.save(number in looked)
            if number in (1, 10, versions) or number % CHECKED == 0:
                check_export(snapshot, state.digest(), bench.folder / "out")
            state.step(PART)
    except Exception as error:  # its row says FAIL and the others continue
        failure = f"{type(error).__name__}: {error}"
    rows = _compared(watched, ends, failure)
    shutil.rmtree(folder)
    pruned = "no prune" if keep is None else f"pruned to the last {keep.last} after each, prune included"
    note = (
        f"{about}, {PART:.0%} of the tensors (random ones) moved between two, from memory, codec=auto, "
        f"{pruned}; medians of {WINDOW} versions; 'reads' of one restore from 'packs' files, 'open' of the repository "
        f"by another process; each {CHECKED}th exported and compared"
    )
    held = "keep all" if keep is None else f"keep {keep.last}"
    return Table(f"{title} · {len(shapes):,} tensors, {held}", note, FORMATS, rows)


def _compared(watched: _Watched, ends: dict[int, int], failure: str) -> list[Row]:
    if failure:
        return [Row("each version", {}, failure, ours=True)]
    found = {number: watched.middle(end) for number, end in ends.items()}
    rows = [Row(f"the {number:,}th", values, ours=True) for number, values in found.items()]
    last = max(found)
    for number in sorted(found)[:-1]:
        ratios = {name: found[last][name] / base for name, base in found[number].items() if base}
        rows.append(Row(f"the {last:,}th / the {number:,}th", ratios, ours=True))
    return rows


# A large state, in its own process, whose peak memory belongs to it alone.


def _large(bench: Bench) -> Table:
    size = QUICK_LARGE if bench.quick else _affordable(bench.folder)
    bench.say(f"scale: a state of {size_text(size)}")
    rows = []
    for codec in ("auto", "raw"):
        folder = bench.folder / "large"
        folder.mkdir()
        command = [sys.executable, "-m", "benches.scale", str(size), codec, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        shutil.rmtree(folder)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            rows.append(Row(f"codec={codec}", {}, reason, ours=True))
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        rows.append(Row(f"codec={codec}", found, ours=True))
    note = (
        f"{size_text(size)} of weights in a Keras model, Checkpointer.save until the snapshot is committed; the second "
        "save has another tenth; peak above what the model takes; each tensor read back and compared"
    )
    if size < LARGE and not bench.quick:
        note += f"; the memory or the disk here is too small for {size_text(LARGE)}"
    formats = {
        "blocked ms": "{:,.0f}",
        "commit s": "{:.1f}",
        "MB/s": "{:,.0f}",
        "above MB": "{:,.0f}",
        "above / state": "{:.2f}",
        "second s": "{:.1f}",
        "second above MB": "{:,.0f}",
        "disk / state": "{:.3f}",
    }
    return Table(f"large · {size_text(size)}", note, formats, rows)


def _affordable(folder: Path) -> int:
    """A state size that fits: the backend copies the state once, and the disk needs 1.1 times its size."""
    free = shutil.disk_usage(folder).free
    available = next(
        (int(line.split()[1]) << 10 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable")), LARGE * 3
    )
    size = LARGE
    while size > LAYER and (size * 3 // 2 > free or size * 5 // 2 > available):
        size //= 2
    return size


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def measure_large(size: int, codec: str, folder: Path) -> dict[str, float]:
    """Peak memory and time of two saves of a model of ``size`` bytes."""
    import keras

    from lamina.keras.checkpointer import Checkpointer

    rows = max(LAYERS, size // LAYER)
    variables = _variables(keras, rows, size // rows // 4)
    state = sum(int(np.prod(v.shape)) * 4 for v in variables)
    model = _holder(keras, variables)
    found: dict[str, float] = {}
    with Checkpointer(model, folder / "repository", weights_only=True, codec=codec) as saves:
        for number, name in enumerate(("", "second ")):
            before = reset_peak()
            start = time.perf_counter()
            saves.save(epoch=number)
            blocked = time.perf_counter() - start
            saves.wait()
            took, above = time.perf_counter() - start, peak() - before
            snapshot = saves.last_snapshot
            demand(snapshot is not None and snapshot.number == number + 1, "the save made no snapshot")
            if number == 0:
                found |= {"blocked ms": blocked * 1e3, "commit s": took, "MB/s": state / took / 1e6}
                found |= {"above MB": above / 1e6, "above / state": above / state}
                for index in range(0, rows, 10):
                    variables[index].assign(_values(1000 + index, size // rows // 4))
            else:
                found |= {f"{name}s": took, f"{name}above MB": above / 1e6}
        _compare(keras, snapshot, variables)
    return found | {"disk / state": on_disk(folder) / state}


def _values(seed: int, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    values: np.ndarray[Any, np.dtype[np.float32]] = np.random.default_rng(seed).standard_normal(count, np.float32)
    values *= np.float32(0.02)
    return values


def _variables(keras: Any, rows: int, count: int) -> list[Any]:
    return [keras.Variable(_values(index, count), name=f"v{index}") for index in range(rows)]


def _holder(keras: Any, variables: list[Any]) -> Any:
    """A built model whose weights are these variables."""

    class Holder(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self, held: list[Any]) -> None:
            super().__init__()
            self.held = held

        def call(self, x: Any) -> Any:
            return x

    inputs = keras.Input((1,))
    return keras.Model(inputs, Holder(variables)(inputs))


def _compare(keras: Any, snapshot: Any, variables: list[Any]) -> None:
    names = [tensor.name for tensor in snapshot.tensors.values() if tensor.role == "weights"]
    demand(len(names) == len(variables), f"{len(names)} tensors came back, not {len(variables)}")
    for name in names:
        (array,) = lamina.read_tensors(snapshot, [name]).values()
        wanted = np.asarray(keras.ops.convert_to_numpy(variables[int(name.rsplit("/", 1)[1])]))
        demand(np.array_equal(array, wanted), f"{name} came back changed")


if __name__ == "__main__":
    wanted, chosen, place = sys.argv[1:]
    os.makedirs(place, exist_ok=True)
    print(json.dumps(measure_large(int(wanted), chosen, Path(place))))
