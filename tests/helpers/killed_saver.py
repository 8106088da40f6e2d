"""Saves without end in a child process, kills it at a random moment, and checks what is left; repeats.

``python killed_saver.py FOLDER KILLS SEED`` prints a JSON line. The children are forked before a backend starts. With
TensorFlow or JAX, a real `fit` saves. By default, the hooks are called with Keras's numpy backend, which starts fast.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "numpy")

import keras
import numpy as np
from keras import layers

import lamina
from lamina.keras import ModelCheckpoint


class Numbered(keras.callbacks.Callback):
    """Each element of a state is the state's number."""

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        for variable in self.model.variables:
            variable.assign(np.full(variable.shape, epoch, "float32"))


def save_without_end(folder: Path, report: int, first: int) -> None:
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
    epochs = range(first, first + 100_000)
    if keras.backend.backend() != "numpy":
        model.compile("sgd", "mse")
        batch = np.zeros((4, 300), "float32")
        callbacks = [Numbered(), callback]
        model.fit(batch, batch, initial_epoch=first, epochs=epochs.stop, callbacks=callbacks, verbose=0)
    numbered = Numbered()
    for one in (numbered, callback):
        one.set_model(model)
    for epoch in epochs:
        numbered.on_epoch_end(epoch)
        callback.on_epoch_end(epoch, {"loss": 1.0, "val_loss": 1.0})


def run_and_kill(folder: Path, first: int, chance: random.Random) -> int:
    """The number of the last reported save. The kill comes during one of the next two, however slow they are."""
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
        heard = [reports.readline()]  # the first save makes the plan
        start = time.monotonic()
        heard.append(reports.readline())
        time.sleep(chance.uniform(0, 2 * (time.monotonic() - start)))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        lines = [*heard, *reports.read().split("\n")]
    return [int(line) for line in lines if line.strip()][-1]


def look(folder: Path, reported: int) -> None:
    """Check that the repository opens, verifies and holds what was reported, and that the plain file is not older."""
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
    weights = [tensor for name, tensor in tensors.items() if "optimizer" not in name]
    values = {float(value) for tensor in weights for value in np.unique(tensor)}
    assert len(values) == 1, values
    return int(values.pop())


def in_a_child(what: Callable[[], None]) -> None:
    """Run it in a child: the engine starts threads, and a process with threads must not fork."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            what()
            status = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status == 0, "what is left is not right"


def save_once(folder: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3)])
    callback = ModelCheckpoint(folder / "m.weights.h5", save_weights_only=True)
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_end(0, {"val_loss": 1.0})
    callback.on_train_end()


def hidden(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".")]


def main(folder: Path, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    saves = left = first = 0
    for _ in range(kills):
        reported = run_and_kill(folder, first, chance)
        saves += reported - first + 1
        first = reported + 1000
        in_a_child(partial(look, folder, reported))
        left += bool(hidden(folder))
        assert len(hidden(folder)) < 3, "what kills leave adds up"
    in_a_child(partial(save_once, folder))  # cleans up after the last kill
    print(json.dumps({"kills": kills, "saves": saves, "left": left, "left_in_the_end": len(hidden(folder))}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
