"""A run that is killed and resumed ends like an uninterrupted one, bit by bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import lamina
from lamina.errors import InvalidInputError
from lamina.keras import ModelCheckpoint

pytestmark = [pytest.mark.fit, pytest.mark.keras, pytest.mark.backend, pytest.mark.filterwarnings("ignore")]

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(64, 6)).astype("float32"), RNG.normal(size=(64, 1)).astype("float32")
EPOCHS = 6


def network(lora: bool = False, average: bool = True) -> keras.Model:
    keras.backend.clear_session()
    keras.utils.set_random_seed(11)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(16, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.4),
            layers.Dense(1),
        ]
    )
    if lora:
        model.layers[0].enable_lora(2)
    schedule = keras.optimizers.schedules.ExponentialDecay(0.05, 10, 0.9)
    model.compile(keras.optimizers.AdamW(schedule, use_ema=average, ema_overwrite_frequency=3), "mse")
    return model


class Dies(keras.callbacks.Callback):
    """Ends training like a kill: no later hook runs."""

    def __init__(self, epoch: int, batch: int | None = None) -> None:
        super().__init__()
        self.at = epoch, batch
        self.now = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.now = epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.at == (epoch, None):
            raise KeyboardInterrupt


def train(model: keras.Model, *callbacks: Any, **arguments: Any) -> Any:
    arguments = {"epochs": EPOCHS, "shuffle": False, "batch_size": 8, "verbose": 0} | arguments
    return model.fit(X, Y, callbacks=list(callbacks), **arguments)


def checkpoint(folder: Path, **arguments: Any) -> ModelCheckpoint:
    arguments = {"repository": folder / "r", "save_weights_only": True, "resume": True, "monitor": "loss"} | arguments
    return ModelCheckpoint(folder / ("m.weights.h5" if arguments["save_weights_only"] else "m.keras"), **arguments)


def state(model: keras.Model) -> list[Any]:
    variables = [*model.variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(v) for v in variables if "metric" not in v.path and "loss" not in v.path]


def assert_same(model: keras.Model, other: keras.Model) -> None:
    for a, b in zip(state(model), state(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize("lora", [False, True])
def test_a_resumed_run_ends_with_the_same_bits(weights_only: bool, lora: bool, tmp_path: Path) -> None:
    straight = network(lora)
    train(straight)
    first = network(lora)
    interrupted = checkpoint(tmp_path, save_weights_only=weights_only)
    with pytest.raises(KeyboardInterrupt):
        train(first, interrupted, Dies(2))
    interrupted.wait()
    second = network(lora)
    for variable in second.variables:  # the seed must not decide the result
        if "float" in variable.dtype:
            variable.assign(variable * 0)
    history = train(second, checkpoint(tmp_path, save_weights_only=weights_only))
    assert history.epoch == [3, 4, 5]
    assert_same(straight, second)


_PROGRAM = """
import os, signal, sys
from pathlib import Path
import keras
sys.path[:0] = sys.argv[1].split(os.pathsep)
from test_resume import checkpoint, network, state, train

class Killed(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (2, 0):
            ours.wait()
        if (self.epoch, batch) == (4, 3):  # the save before it may still be on its way
            os.kill(os.getpid(), signal.SIGKILL)

class Follows(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["x"] = [5.0, 4.0, 4.5, 4.6, 4.7, 4.8][epoch]

def stopping():
    return keras.callbacks.EarlyStopping("x", patience=3, mode="min")

stop = stopping()
ours = checkpoint(Path(sys.argv[2]), track=[stop])
killed = [Killed()] if "killed" in sys.argv else []
model = network()
resumed = train(model, Follows(), stop, ours, *killed).epoch
straight = network()
print("epochs", resumed, train(straight, Follows(), stopping()).epoch)
print("same", all((a == b).all() for a, b in zip(state(model), state(straight), strict=True)))
"""


def test_a_process_goes_on_where_a_killed_one_was(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", _PROGRAM, os.pathsep.join(sys.path), str(tmp_path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    assert run("killed").returncode == -signal.SIGKILL
    newest = lamina.open(tmp_path / "r").snapshots()[-1]
    assert newest.next_epoch in (2, 3, 4)
    done = run()
    # The tracked callback ends both trainings after the fifth epoch.
    assert f"epochs {list(range(newest.next_epoch, 5))} [0, 1, 2, 3, 4]" in done.stdout, done.stdout + done.stderr
    assert "same True" in done.stdout


def test_resuming_after_the_last_epoch_trains_nothing(tmp_path: Path) -> None:
    # On JAX, Keras 3.15 cannot fit a second time with averaged weights.
    first = network(average=False)
    train(first, checkpoint(tmp_path))
    second = network(average=False)
    history = train(second, checkpoint(tmp_path))
    assert history.epoch == []
    assert_same(first, second)
    assert train(second, epochs=1).epoch == [0]  # Keras would begin with epoch 6


def test_nothing_to_resume_from_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(network(), checkpoint(tmp_path)).epoch == list(range(EPOCHS))
    assert "Nothing to resume from" in capsys.readouterr().out
    train(network(), checkpoint(tmp_path), epochs=EPOCHS + 1)
    assert f"Resuming from the end of epoch {EPOCHS}" in capsys.readouterr().out


def test_a_callback_resumes_once(tmp_path: Path) -> None:
    callback = checkpoint(tmp_path, save_best_only=True)
    model = network(average=False)
    assert train(model, callback, epochs=2).epoch == [0, 1]
    before = state(model)
    assert train(model, callback, initial_epoch=2, epochs=3).epoch == [2]
    assert any(not np.array_equal(a, b) for a, b in zip(before, state(model), strict=True))


def test_by_hand(tmp_path: Path) -> None:
    straight = network()
    train(straight)
    train(network(), checkpoint(tmp_path, resume=False), epochs=3)
    model = network()
    snapshot = lamina.restore(f"{tmp_path / 'r'}", model)
    assert snapshot.next_epoch == 3
    lamina_seeds = [v for v in model.variables if "seed" in v.path]
    assert lamina_seeds
    assert train(model, initial_epoch=snapshot.next_epoch).epoch == [3, 4, 5]


def test_the_best_value_comes_back(tmp_path: Path) -> None:
    def run(values: list[float], first: int) -> list[int]:
        callback = checkpoint(tmp_path, save_best_only=True, monitor="val_x", mode="min")
        callback.set_model(network())
        callback.on_train_begin()
        for epoch, value in enumerate(values, first):
            callback.on_epoch_begin(epoch)
            callback.on_epoch_end(epoch, {"val_x": value})
        callback.on_train_end()
        return [s.epoch for s in lamina.open(tmp_path / "r").snapshots() if s.epoch is not None]

    assert run([3.0, 2.0, 5.0], 0) == [0, 1]
    assert run([4.0, 2.5, 1.0], 2) == [0, 1, 4]


def test_tracked_callbacks_go_on(tmp_path: Path) -> None:
    def trackers() -> tuple[Any, Any]:
        stop = keras.callbacks.EarlyStopping("val_x", patience=4, restore_best_weights=True, mode="min")
        return stop, keras.callbacks.ReduceLROnPlateau("val_x", factor=0.5, patience=2, mode="min")

    class Values(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["val_x"] = [5.0, 4.0, 4.5, 4.6, 4.7, 4.8, 4.9, 5.0][epoch]

    def plain() -> keras.Model:
        model = network()
        model.compile(keras.optimizers.Adam(0.01), "mse")
        return model

    straight, kept = plain(), trackers()
    straight_epochs = train(straight, Values(), *kept, epochs=8).epoch
    first, tracked = plain(), trackers()
    callback = checkpoint(tmp_path, monitor="val_x", mode="min", track=tracked)
    with pytest.raises(KeyboardInterrupt):
        train(first, Values(), *tracked, callback, Dies(2), epochs=8)
    callback.wait()
    second, again = plain(), trackers()
    epochs = train(
        second, Values(), *again, checkpoint(tmp_path, monitor="val_x", mode="min", track=again), epochs=8
    ).epoch
    assert epochs == [e for e in straight_epochs if e >= 3]
    assert again[0].stopped_epoch == kept[0].stopped_epoch
    assert again[0].best == kept[0].best
    assert again[0].best_epoch == kept[0].best_epoch
    if keras.backend.backend() != "torch":  # there Keras's "best weights" are views of the ones in training
        assert_same(straight, second)


def test_resume_needs_a_model_with_variables(tmp_path: Path) -> None:
    train(network(), checkpoint(tmp_path), epochs=1)
    callback = checkpoint(tmp_path)
    callback.set_model(keras.Sequential([layers.Dense(1)]))
    with pytest.raises(InvalidInputError, match="build it"):
        callback.on_train_begin()


def test_legacy_files_resume_too(tmp_path: Path) -> None:
    model = network()
    callback = ModelCheckpoint(tmp_path / "m.h5", repository=tmp_path / "r", track=())
    train(model, callback, epochs=2)
    other = network()
    assert train(other, ModelCheckpoint(tmp_path / "m.h5", repository=tmp_path / "r", resume=True), epochs=3).epoch == [
        2
    ]
