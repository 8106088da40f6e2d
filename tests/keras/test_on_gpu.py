"""On an NVIDIA GPU, what `test_device_copy.py` shows on stand-ins; `make test-gpu` runs it where there is one."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import keras
import pytest
from keras import layers
from test_device_copy import Noting, X, compiled, network, read_digests

import lamina
from lamina.keras import ModelCheckpoint
from lamina.keras.capture.devices.stage import DeviceStage
from stock_pairs import assert_same_folders, pair

pytestmark = pytest.mark.skipif("LAMINA_GPU" not in os.environ, reason="make test-gpu runs it on a machine with a GPU")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tensors of devices each capture took."""
    counts: list[int] = []
    take = DeviceStage.take

    def counted(stage: DeviceStage, tensors: Any) -> Any:
        counts.append(len(tensors))
        return take(stage, tensors)

    monkeypatch.setattr(DeviceStage, "take", counted)
    return counts


@pytest.mark.parametrize("choice", ["auto", "always", "never"])
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_each_file_is_that_of_its_step(suffix: str, choice: str, taken: list[int], tmp_path: Path) -> None:
    ours, stock = pair(tmp_path, suffix, save_freq=1, device_copy=choice)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*blocks training")
        compiled(network()).fit(X, X, batch_size=8, epochs=2, callbacks=[ours, stock], verbose=0)
    assert_same_folders(tmp_path, 16)
    assert len(taken) == 16
    assert min(taken) > 10


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_hundreds_of_saves_are_each_of_their_step(policy: str, jit: bool, taken: list[int], tmp_path: Path) -> None:
    inputs = keras.Input((6,))
    wide = layers.Dense(4096, "relu", dtype=policy)(inputs)
    model = keras.Model(inputs, layers.Dense(6, dtype=policy)(wide))
    model.compile("adam", "mse", jit_compile=jit)
    noting = Noting()
    ours = ModelCheckpoint(
        tmp_path / "m.weights.h5", save_weights_only=True, save_freq=1, repository=tmp_path / "repo", keep_file=False
    )
    model.fit(X, X, batch_size=8, epochs=25, callbacks=[noting, ours], verbose=0)
    snapshots = lamina.open(tmp_path / "repo").snapshots()
    assert len(taken) == len(snapshots) == 200
    for snapshot, seen in zip(snapshots, noting.seen, strict=True):
        assert read_digests(snapshot) == seen


def test_a_full_device_makes_training_wait(tmp_path: Path) -> None:
    model = network()
    model.compile("adam", "mse")  # on JAX, Keras 3.15 cannot fit a second time with averaged weights
    model.fit(X, X, batch_size=8, verbose=0)
    ballast = _fill()
    ours, stock = pair(tmp_path, ".weights.h5", save_freq=1)
    with pytest.warns(UserWarning, match="are missing"):
        model.fit(X, X, batch_size=8, callbacks=[ours, stock], verbose=0)
    del ballast
    assert_same_folders(tmp_path, 8)


def _fill() -> Any:
    """All memory of the device but what no copy may take."""
    if keras.backend.backend() == "torch":
        import torch

        free, _ = torch.cuda.mem_get_info()
        return torch.empty(free - (200 << 20), dtype=torch.uint8, device="cuda")
    import jax

    stats = jax.devices()[0].memory_stats()
    nbytes = stats["bytes_limit"] - stats["bytes_in_use"] - (200 << 20)
    return jax.numpy.zeros(nbytes, "uint8")
