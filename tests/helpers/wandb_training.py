"""Small trainings that log checkpoints, and checks of the result."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

import lamina
from places import HELPERS, ROOT


def frozen_model(frozen: tuple[int, int] = (1200, 1600), trainable: int = 60) -> Any:
    """A model in which about 95 % of the weights do not change."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.layers.Input((frozen[0],)),
            keras.layers.Dense(frozen[1], trainable=False),
            keras.layers.Dense(trainable),
            keras.layers.Dense(1),
        ]
    )
    # With a higher rate the large model ends in NaNs, which no longer change.
    model.compile(keras.optimizers.SGD(1e-4), "mse")
    return model


def small_model() -> Any:
    return frozen_model((8, 8), 4)


def data(model: Any, rows: int = 16) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    inputs = generator.random((rows, model.input_shape[1]), dtype=np.float32)
    return inputs, generator.random((rows, 1), dtype=np.float32)


class Remember(keras.callbacks.Callback):
    """Keeps the weights at the end of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[list[np.ndarray]] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.weights.append([np.array(value) for value in self.model.get_weights()])


class Follow(keras.callbacks.Callback):
    """Sets the metric ``score`` of each epoch."""

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["score"] = self.values[epoch]


def fit(model: Any, *callbacks: Any, epochs: int = 3, **more: Any) -> None:
    model.fit(*data(model), epochs=epochs, batch_size=8, verbose=0, callbacks=list(callbacks), **more)


def same_weights(model: Any, weights: Sequence[np.ndarray]) -> bool:
    here = model.get_weights()
    return len(here) == len(weights) and all(np.array_equal(a, b) for a, b in zip(here, weights, strict=True))


@contextmanager
def clean_machine(root: Path) -> Iterator[None]:
    """Empty caches and an empty folder."""
    root.mkdir(parents=True)
    folders = {"XDG_CACHE_HOME": root / "xdg", "WANDB_CACHE_DIR": root / "w", "WANDB_ARTIFACT_DIR": root / "a"}
    before = {name: os.environ.get(name) for name in folders}
    os.environ.update({name: str(folder) for name, folder in folders.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def restored(name: str, like: Callable[[], Any]) -> Any:
    """A new model with the weights of an artifact."""
    model = like()
    lamina.restore(f"wandb:{name}", model)
    return model


def run_python(code: str, environment: dict[str, str], cwd: Path, *arguments: object) -> str:
    """A new process, with the same packages."""
    paths = os.pathsep.join([str(ROOT / "python"), str(HELPERS)])
    inherited = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
    with tempfile.TemporaryFile("w+") as output:  # not a pipe: wandb's service would keep it open
        status = subprocess.call(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**inherited, **environment, "PYTHONPATH": paths},
            cwd=cwd,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=120,
        )
        output.seek(0)
        said = output.read()
    assert status == 0, f"{status}: {said}"
    return said
