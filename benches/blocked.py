"""How long training waits for a save, and what the save costs the next step; also for a tiny model at every step."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import lamina
from benches.measure import Bench, Row, Table, demand
from lamina import _core

#: Width of the square layers: 12 of them with Adam hold 0.6 GB.
WIDTH, LAYERS = 2048, 12
QUICK_WIDTH = 256
COPY = "memory copy"
COLUMNS = {
    "blocked ms": "{:,.1f}",
    "first ms": "{:,.1f}",
    "next step ms": "{:+,.1f}",
    "finished ms": "{:,.0f}",
    "memory MB": "{:,.0f}",
    "/ copy": "{:.2f}",
    "/ stock W&B": "{:.4f}",
}


@dataclass
class Way:
    """One way to save, used like a callback."""

    name: str
    save: Callable[[int], None]  # training waits for it
    finish: Callable[[], None] = lambda: None  # waits until the save is on disk
    check: Callable[[], None] = lambda: None
    blocked: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    finished: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    failure: str = ""


def run(bench: Bench) -> Iterator[Table]:
    """A large model saved now and then, and a tiny one saved at every step."""
    import keras

    backend = keras.backend.backend()
    bench.say(f"blocked: {backend}")
    model, x = model_and_data(QUICK_WIDTH if bench.quick else WIDTH, LAYERS)
    with contextlib.ExitStack() as stack:
        yield _large(model, x, backend, bench, stack)
    yield _tiny(backend, bench)


def model_and_data(width: int, layers: int) -> tuple[Any, Any]:
    import keras

    model = keras.Sequential([keras.Input((width,)), *(keras.layers.Dense(width) for _ in range(layers))])
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(8, width)).astype("float32")
    model.fit(x, x, verbose=0)
    return model, x


def _large(model: Any, x: Any, backend: str, bench: Bench, stack: contextlib.ExitStack) -> Table:
    ways = list(_ways(model, bench, stack))
    steps = []
    for number in range(bench.repeats + 1):
        steps.append(timed(lambda: model.train_on_batch(x, x)))
        for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
            if not way.failure:
                _save_once(way, model, x, number)
    step = statistics.median(steps[1:] or steps)
    nbytes = saved_bytes(model)
    note = (
        f"{nbytes / 1e6:,.0f} MB with the optimizer, Keras on {backend}; a step takes {step * 1e3:,.0f} ms; "
        "'next step' is what the one after a save takes more; 'finished' is until the file is on disk; "
        "'memory' is the peak above that before; medians, 'first' on its own; every save was read back"
    )
    return Table(f"blocked · {backend}", note, COLUMNS, _rows(ways, step))


def _save_once(way: Way, model: Any, x: Any, number: int) -> None:
    try:
        os.sync()  # so that no fsync writes data of another contender
        before = reset_peak()
        start = time.perf_counter()
        way.save(number)
        blocked = time.perf_counter()
        model.train_on_batch(x, x)
        stepped = time.perf_counter()
        way.finish()
        finished = time.perf_counter()
        way.memory.append(peak() - before)
        way.check()
    except Exception as error:  # a peer may raise anything; its row says FAIL and the others continue
        way.failure = f"{type(error).__name__}: {error}"
        return
    way.blocked.append(blocked - start)
    way.after.append(stepped - blocked)
    way.finished.append(finished - start)


def _rows(ways: list[Way], step: float) -> list[Row]:
    rows = []
    medians = {way.name: statistics.median(way.blocked[1:]) for way in ways if len(way.blocked) > 1}
    stock = next((value for name, value in medians.items() if name.startswith("wandb")), float("nan"))
    for way in ways:
        values = {}
        if way.name in medians:
            values = {
                "blocked ms": medians[way.name] * 1e3,
                "first ms": way.blocked[0] * 1e3,
                "next step ms": (statistics.median(way.after[1:]) - step) * 1e3,
                "finished ms": statistics.median(way.finished[1:]) * 1e3,
                "memory MB": statistics.median(way.memory[1:]) / 1e6,
                "/ copy": medians[way.name] / medians.get(COPY, float("nan")),
                "/ stock W&B": medians[way.name] / stock,
            }
        seconds = {"blocked": way.blocked, "next step": way.after, "finished": way.finished}
        rows.append(Row(way.name, values, way.failure, way.name.startswith("lamina"), seconds))
    return rows


# The ways.


def _ways(model: Any, bench: Bench, stack: contextlib.ExitStack) -> Iterator[Way]:
    import keras

    from lamina.keras import ModelCheckpoint

    yield _copy(model)
    folder = bench.folder
    yield _ours("lamina ModelCheckpoint", ModelCheckpoint, model, folder / "ours.weights.h5", save_weights_only=True)
    yield _ours("lamina ModelCheckpoint .keras", ModelCheckpoint, model, folder / "ours.keras")
    yield _ours(
        "lamina ModelCheckpoint, repository",
        ModelCheckpoint,
        model,
        folder / "deduplicated.weights.h5",
        save_weights_only=True,
        repository=folder / "repository",
        keep=lamina.Keep(last=2),
    )
    stock = keras.callbacks.ModelCheckpoint
    yield _theirs("keras ModelCheckpoint", stock(folder / "k.weights.h5", save_weights_only=True), model)
    yield _theirs("keras ModelCheckpoint .keras", stock(folder / "k.keras"), model)
    yield from _orbax(model, bench)
    yield from _wandb(model, bench, stack)


def _copy(model: Any) -> Way:
    sizes = [tensor.nbytes for tensor in arrays(model)]
    sources, targets = ([np.ones(size, np.uint8) for size in sizes] for _ in range(2))
    return Way(COPY, lambda _: _core.copy_into(list(zip(sources, targets, strict=True))))


def _ours(name: str, kind: Any, model: Any, path: Path, **arguments: Any) -> Way:
    callback = kind(path, **arguments)
    callback.set_model(model)
    callback.on_train_begin()  # as in `fit`, whose first save is many steps later

    def check() -> None:
        step = int(lamina.read_tensors(path, ["optimizer/vars/0"])["optimizer/vars/0"])
        now = int(model.optimizer.iterations)
        demand(step == now - 1, f"the file holds step {step}; it was saved at {now - 1}")

    return Way(name, lambda number: _end_epoch(callback, number), callback.wait_until_finished, check)


def _theirs(name: str, callback: Any, model: Any, finish: Callable[[], None] = lambda: None) -> Way:
    callback.set_model(model)
    return Way(name, lambda number: _end_epoch(callback, number), finish)


def _orbax(model: Any, bench: Bench) -> Iterator[Way]:
    import keras

    kind = getattr(keras.callbacks, "OrbaxCheckpoint", None)
    if kind is None or importlib.util.find_spec("orbax") is None:
        bench.missing["OrbaxCheckpoint"] = "pip install orbax-checkpoint, with Keras 3.13 or later"
        return
    callback = kind(str(bench.folder / "orbax"), save_freq="epoch", save_weights_only=True)
    yield _theirs("keras OrbaxCheckpoint", callback, model, callback.wait_until_finished)


def _wandb(model: Any, bench: Bench, stack: contextlib.ExitStack) -> Iterator[Way]:
    needed = [name for name in ("wandb", "tensorflow") if importlib.util.find_spec(name) is None]
    if needed:
        bench.missing["stock WandbModelCheckpoint"] = f"it imports {' and '.join(needed)}"
        return
    import wandb
    from wandb.integration.keras import WandbModelCheckpoint as Stock

    from lamina.keras import WandbModelCheckpoint

    stack.enter_context(wandb.init(mode="offline", dir=str(bench.folder), project="bench"))
    yield _theirs("wandb WandbModelCheckpoint", Stock(bench.folder / "w.weights.h5", save_weights_only=True), model)
    path = bench.folder / "ours-wandb.weights.h5"
    yield _ours("lamina WandbModelCheckpoint", WandbModelCheckpoint, model, path, save_weights_only=True)


def _end_epoch(callback: Any, number: int) -> None:
    callback.on_epoch_begin(number)
    callback.on_epoch_end(number, {"loss": 1.0, "val_loss": 1.0})


# A tiny model.


def _tiny(backend: str, bench: Bench) -> Table:
    import keras

    from lamina.keras import ModelCheckpoint

    model, x = model_and_data(40, 2)
    data = np.repeat(x, 50, axis=0)
    seconds: dict[str, list[float]] = {"no checkpoint": [], "keras ModelCheckpoint": [], "lamina ModelCheckpoint": []}
    for number in range(bench.repeats + 1):
        for name, taken in seconds.items():
            folder = bench.folder / f"tiny-{number}"
            kind = {"keras": keras.callbacks.ModelCheckpoint, "lamina": ModelCheckpoint}.get(name.split()[0])
            arguments = {"save_freq": 1, "save_weights_only": True}
            callbacks = [] if kind is None else [kind(folder / "{batch}.weights.h5", **arguments)]
            took = timed(lambda used=callbacks: model.fit(data, data, batch_size=4, verbose=0, callbacks=used))
            if kind is not None:
                demand(len(list(folder.iterdir())) == len(data) // 4, "a step has no file")
                shutil.rmtree(folder)
            if number:
                taken.append(took)
    count = len(data) // 4
    rows = [
        Row(
            name, {"ms per step": statistics.median(taken) / count * 1e3}, "", name.startswith("lamina"), {"fit": taken}
        )
        for name, taken in seconds.items()
    ]
    note = f"fit of {count} steps, {saved_bytes(model) / 1e3:.0f} kB, save_freq=1, a file per step; medians"
    return Table(f"tiny · {backend}", note, {"ms per step": "{:.2f}"}, rows)


# Small things.


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def arrays(model: Any) -> list[Any]:
    import keras

    variables = [*model.variables, *model.optimizer.variables]
    return [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables]


def saved_bytes(model: Any) -> int:
    return sum(array.nbytes for array in arrays(model))


def reset_peak() -> int:
    """Reset Linux's peak memory; returns the memory in use now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak() -> int:
    return status("VmHWM")


def status(key: str) -> int:
    """Memory of this process in bytes, from Linux's ``key``; 0 on other systems."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) << 10
    return 0
