"""Trains, saves, prunes and restores for minutes, with random faults: ``python tests/helpers/soak.py MINUTES [SEED]``.

Prints what was done, and the memory, descriptors and threads of this process over time. Fails if these grew, if a
reported version is missing or changed, or if an error is not one of `lamina.errors`.
"""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
from keras import layers

import busy_process
import lamina
from lamina.errors import LaminaError, StorageError
from lamina.keras import ModelCheckpoint
from small_disk import small_disk

_BUSY = Path(busy_process.__file__)
#: Bytes by which this process may grow in the second half, by a fitted line: an allocator may keep this much, but one
#: leaked state per round would exceed it within 20 rounds.
_GROWTH = 32 << 20
#: Memory is checked from this round on; before, compiled steps, pools and caches are still created.
_ENOUGH = 60
#: Seconds until a thread that has done its work must have ended.
_ENDS = 30


class Numbered(keras.callbacks.Callback):
    """Sets all elements of each epoch's state to one number."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.number = first

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        self.number += 1
        for variable in self.model.trainable_variables:
            variable.assign(np.full(variable.shape, self.number, "float32"))


@dataclass(frozen=True)
class Usage:
    """The resources of this process, while nothing is running."""

    seconds: float
    memory: int
    descriptors: int
    threads: int


@dataclass
class Soak:
    """The repository, the model, and what happened so far."""

    folder: Path
    chance: random.Random
    done: Counter[str] = field(default_factory=Counter)
    usage: list[Usage] = field(default_factory=list)
    number: int = 0

    def __post_init__(self) -> None:
        self.model = keras.Sequential([keras.Input((300,)), layers.Dense(700), layers.Dense(300)])
        self.model.compile("adam", "mse")
        self.repository = lamina.repository.repository.open_or_create(self.folder / "r")
        busy_process.save(self.repository, 0, "first")

    def round(self) -> None:
        with self._beside():
            self.train()
        self.chance.choice(FAULTS)(self)
        self.look()
        no_threads_left()
        self.usage.append(usage())

    # --- Work of each round ---

    def train(self, between: Callable[[], None] = lambda: None) -> None:
        """Save several times; ``between`` may do something after the first."""
        numbered = Numbered(self.number)
        callback = ModelCheckpoint(
            self.folder / "m.weights.h5",
            save_weights_only=True,
            repository=self.repository,
            keep=busy_process.KEEP,
            on_commit=lambda commit: self.done.update(["saved"]),
        )

        def begin(epoch: int, logs: object) -> None:
            if epoch == 1:
                callback.wait()
                between()

        first_saved = keras.callbacks.LambdaCallback(on_epoch_begin=begin)
        batch = np.zeros((4, 300), "float32")
        try:
            self.model.fit(batch, batch, epochs=6, callbacks=[numbered, callback, first_saved], verbose=0)
        finally:
            self.number = numbered.number
        assert callback.last_snapshot is not None
        self.restore(callback.last_snapshot)

    def restore(self, snapshot: lamina.Snapshot) -> None:
        for variable in self.model.trainable_variables:
            variable.assign(np.zeros(variable.shape, "float32"))
        lamina.restore(snapshot, self.model)
        for source in (self.model.get_weights(), in_file(self.folder / "m.weights.h5")):
            assert {float(value) for tensor in source for value in np.unique(tensor)} == {float(self.number)}
        self.done["restored"] += 1

    def look(self) -> None:
        """A newly opened repository holds and verifies everything, and cleans up after killed processes."""
        self.prune()
        opened = lamina.open(self.repository.path)
        report = opened.verify(full=True)
        assert not report.problems, report.problems
        self.done["verified"] += len(opened.snapshots())
        assert not [name for name in os.listdir(self.folder) if name.startswith(".")]
        assert not os.listdir(self.repository.path / "sessions")

    def prune(self) -> None:
        self.done["pruned"] += len(self.repository.prune(busy_process.KEEP).snapshots)

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """Another process works on the repository at the same time."""
        role = self.chance.choice(["save", "read", "verify", "prune", "all"])
        with self.busy(role, rounds=3) as process:
            yield
            _, errors = process.communicate(timeout=600)
            assert process.returncode == 0, (role, errors)
        self.done["beside"] += 1

    @contextmanager
    def busy(self, role: str, rounds: int = 100_000, folder: Path | None = None) -> Iterator[subprocess.Popen[str]]:
        seed = self.chance.randrange(5)
        command = [sys.executable, str(_BUSY), role, str(folder or self.repository.path), str(seed), str(rounds)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    # --- Faults ---

    def kill(self) -> None:
        """All that a saver reported before SIGKILL exists."""
        with self.busy("save") as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            time.sleep(self.chance.uniform(0, 0.3))
            process.kill()
            reported = [line for line in (first + process.stdout.read()).splitlines(keepends=True) if line[-1:] == "\n"]
        busy_process.check(self.repository.snapshot(reported[-1].split()[1]))
        self.done["kills"] += 1

    def stop(self) -> None:
        """A saver is stopped at a random moment while the repository is pruned."""
        with self.busy("save") as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(self.chance.uniform(0, 0.1))
            os.kill(process.pid, signal.SIGSTOP)
            known = {snapshot.id for snapshot in self.repository.snapshots()}
            for _ in range(3):
                self.prune()
            os.kill(process.pid, signal.SIGCONT)
            while (found := process.stdout.readline().split()[1]) in known:
                pass
            busy_process.check(self.repository.snapshot(found))
        self.done["stops"] += 1

    def refuse(self) -> None:
        """A limit on the size of files: saves fail with `StorageError`, and later work again."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)

        def limit() -> None:
            # Not earlier: HDF5 writes the first file, and does not close a file that it cannot write.
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.chance.randrange(1, 200_000), limits[1]))

        try:
            self.train(limit)
            raise AssertionError("a file that may not grow was saved")
        except StorageError:
            self.done["refusals"] += 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        self.train()

    def fill(self) -> None:
        """A small disk gets full; all that was reported before exists."""
        with small_disk(self.folder / "small") as disk:
            if disk is None:
                self.done["no small disk (needs root)"] += 1
                return
            repository = lamina.repository.repository.open_or_create(disk / "r")
            reported: list[str] = []
            try:
                for number in range(1000):
                    reported.append(busy_process.save(repository, number, "s").id)
            except StorageError:
                self.done["full disks"] += 1
            opened = lamina.open(disk / "r")
            assert not opened.verify(full=True).problems
            assert [snapshot.id for snapshot in opened.snapshots()] == reported
            opened.prune(lamina.Keep(last=1))
            busy_process.save(opened, 1, "s")

    def damage(self) -> None:
        """A file of a copy is truncated or a bit flipped: the right data or a typed error; the original repairs it."""
        copy = self.folder / "copy"
        shutil.copytree(self.repository.path, copy)
        path = self.chance.choice(sorted([*copy.glob("packs/*.pack"), *copy.glob("snapshots/*.json")]))
        data = bytearray(path.read_bytes())
        if self.chance.random() < 0.5:
            del data[self.chance.randrange(len(data)) :]
        else:
            data[self.chance.randrange(len(data))] ^= 1 << self.chance.randrange(8)
        path.write_bytes(data)
        found = 0
        for read in (read_all, verify_whole):
            try:
                read(lamina.open(copy))
            except LaminaError:
                found += 1
        assert found, path
        lamina.open(copy).repair(self.repository)
        verify_whole(lamina.open(copy))
        read_all(lamina.open(copy))
        shutil.rmtree(copy)
        self.done["damages mended"] += 1


FAULTS: list[Callable[[Soak], None]] = [Soak.kill, Soak.stop, Soak.refuse, Soak.fill, Soak.damage]


def in_file(path: Path) -> list[np.ndarray]:
    return [tensor for name, tensor in lamina.read_tensors(path).items() if "optimizer" not in name]


def read_all(repository: lamina.Repository) -> None:
    for snapshot in repository.snapshots():
        if "number" in snapshot.metadata:
            busy_process.check(snapshot)
        else:
            lamina.read_tensors(snapshot)


def verify_whole(repository: lamina.Repository) -> None:
    report = repository.verify(full=True)
    assert not report.problems, report.problems


def usage() -> Usage:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    descriptors, threads = (len(os.listdir(f"/proc/self/{what}")) for what in ("fd", "task"))
    return Usage(time.monotonic(), pages * resource.getpagesize(), descriptors, threads)


def own_threads() -> list[str]:
    """The names of lamina's threads: the system knows those of the engine, `threading` those of Python."""
    names = [thread.name for thread in threading.enumerate()]
    for task in Path("/proc/self/task").iterdir():
        try:
            names.append((task / "comm").read_text().strip())
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
    return [name for name in names if name.startswith("lamina")]


def no_threads_left() -> None:
    """Whoever waited for a thread's work sees the thread itself for a moment more.

    Nobody tells a callback that `fit` has failed: its thread ends when the callback is garbage.
    """
    end = time.monotonic() + _ENDS
    while left := own_threads():
        assert time.monotonic() < end, left
        gc.collect()
        time.sleep(0.01)


def judge(usage: list[Usage]) -> dict[str, float]:
    """Memory, descriptors and threads in the second half, when everything that is created once exists."""
    later = usage[len(usage) // 2 :]
    memory = np.array([one.memory for one in later], float)
    slope = float(np.polyfit(np.arange(len(later)), memory, 1)[0])
    hours = (later[-1].seconds - later[0].seconds) / 3600
    return {
        "rounds": len(usage),
        "MiB_after_the_first_round": round(usage[0].memory / 2**20, 1),
        "MiB_in_the_middle": round(later[0].memory / 2**20, 1),
        "MiB_last": round(later[-1].memory / 2**20, 1),
        "KiB_per_round": round(slope / 2**10, 1),
        "MiB_per_hour": round(slope * (len(later) - 1) / 2**20 / hours, 1),
        "grown": slope * (len(later) - 1),
        # Threads are at work when these are counted: what stays open is open each time.
        "descriptors_first": max(one.descriptors for one in usage[: len(usage) // 2]),
        "descriptors_last": min(one.descriptors for one in later),
        # Threads of the backend, whose pools come and go; none of lamina's is left after a round.
        "threads_at_most": max(one.threads for one in usage),
        "threads_last": usage[-1].threads,
    }


def main(minutes: float, seed: int) -> None:
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="lamina-soak-") as folder:
        soak = Soak(Path(folder), random.Random(seed))
        for fault in FAULTS:  # each at least once, however short the run is
            soak.train()
            fault(soak)
            soak.look()
        while time.monotonic() < end or len(soak.usage) < 4:
            soak.round()
    found = judge(soak.usage)
    print(json.dumps({"minutes": minutes, "seed": seed, **soak.done, **found}), flush=True)
    assert found["descriptors_last"] <= found["descriptors_first"], "descriptors are left open"
    if found["rounds"] >= _ENOUGH:
        assert found["grown"] < _GROWTH, "memory grows"


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else 1)
