"""Runs one training twice, with the stock callbacks and with lamina's, and compares the outcomes.

A scenario is plain data. Its outcome is a flat dict of what a user sees afterwards, by name. The two outcomes of a
scenario are compared name by name, so a difference has a name.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import re
import stat
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

import lamina.keras
from wandb_training import Follow

Outcome = dict[str, Any]
#: Name → (outcome of stock, outcome of lamina), only where they differ; ABSENT if one has no such name.
Differing = Mapping[str, tuple[Any, Any]]
ABSENT = "absent"

BATCHES = 3


@dataclass(frozen=True)
class Training:
    """A training with one checkpoint callback, without W&B."""

    file: str = "m-{epoch}.keras"
    weights_only: bool = False
    monitor: str = "score"
    mode: str = "min"
    best_only: bool = False
    freq: str | int = "epoch"
    verbose: int = 0
    threshold: float | None = None
    scores: tuple[float, ...] = (3.0, 1.0, 2.0)
    first: bool = False
    data: str = "arrays"
    before: str = "nothing"
    event: str = "nothing"
    repository: bool = False


class Interrupted(Exception):
    """Interrupts a training."""


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            raise Interrupted


class ChangeDirectory(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            Path("elsewhere").mkdir()
            os.chdir("elsewhere")


def differing(stock: Outcome, ours: Outcome) -> Differing:
    names = sorted(stock.keys() | ours.keys())
    pairs = {name: (stock.get(name, ABSENT), ours.get(name, ABSENT)) for name in names}
    return {name: (one, other) for name, (one, other) in pairs.items() if one != other}


@functools.cache
def _model() -> tuple[Any, list[np.ndarray]]:
    """The model, compiled once, because that takes longer than the training, and its initial values."""
    keras.utils.set_random_seed(1)
    layers = [keras.Input((4,), name="x"), keras.layers.Dense(3, name="a"), keras.layers.Dense(1, name="b")]
    model = keras.Sequential(layers, name="m")
    model.compile(keras.optimizers.Adam(0.01, name="adam"), "mse", jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model, [np.array(variable) for variable in _variables(model)]


def _variables(model: Any) -> list[Any]:
    return [*model.variables, *model.optimizer.variables]


def fresh_model() -> Any:
    model, values = _model()
    for variable, value in zip(_variables(model), values, strict=True):
        variable.assign(value)
    return model


def fit_on(model: Any, kind: str, callbacks: list[Any], **more: Any) -> None:
    """`fit` on arrays, a `tf.data` pipeline, or a generator of unknown length."""
    generator = np.random.default_rng(0)
    x = generator.random((4 * BATCHES, 4), dtype=np.float32)
    y = generator.random((4 * BATCHES, 1), dtype=np.float32)
    more |= {"verbose": 0, "shuffle": False, "callbacks": callbacks, "validation_data": (x[:4], y[:4])}
    if kind == "arrays":
        model.fit(x, y, batch_size=4, **more)
    elif kind == "dataset":
        import tensorflow as tf

        model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(4), **more)
    else:
        model.fit(_endless(x, y), steps_per_epoch=BATCHES, **more)


def _endless(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    while True:
        for begin in range(0, len(x), 4):
            yield x[begin : begin + 4], y[begin : begin + 4]


# --- A training without W&B.


def both(scenario: Training, folder: Path) -> Differing:
    """Run it in two folders below an empty one."""
    stock = _outcome(scenario, folder / "stock", keras.callbacks.ModelCheckpoint)
    more = {"repository": folder / "repository"} if scenario.repository else {}
    ours = _outcome(scenario, folder / "ours", functools.partial(lamina.keras.ModelCheckpoint, **more))
    return differing(stock, ours)


def _outcome(scenario: Training, root: Path, make: Callable[..., Any]) -> Outcome:
    root.mkdir(parents=True)
    found: Outcome = {}
    said = io.StringIO()
    with inside(root), contextlib.redirect_stdout(said), warned(found):
        _prepare(scenario)
        model = fresh_model()
        checkpoint = None
        for number in range(2 if "again" in scenario.event else 1):
            try:
                if checkpoint is None or scenario.event == "again with a new callback":
                    checkpoint = _checkpoint(scenario, make)
                if number and scenario.event == "again in another directory":
                    Path("elsewhere").mkdir()
                    os.chdir("elsewhere")
                _train(scenario, model, checkpoint)
            except Exception as error:  # the error that ends a training is compared too
                found[f"raised in fit {number}"] = type(error).__name__
    return found | lines("printed", said.getvalue().replace(str(root), "ROOT")) | tree(root)


def lines(kind: str, text: str) -> Outcome:
    """Each line with how often it is there: which one comes first may depend on threads."""
    return {f"{kind}: {line}": count for line, count in Counter(map(str.strip, text.splitlines())).items() if line}


@contextlib.contextmanager
def warned(found: Outcome) -> Iterator[None]:
    """What a user is warned of, each once; how often Python says it depends on what ran before."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            found |= {f"warned: {one.message}": "warned" for one in caught if one.category is UserWarning}


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _checkpoint(scenario: Training, make: Callable[..., Any]) -> Any:
    return make(
        scenario.file,
        monitor=scenario.monitor,
        verbose=scenario.verbose,
        save_best_only=scenario.best_only,
        save_weights_only=scenario.weights_only,
        mode=scenario.mode,
        save_freq=scenario.freq,
        initial_value_threshold=scenario.threshold,
    )


def _train(scenario: Training, model: Any, checkpoint: Any) -> None:
    around = [Follow(scenario.scores)]
    callbacks = [checkpoint, *around] if scenario.first else [*around, checkpoint]
    if scenario.event == "interrupted":
        callbacks.append(Interrupt())
    if scenario.event == "another directory in training":
        callbacks.append(ChangeDirectory())
    try:
        fit_on(model, scenario.data, callbacks, epochs=len(scenario.scores))
    finally:
        if hasattr(checkpoint, "wait"):  # after an interrupted training, the thread still writes the last save
            checkpoint.wait()


def _prepare(scenario: Training) -> None:
    """Put something at the path of the first file."""
    target = Path(scenario.file.replace("{epoch}", "1").replace("{epoch:02d}", "01"))
    if scenario.before == "link of the folder":
        Path("disk").mkdir()
        if target.parent != Path():
            target.parent.symlink_to("disk")
        return
    if scenario.before != "nothing":
        target.parent.mkdir(parents=True, exist_ok=True)
    if scenario.before == "link":
        Path("disk").mkdir()
        Path("disk/old").write_bytes(b"old")
        target.symlink_to(os.path.relpath("disk/old", target.parent))
    elif scenario.before == "dangling link":
        Path("disk").mkdir()
        target.symlink_to(os.path.relpath("disk/new", target.parent))
    elif scenario.before == "hard link":
        Path("other").write_bytes(b"old")
        os.link("other", target)
    elif scenario.before == "directory":
        target.mkdir()
    elif scenario.before.startswith("mode "):
        target.write_bytes(b"old")
        target.chmod(int(scenario.before.split()[1], 8))


# --- Files on disk.


def tree(root: Path) -> Outcome:
    """Links, modes and contents below a folder."""
    found: Outcome = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[f"link {name}"] = os.readlink(path)
        elif path.is_file():
            found[f"mode {name}"] = oct(stat.S_IMODE(path.stat().st_mode))
            found[f"content {name}"] = content(path.read_bytes())
            if path.stat().st_nlink > 1:
                found[f"names of {name}"] = path.stat().st_nlink
        else:
            found[f"folder {name}"] = oct(stat.S_IMODE(path.stat().st_mode))
    return found


def content(data: bytes) -> Any:
    """A digest; of a ``.keras`` file one per member, without the dates, which differ between two saves."""
    if not data.startswith(b"PK"):  # packs hold the ends of archives
        return hashlib.sha256(data).hexdigest()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [
            (member.filename, member.compress_type, member.external_attr, _member(archive, member))
            for member in archive.infolist()
        ]


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    if member.filename == "metadata.json":
        return ""
    # Keras writes memory addresses into the configuration; they differ between processes.
    data = re.sub(rb'"shared_object_id": \d+', b"", archive.read(member))
    return hashlib.sha256(data).hexdigest()
