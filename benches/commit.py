"""From capture to the committed snapshot, from memory as in the callbacks, beside the unavoidable work of a save."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import lamina
from benches import baselines
from benches.measure import Bench, Contender, Table, demand, race, times

WIDTH = 1024
CHANGED = 0.05
STOCK = "save_weights + log_artifact"
CODECS = ("auto", "raw")


def run(bench: Bench) -> Iterator[Table]:
    """All tensors changed, beside the disk and stock Keras; most tensors unchanged, beside a hash."""
    try:
        import keras
    except ImportError:
        bench.missing["group commit"] = "pip install keras and a backend"
        return
    backend = keras.backend.backend()
    for title, part, against in (
        ("all tensors changed", 1.0, {"write": baselines.WRITE, "stock": STOCK}),
        ("95 % of tensors unchanged", CHANGED, {"BLAKE3": "BLAKE3", "write": baselines.WRITE, "stock": STOCK}),
    ):
        bench.say(f"commit: {title}, {backend}")
        folder = bench.folder / "commit"
        folder.mkdir()
        yield _table(f"commit · {title} · {backend}", part, against, folder, bench)
        shutil.rmtree(folder)


def _table(title: str, part: float, against: dict[str, str], folder: Path, bench: Bench) -> Table:
    layers = max(4, bench.corpora.size // (WIDTH * WIDTH * 4))
    with contextlib.ExitStack() as stack:
        state = _State(layers, part)
        data = np.concatenate([array.reshape(-1).view(np.uint8) for array in _weights(state.model)])
        lined_up = [*baselines.hashes(data, bench), baselines.write(data, folder)]
        lined_up += [_ours(_State(layers, part), codec, folder, stack) for codec in CODECS]
        lined_up += _stock(state, folder, bench, stack)
        outcomes = race(lined_up, bench.repeats)
    note = (
        f"{data.size / 1e6:,.0f} MB in {2 * layers} tensors of a Keras model; from the call of Checkpointer.save until "
        f"packs and snapshot are flushed; {baselines.threads()}; each version was read back; '{STOCK}' with wandb's "
        "own client, offline, which flushes nothing"
    )
    return times(title, note, outcomes, data.size, against)


class _State:
    """A model, and steps that move the values of some of its layers, as training does."""

    def __init__(self, layers: int, part: float) -> None:
        import keras

        self._rng = np.random.default_rng(1)
        self._count = max(1, round(part * layers))
        zeros = keras.initializers.Zeros()  # initial values would be overwritten
        dense = [keras.layers.Dense(WIDTH, kernel_initializer=zeros) for _ in range(layers)]
        self.model = keras.Sequential([keras.Input((WIDTH,)), *dense])
        self._noise = self._rng.standard_normal((WIDTH, WIDTH), np.float32)
        for layer in dense:
            layer.kernel.assign(self._moved(0.02))

    def step(self) -> None:
        for index in self._rng.choice(len(self.model.layers), self._count, replace=False):
            layer, move = self.model.layers[index], self._moved(1e-3)
            layer.kernel.assign(layer.kernel + move)
            layer.bias.assign(layer.bias + move[0])

    def _moved(self, size: float) -> npt.NDArray[np.float32]:
        rolled: npt.NDArray[np.float32] = np.roll(self._noise, int(self._rng.integers(self._noise.size)))
        rolled *= np.float32(size)
        return rolled


def _weights(model: Any) -> list[npt.NDArray[Any]]:
    return [np.array(value) for value in model.get_weights()]


def _ours(state: _State, codec: str, folder: Path, stack: contextlib.ExitStack) -> Contender:
    """One blocking save after another; the first one, which plans the model, does not count."""
    saves = stack.enter_context(lamina.Checkpointer(state.model, folder / codec, weights_only=True, codec=codec))
    epochs = iter(range(1_000_000))
    saves.save(epoch=next(epochs), blocking=True)

    def check(snapshot: Any) -> None:
        _came_back(snapshot, state.model)
        snapshot._repository.prune(lamina.Keep(last=2))  # otherwise repeats fill the disk

    def save(_: Any) -> Any:
        return saves.save(epoch=next(epochs), blocking=True)

    return Contender(f"lamina, codec={codec}", save, check, state.step, ours=True)


def _came_back(snapshot: Any, model: Any) -> None:
    found, wanted = lamina.read_tensors(snapshot), _weights(model)
    demand(len(found) == len(wanted), f"{len(found)} tensors came back, not {len(wanted)}")
    for number in range(len(wanted) // 2):
        name = f"layers/dense{f'_{number}' * (number > 0)}/vars/"
        for part in (0, 1):
            demand(np.array_equal(found[f"{name}{part}"], wanted[2 * number + part]), f"{name}{part} differs")


def _stock(state: _State, folder: Path, bench: Bench, stack: contextlib.ExitStack) -> Iterator[Contender]:
    """Keras writes a file, and wandb's client stages it."""
    try:
        import wandb
    except ImportError:
        bench.missing[STOCK] = "pip install wandb"
        return
    path, place = folder / "stock.weights.h5", folder / "wandb"
    place.mkdir()
    run = stack.enter_context(wandb.init(mode="offline", dir=str(place), project="bench"))

    def save(_: Any) -> Any:
        state.model.save_weights(path, overwrite=True)
        artifact = wandb.Artifact("model", type="model")
        artifact.add_file(str(path))
        run.log_artifact(artifact)
        return artifact

    def check(artifact: Any) -> None:
        (entry,) = artifact.manifest.entries.values()
        demand(entry.size == path.stat().st_size, "wandb staged another file")
        state.model.load_weights(path)
        for staged in Path(os.environ["WANDB_DATA_DIR"]).rglob("*"):  # otherwise repeats fill the disk
            if staged.is_file() and staged.stat().st_size == entry.size:
                staged.unlink()

    yield Contender(STOCK, save, check, state.step)
