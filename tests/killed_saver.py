"""Saves without end in a child, kills it at a random moment, and looks at what is left; again and again.

``python killed_saver.py FOLDER KILLS SEED``; prints a JSON line. It runs with Keras's numpy backend, which survives
a fork.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

os.environ["KERAS_BACKEND"] = "numpy"

import keras
import numpy as np
from keras import layers

import lamina
from lamina.keras import ModelCheckpoint


def save_without_end(folder: Path, report: int, first: int) -> None:
    """Each state holds its own number in every element."""
    model = keras.Sequential([keras.Input((300,)), layers.Dense(700), layers.Dense(300)])

    def committed(commit: object) -> None:
        os.write(report, f"{commit.epoch}\n".encode())  # type: ignore[attr-defined]

    callback = ModelCheckpoint(
        folder / "m.weights.h5",
        save_weights_only=True,
        repository=folder / "r",
        keep=lamina.Keep(last=4),
        on_commit=committed,
    )
    callback.set_model(model)
    for number in range(first, first + 100_000):
        for variable in model.variables:
            variable.assign(np.full(variable.shape, number, "float32"))
        callback.on_epoch_end(number, {"loss": 1.0, "val_loss": 1.0})


def run_and_kill(folder: Path, first: int, delay: float) -> int | None:
    """The number of the last save that was reported."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        try:
            save_without_end(folder, writes, first)
        finally:
            os._exit(9)
    os.close(writes)
    with os.fdopen(reads) as reports:
        heard = reports.readline()  # the first save learns the plan
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        lines = [heard, *reports.read().split("\n")]
    numbers = [int(line) for line in lines if line.strip()]
    return numbers[-1] if numbers else None


def look(folder: Path, reported: int) -> None:
    """Opens, verifies, holds what was reported; the plain file is one state, not before the reported one."""
    repository = lamina.open(folder / "r")
    report = repository.verify(full=True)
    assert not report.problems, report.problems
    newest = repository.snapshots()[-1]
    assert newest.epoch is not None
    assert newest.epoch >= reported, (newest.epoch, reported)
    held = one_state(lamina.read_tensors(newest))
    assert held == newest.epoch
    in_file = one_state(lamina.read_tensors(folder / "m.weights.h5"))
    assert reported <= in_file <= newest.epoch, (reported, in_file, newest.epoch)


def one_state(tensors: dict[str, np.ndarray]) -> int:
    values = {float(value) for tensor in tensors.values() for value in np.unique(tensor)}
    assert len(values) == 1, values
    return int(values.pop())


def look_in_a_child(folder: Path, reported: int) -> None:
    """The engine starts threads, and what has threads must not fork."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            look(folder, reported)
            status = 0
        except BaseException as error:
            print("after", reported, repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status == 0, "what is left is not right"


def main(folder: Path, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    numbers = []
    for _ in range(kills):
        first = numbers[-1] + 1000 if numbers else 1
        reported = run_and_kill(folder, first, chance.uniform(0.0, 0.05))
        assert reported is not None
        numbers.append(reported)
        look_in_a_child(folder, reported)
    left = [name for name in os.listdir(folder) if name.startswith(".")]
    print(json.dumps({"kills": kills, "saves": sum(n % 1000 for n in numbers), "left": len(left)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
