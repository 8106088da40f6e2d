"""The cost of the W&B callbacks in training, per batch and per epoch, beside wandb's own.

Each timed run is a whole ``fit`` with a new W&B run; its records are compared with the results of the training.
"""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import lamina
from benches.loopback import loopback_server
from benches.measure import Bench, Contender, Outcome, Row, Table, demand, race

ROWS, WIDTH = 8, 64
NONE = "no callback"
#: Keras waits for each batch if a callback has batch hooks, and runs ahead otherwise; this matters for tiny steps.
LOOKS = "a callback that looks at batches"


@dataclass(frozen=True)
class Shape:
    """The size of one timed run."""

    steps: int  # per epoch
    epochs: int

    @property
    def batches(self) -> int:
        return self.steps * self.epochs


def run(bench: Bench) -> Iterator[Table]:
    """Rows per batch, rows and files per epoch, and tables per epoch."""
    if importlib.util.find_spec("wandb") is None:
        bench.missing["group callbacks"] = "pip install wandb"
        return
    training = Training(bench)
    bench.say(f"callbacks: {training.backend}")
    yield from _offline(bench, training)
    yield from _online(bench, training)


class Training:
    """A small model that every run trains from the same weights."""

    def __init__(self, bench: Bench) -> None:
        import keras

        self.backend = keras.backend.backend()
        self.folder = bench.folder
        self.waits: dict[str, bool] = {}  # by contender, whether Keras waits for each batch
        dense = keras.layers.Dense
        self.model = keras.Sequential([keras.Input((WIDTH,)), dense(WIDTH, "relu"), dense(WIDTH, "relu"), dense(10)])
        self.model.compile("adam", "mse", metrics=["mae"])
        self._fit(Shape(4, 1), [])
        self._start = [np.array(keras.ops.convert_to_numpy(variable)) for variable in self._variables()]

    def losses(self, shape: Shape) -> tuple[list[float], list[float]]:
        """The results of training without W&B: per batch and per epoch."""
        import keras

        batches: list[float] = []
        seen = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: batches.append(float(logs["loss"])))
        self.reset()
        history = self._fit(shape, [seen]).history
        return batches, list(history["loss"])

    def reset(self) -> None:
        for variable, value in zip(self._variables(), self._start, strict=True):
            variable.assign(value)

    def contender(
        self,
        name: str,
        shape: Shape,
        make: Callable[[], Sequence[Any]],
        check: Callable[[Any, Any], None],
        mode: str,
    ) -> Contender:
        """``make`` returns the callbacks, inside an active run; ``check`` gets them and the finished run."""
        import keras
        import wandb

        def prepare() -> tuple[Any, Sequence[Any]]:
            self.reset()
            started = wandb.init(mode=mode, dir=str(self.folder), project="bench", name="bench")
            callbacks = make()
            self.waits[name] = not keras.callbacks.CallbackList(list(callbacks))._async_train
            return started, callbacks

        def fit(given: tuple[Any, Sequence[Any]]) -> Any:
            self._fit(shape, given[1])
            return given

        def checked(given: tuple[Any, Sequence[Any]]) -> None:
            started, callbacks = given
            started.finish()
            check(started, callbacks)
            shutil.rmtree(Path(started.dir).parent)

        return Contender(name, fit, checked, prepare, ours=name.startswith("lamina"))

    def _fit(self, shape: Shape, callbacks: Sequence[Any]) -> Any:
        generator = np.random.default_rng(0)
        x = generator.normal(size=(ROWS * shape.steps, WIDTH)).astype("float32")
        y = x[:, :10]
        return self.model.fit(
            x, y, batch_size=ROWS, epochs=shape.epochs, shuffle=False, verbose=0, callbacks=list(callbacks)
        )

    def _variables(self) -> list[Any]:
        return [*self.model.variables, *self.model.optimizer.variables]


# Offline: what is logged stays on this machine.


def _offline(bench: Bench, training: Training) -> Iterator[Table]:
    per_batch = Shape(50, 1) if bench.quick else Shape(500, 1)
    yield from _hooks(bench, training)
    outcomes = race(_batch_loggers(bench, training, per_batch), bench.repeats)
    yield _table("batch", training, outcomes, per_batch.batches, f"fit of {per_batch.batches} batches, offline")
    per_epoch = Shape(2, 5) if bench.quick else Shape(4, 40)
    outcomes = race(_epoch_loggers(bench, training, per_epoch), bench.repeats)
    note = f"fit of {per_epoch.epochs} epochs of {per_epoch.steps} batches, offline"
    yield _table("epoch", training, outcomes, per_epoch.epochs, note)


def _batch_loggers(bench: Bench, training: Training, shape: Shape) -> Iterator[Contender]:
    from lamina.keras import WandbCallback, WandbMetricsLogger

    batches, _ = training.losses(shape)

    def rows(prefix: str) -> Callable[[Any, Any], None]:
        return lambda started, _: _same(_recorded(started).column(f"{prefix}loss")[: len(batches)], batches)

    def contender(name: str, make: Callable[[], Any], check: Callable[[Any, Any], None]) -> Contender:
        return training.contender(name, shape, lambda: [make()], check, "offline")

    yield training.contender(NONE, shape, list, _nothing, "offline")
    yield contender(LOOKS, _looking, _nothing)
    if stock := _stock(bench):
        kind = stock.WandbMetricsLogger
        yield contender("wandb WandbMetricsLogger", lambda: kind("batch"), rows("batch/"))
        yield contender("wandb WandbMetricsLogger, epochs", kind, _nothing)
    yield contender("lamina WandbMetricsLogger", lambda: WandbMetricsLogger("batch"), rows("batch/"))
    yield contender("lamina WandbMetricsLogger, epochs", WandbMetricsLogger, _nothing)
    all_in_one = {"log_batch_frequency": 1, "save_model": False, "save_graph": False}
    yield contender("lamina WandbCallback", lambda: WandbCallback(**all_in_one), rows(""))


def _epoch_loggers(bench: Bench, training: Training, shape: Shape) -> Iterator[Contender]:
    from lamina.keras import WandbCallback, WandbMetricsLogger, WandbModelCheckpoint

    _, epochs = training.losses(shape)
    path = bench.folder / "model.weights.h5"

    def rows(prefix: str) -> Callable[[Any, Any], None]:
        return lambda started, _: _same(_recorded(started).column(f"{prefix}loss"), epochs)

    def versions(started: Any, _: Any) -> None:
        logged = _recorded(started).artifacts_of("model")
        demand(len(logged) == shape.epochs, f"{len(logged)} versions after {shape.epochs} epochs")
        (entry,) = logged[-1].entries.values()
        (copy := bench.folder / "logged.weights.h5").write_bytes(entry.read_bytes())
        kernel = lamina.read_tensors(copy, ["layers/dense/vars/0"])["layers/dense/vars/0"]
        demand(np.array_equal(kernel, training.model.get_weights()[0]), "the last version has another model")

    def contender(name: str, make: Callable[[], Any], check: Callable[[Any, Any], None]) -> Contender:
        return training.contender(name, shape, lambda: [make()], check, "offline")

    yield training.contender(NONE, shape, list, _nothing, "offline")
    yield contender(LOOKS, _looking, _nothing)
    stock = _stock(bench)
    if stock:
        yield contender("wandb WandbMetricsLogger", stock.WandbMetricsLogger, rows("epoch/"))
    yield contender("lamina WandbMetricsLogger", WandbMetricsLogger, rows("epoch/"))
    yield contender("lamina WandbCallback", lambda: WandbCallback(save_model=False), rows(""))
    if stock:
        saving = stock.WandbModelCheckpoint
        yield contender("wandb WandbModelCheckpoint", lambda: saving(path, save_weights_only=True), versions)
    ours = WandbModelCheckpoint
    yield contender("lamina WandbModelCheckpoint", lambda: ours(path, save_weights_only=True), versions)


CALLS = 50


def _hooks(bench: Bench, training: Training) -> Iterator[Table]:
    """One hook alone, a few calls of each callback in turns, so that other work on the machine has little effect."""
    from lamina.keras import WandbCallback, WandbMetricsLogger

    only_rows = {"save_model": False, "save_graph": False}
    loggers = {
        "on_train_batch_end": (WandbMetricsLogger, {"log_freq": "batch"}, {"log_batch_frequency": 1}),
        "on_epoch_end": (WandbMetricsLogger, {}, {}),
    }
    stock = _stock(bench)
    for hook, (kind, arguments, more) in loggers.items():
        makers = {
            "lamina WandbMetricsLogger": lambda kind=kind, arguments=arguments: kind(**arguments),
            "lamina WandbCallback": lambda more=more: WandbCallback(**more, **only_rows),
        }
        if stock:
            makers["wandb WandbMetricsLogger"] = lambda arguments=arguments: stock.WandbMetricsLogger(**arguments)
        yield _hook(bench, training, hook, makers)


def _hook(bench: Bench, training: Training, hook: str, makers: dict[str, Callable[[], Any]]) -> Table:
    import wandb

    started = wandb.init(mode="offline", dir=str(training.folder), project="bench", name="bench")
    callbacks = {name: make() for name, make in makers.items()}
    for callback in callbacks.values():
        callback.set_params({"steps": None})
        callback.set_model(training.model)
        callback.on_train_begin()
    seconds: dict[str, list[float]] = {name: [] for name in callbacks}
    rounds = bench.repeats * (2 if bench.quick else 8)
    for number in range(rounds):
        for name, callback in callbacks.items():
            seconds[name] += _called(getattr(callback, hook), number * CALLS)
    started.finish()
    losses = [row for row in _recorded(started).history if {"loss", "batch/loss", "epoch/loss"} & set(row)]
    demand(len(losses) == len(callbacks) * rounds * CALLS, f"{len(losses)} rows were logged")
    return _table_of_hooks(training, hook, seconds)


def _called(hook: Callable[[int, dict[str, float]], None], first: int) -> list[float]:
    took = []
    for number in range(first, first + CALLS):
        start = time.perf_counter()
        hook(number, {"loss": 0.5, "mae": 0.25})
        took.append(time.perf_counter() - start)
    return took


def _table_of_hooks(training: Training, hook: str, seconds: dict[str, list[float]]) -> Table:
    rows = []
    for name, taken in seconds.items():
        values = {"µs": float(np.median(taken)) * 1e6, "90 % of calls": float(np.quantile(taken, 0.9)) * 1e6}
        if (other := name.replace("lamina", "wandb")) in seconds and other != name:
            values["/ wandb's"] = float(np.median(taken) / np.median(seconds[other]))
        rows.append(Row(name, values, "", name.startswith("lamina"), {"call": taken}))
    note = f"one call, offline; median of {len(taken)}, in turns of {CALLS}; each made a row"
    formats = {"µs": "{:.0f}", "90 % of calls": "{:.0f}", "/ wandb's": "{:.2f}"}
    return Table(f"callbacks {hook} · {training.backend}", note, formats, rows)


# Online: wandb's WandbEvalCallback works nowhere else.


def _online(bench: Bench, training: Training) -> Iterator[Table]:
    needed = [name for name in ("aiohttp", "graphql", "PIL") if importlib.util.find_spec(name) is None]
    if needed:
        bench.missing["callbacks · tables"] = f"it needs {', '.join(needed)}: pip install 'lamina[dev,wandb]'"
        return
    shape = Shape(4, 2 if bench.quick else 5)
    with loopback_server(bench.folder):
        outcomes = race(_table_loggers(bench, training, shape), bench.repeats)
    note = f"fit of {shape.epochs} epochs, {EXAMPLES} examples with images in each table, online at a loopback server"
    yield _table("tables", training, outcomes, shape.epochs, note)


EXAMPLES = 40


def _table_loggers(bench: Bench, training: Training, shape: Shape) -> Iterator[Contender]:
    from lamina.keras import WandbEvalCallback

    def contender(name: str, base: Any) -> Contender:
        kind = _predictions(base)
        return training.contender(name, shape, lambda: [kind()], _last_table(shape), "online")

    yield training.contender(NONE, shape, list, _nothing, "online")
    if stock := _stock(bench):
        yield contender("wandb WandbEvalCallback", stock.WandbEvalCallback)
    yield contender("lamina WandbEvalCallback", WandbEvalCallback)


def _predictions(base: Any) -> Any:
    """The documented example, on either base class."""
    import wandb

    x = np.random.default_rng(1).normal(size=(EXAMPLES, WIDTH)).astype("float32")

    class Predictions(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(["idx", "image"], ["epoch", "idx", "image", "pred"])

        def add_ground_truth(self, logs: Any = None) -> None:
            for i, row in enumerate(x):
                self.data_table.add_data(i, wandb.Image((np.abs(row.reshape(8, 8)) * 80).astype("uint8")))

        def add_model_predictions(self, epoch: int, logs: Any = None) -> None:
            predicted = self.model.predict(x, verbose=0).argmax(axis=-1)
            self.last = [int(value) for value in predicted]
            for i in self.data_table_ref.get_index():
                self.pred_table.add_data(epoch, *self.data_table_ref.data[i], self.last[i])

    return Predictions


def _last_table(shape: Shape) -> Callable[[Any, Any], None]:
    def check(started: Any, callbacks: Any) -> None:
        import wandb

        artifact = wandb.Api().artifact(f"{started.entity}/{started.project}/run_{started.id}_pred:latest")
        demand(artifact.version == f"v{shape.epochs - 1}", f"the last version is {artifact.version}")
        logged = artifact.get("eval_data").get_column("pred")
        demand([int(value) for value in logged] == callbacks[0].last, "the table has other predictions")

    return check


# Small things.


def _stock(bench: Bench) -> Any:
    """wandb's own callbacks, which import TensorFlow on every backend."""
    if importlib.util.find_spec("tensorflow") is None:
        bench.missing["wandb's own callbacks"] = "they import tensorflow"
        return None
    from wandb.integration import keras

    return keras


def _recorded(started: Any) -> Any:
    import offline_run

    return offline_run.read(Path(started.dir).parent)


def _same(logged: list[float], expected: list[float]) -> None:
    demand(len(logged) == len(expected), f"{len(logged)} rows were logged, expected {len(expected)}")
    demand(np.allclose(logged, expected, rtol=1e-4), "the logged values are not those of the training")


def _looking() -> Any:
    import keras

    return keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: dict(logs))


def _nothing(*_: Any) -> None:
    """Nothing to compare."""


def _table(what: str, training: Training, outcomes: dict[str, Outcome], count: int, note: str) -> Table:
    """Time per batch or epoch beyond training alone; a callback of ours divided by wandb's of the same name."""
    unit = "batch" if what == "batch" else "epoch"
    alike = {name: outcomes.get(LOOKS if training.waits[name] else NONE, outcomes[NONE]) for name in outcomes}
    added = {name: (outcome.median - alike[name].median) / count * 1e3 for name, outcome in outcomes.items()}
    rows = []
    for name, outcome in outcomes.items():
        values = {
            f"ms per {unit}": outcome.median / count * 1e3,
            "fastest": min(outcome.seconds, default=float("nan")) / count * 1e3,
            "spread": outcome.spread,
            "added ms": added[name],
            "added CPU ms": (outcome.median_cpu - alike[name].median_cpu) / count * 1e3,
            "throughput lost": 1 - outcomes[NONE].median / outcome.median,
        }
        other = name.replace("lamina", "wandb")
        if name.startswith("lamina") and other in outcomes:
            values["/ wandb's"] = added[name] / added[other]
        rows.append(Row(name, values, outcome.failure, outcome.ours, {"wall": outcome.seconds, "cpu": outcome.cpu}))
    formats = {
        f"ms per {unit}": "{:.3f}",
        "fastest": "{:.3f}",
        "spread": "{:.0%}",
        "added ms": "{:+.3f}",
        "added CPU ms": "{:+.3f}",
        "throughput lost": "{:.0%}",
        "/ wandb's": "{:.2f}",
    }
    note += (
        "; medians; 'added' is what the callback adds to training that waits for batches as with it, 'throughput lost' "
        "is against no callback; what W&B recorded was compared with what training gave"
    )
    return Table(f"callbacks {what} · {training.backend}", note, formats, rows)
