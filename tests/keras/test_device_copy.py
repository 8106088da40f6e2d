"""Weights on an accelerator: the files hold one step exactly, whatever the device has room for, and whatever fails."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import lamina
from fake_devices import FULL, PLENTY, Accelerator, use_accelerator
from lamina.errors import InvalidInputError, LaminaError
from lamina.keras import ModelCheckpoint
from lamina.keras.capture.devices import headroom, stage
from lamina.keras.capture.devices.headroom import Headroom, Memory
from lamina.keras.capture.walk import enumerate_variables
from places import HELPERS
from stock_pairs import assert_same_folders, pair

pytestmark = [pytest.mark.fit, pytest.mark.keras, pytest.mark.backend]

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Accelerator:
    if BACKEND == "torch":
        from lamina.keras.capture.devices import torch_devices

        monkeypatch.setattr(torch_devices, "_WINDOW", 100)  # bytes, so that tensors are cut
    if BACKEND == "jax":
        from lamina.keras.capture.devices import jax_devices

        monkeypatch.setattr(jax_devices, "IN_FLIGHT", 500)
    return use_accelerator(monkeypatch)


def network() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(40, activation="relu"),
            layers.BatchNormalization(),
            layers.Dense(20, dtype="bfloat16"),
            layers.Dropout(0.3),
            layers.Dense(6, dtype="mixed_bfloat16"),
        ]
    )


def compiled(model: keras.Model, **arguments: Any) -> keras.Model:
    model.compile(keras.optimizers.AdamW(0.01, use_ema=True, ema_overwrite_frequency=4), "mse", **arguments)
    return model


def fit(callbacks: list[Any], *, epochs: int = 2, **arguments: Any) -> list[str]:
    """What was warned of each device."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compiled(network(), **arguments).fit(X, X, batch_size=8, epochs=epochs, callbacks=callbacks, verbose=0)
    return [str(w.message) for w in caught if "device" in str(w.message) or "pinned" in str(w.message)]


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_a_copy_on_the_device_is_of_one_step(suffix: str, jit: bool, accelerator: Accelerator, tmp_path: Path) -> None:
    if jit and BACKEND == "torch":
        pytest.skip("torch.compile takes a minute, and updates in place as without it")
    ours, stock = pair(tmp_path, suffix, save_freq=1, repository=tmp_path / "repo")
    assert fit([ours, stock], jit_compile=jit) == []
    assert_same_folders(tmp_path, 16)
    assert accelerator.copies == 16
    assert not lamina.open(tmp_path / "repo").verify(full=True).problems


@pytest.mark.parametrize("memory", [FULL, None])
def test_without_room_training_waits_and_is_told_once(
    memory: Memory | None, accelerator: Accelerator, tmp_path: Path
) -> None:
    accelerator.memory = memory
    ours, stock = pair(tmp_path, ".weights.h5", save_freq=1)
    (told,) = fit([ours, stock])
    assert "blocks training" in told
    assert ("are missing" if memory else "does not say") in told
    assert_same_folders(tmp_path, 16)
    assert accelerator.copies == 0


def test_room_that_comes_later_is_used(accelerator: Accelerator, tmp_path: Path) -> None:
    accelerator.memory = Memory(limit=1 << 40, in_use=1 << 40, peak=1 << 39)
    ours, _ = pair(tmp_path, ".weights.h5", save_freq=4)
    free = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: set_memory(accelerator, epoch))
    fit([free, ours])
    assert accelerator.copies == 2


def set_memory(accelerator: Accelerator, epoch: int) -> None:
    if epoch == 1:
        accelerator.memory = PLENTY


@pytest.mark.parametrize(("choice", "copies"), [("never", 0), ("always", 16)])
def test_the_user_decides(choice: str, copies: int, accelerator: Accelerator, tmp_path: Path) -> None:
    accelerator.memory = FULL
    ours, stock = pair(tmp_path, ".weights.h5", save_freq=1, device_copy=choice)
    assert fit([ours, stock]) == []
    assert_same_folders(tmp_path, 16)
    assert accelerator.copies == copies


def test_another_choice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="`device_copy` must be one of 'auto', 'always', 'never'"):
        ModelCheckpoint(tmp_path / "m.keras", device_copy=True)


@pytest.mark.parametrize("choice", ["auto", "always"])
@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow allocates at the next step, and not for lamina")
def test_a_device_out_of_memory_makes_training_wait(choice: str, accelerator: Accelerator, tmp_path: Path) -> None:
    accelerator.out_of_memory = True
    ours, stock = pair(tmp_path, ".weights.h5", save_freq=1, device_copy=choice)
    (told,) = fit([ours, stock])
    assert "has no memory for a copy" in told
    assert_same_folders(tmp_path, 16)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow pins memory by itself")
@pytest.mark.parametrize("memory", [PLENTY, FULL])
def test_without_pinned_memory_the_files_are_the_same(memory: Memory, accelerator: Accelerator, tmp_path: Path) -> None:
    accelerator.memory = memory
    accelerator.pins = False
    ours, stock = pair(tmp_path, ".weights.h5", save_freq=1)
    told = fit([ours, stock])
    assert sum("no pinned memory" in message for message in told) == 1
    assert_same_folders(tmp_path, 16)


@pytest.mark.parametrize("memory", [PLENTY, FULL])
def test_a_device_that_fails_loses_the_save_alone(memory: Memory, accelerator: Accelerator, tmp_path: Path) -> None:
    model = compiled(network())
    model.fit(X, X, verbose=0)
    before = digests(model)
    accelerator.memory = memory
    accelerator.fails = True
    with lamina.Checkpointer(model, tmp_path / "repo", device_copy="never" if memory is FULL else "auto") as saver:
        with pytest.raises(LaminaError, match="could not be copied from the device.* bus is on fire"):
            saver.save(epoch=0, blocking=True)
        assert digests(model) == before
        accelerator.fails = False
        snapshot = saver.save(epoch=1, blocking=True)
    assert snapshot is not None
    assert read_digests(snapshot) == before


def test_the_next_hook_raises_what_failed_behind_training(accelerator: Accelerator, tmp_path: Path) -> None:
    accelerator.fails = True
    ours, _ = pair(tmp_path, ".weights.h5", save_freq=1)
    with pytest.raises(LaminaError, match="bus is on fire"):
        fit([ours])
    assert not (tmp_path / "ours").exists() or not list((tmp_path / "ours").iterdir())


class Noting(keras.callbacks.Callback):
    """The digests of all variables at each hook, before anything else has seen them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[str]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append(digests(self.model))


def digests(model: keras.Model) -> list[str]:
    return sorted(
        digest(np.asarray(keras.ops.convert_to_numpy(value))) for _, value, _, _ in enumerate_variables(model)
    )


def read_digests(snapshot: lamina.Snapshot) -> list[str]:
    return sorted(map(digest, lamina.read_tensors(snapshot).values()))


def digest(array: Any) -> str:
    return hashlib.sha256(np.array(array, order="C").tobytes()).hexdigest()


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_hundreds_of_saves_are_each_of_their_step(
    policy: str, jit: bool, accelerator: Accelerator, tmp_path: Path
) -> None:
    if jit and BACKEND == "torch":
        pytest.skip("torch.compile takes a minute, and updates in place as without it")
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(6, dtype=policy)(layers.Dense(30, "relu", dtype=policy)(inputs)))
    model.compile("adam", "mse", jit_compile=jit)
    noting = Noting()
    ours = ModelCheckpoint(
        tmp_path / "m.weights.h5", save_weights_only=True, save_freq=1, repository=tmp_path / "repo", keep_file=False
    )
    model.fit(X, X, batch_size=8, epochs=25, callbacks=[noting, ours], verbose=0)
    snapshots = lamina.open(tmp_path / "repo").snapshots()
    assert [s.step for s in snapshots] == list(range(1, 201))
    assert accelerator.copies == 200
    for snapshot, seen in zip(snapshots, noting.seen, strict=True):
        assert read_digests(snapshot) == seen
    assert len({tuple(seen) for seen in noting.seen}) == 200


def test_a_dropped_save_gives_the_memory_of_the_device_back(accelerator: Accelerator) -> None:
    model = compiled(network())
    model.fit(X, X, verbose=0)
    from lamina.keras.capture.planner import Planner
    from lamina.keras.capture.training_state import TrainingTensors

    planner = Planner()
    planned = planner.capture(model, "m.weights.h5", TrainingTensors(), weights_only=True, threads=0)
    staged = planned._captured._staged
    assert staged is not None
    assert staged._copy is not None
    planned.release()
    assert staged._copy is None


def test_weights_of_the_host_never_ask_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "devices_of_backend", lambda: pytest.fail("a device was asked"))
    ours, stock = pair(tmp_path, ".weights.h5", device_copy="always")
    assert fit([ours, stock]) == []
    assert_same_folders(tmp_path, 5)


def test_the_step_after_a_save_keeps_its_memory() -> None:
    room = Headroom()
    gib = 1 << 30
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(headroom, "MARGIN", 0)
        assert room.missing(Memory(limit=10 * gib, in_use=2 * gib, peak=7 * gib), 2 * gib) == 0
        assert room.missing(Memory(limit=10 * gib, in_use=2 * gib, peak=7 * gib), 4 * gib) == 1 * gib
        room.add(2 * gib)
        # The peak now includes the copy; what training itself takes has not grown.
        assert room.missing(Memory(limit=10 * gib, in_use=2 * gib, peak=9 * gib), 3 * gib) == 0
        assert room.missing(Memory(limit=10 * gib, in_use=9 * gib, peak=9 * gib), 2 * gib) == 1 * gib


SEVERAL = """
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from fake_devices import use_accelerator
from places import HELPERS
from stock_pairs import assert_same_folders, pair

folder = Path(sys.argv[1])
accelerator = use_accelerator(pytest.MonkeyPatch())
mesh = keras.distribution.DeviceMesh((1, 4), ("batch", "model"))
places = keras.distribution.LayoutMap(mesh)
places[".*kernel"] = (None, "model")
keras.distribution.set_distribution(keras.distribution.ModelParallel(layout_map=places, batch_dim_name="batch"))
model = keras.Sequential([keras.Input((6,)), layers.Dense(40, "relu"), layers.Dense(8)])
model.compile("adam", "mse")
assert len(model.layers[0].kernel.value.sharding.device_set) == 4
x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
ours, stock = pair(folder, ".weights.h5", save_freq=1)
model.fit(x, x[:, :1] * np.ones(8, "float32"), batch_size=8, epochs=2, callbacks=[ours, stock], verbose=0)
assert_same_folders(folder, 16)
print("copies", accelerator.copies)
"""


@pytest.mark.skipif(BACKEND != "jax", reason="of Keras's backends, JAX shards variables over devices of a process")
def test_shards_of_several_devices_are_copied_on_each(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "PYTHONPATH": os.pathsep.join([str(HELPERS), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL, str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["copies", "32"]  # at each save, one of what is sharded and one of the rest
