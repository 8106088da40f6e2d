"""Uploads of checkpoints, beside wandb's own callback; a loopback server simulates slow links.

The server is another process. Each timed run has a new W&B run, new folders and a new collection, so that no run
profits from another's uploads. The uploaded versions are restored and compared.
"""

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
from benches.loopback import loopback_server
from benches.measure import Bench, Contender, Outcome, Row, Table, demand, race

STOCK, FILE, PACKS = "wandb WandbModelCheckpoint", 'lamina, layout="file"', 'lamina, layout="packs"'
NONE = "no checkpoint"
EPOCHS = 3
DELAY = 0.3  # seconds; a server that is far away, or busy
RATE = 25e6  # bytes per second and connection, as from an object store
SHARED_RATE, TOTAL = 6e6, 40e6  # per connection, and of the whole link, which limits eight or more connections
WAIT = 120.0
WIDTH, QUICK_WIDTH = 3000, 1024  # of the large model

Figures = dict[str, float]


def run(bench: Bench) -> Iterator[Table]:
    """Training beside a slow server, and uploads over slow connections."""
    if not to_be_had("wandb", bench):
        return
    with online("wandb", bench) as (server, backend):
        yield _training(bench, server, backend)
        model = Model(dense(QUICK_WIDTH if bench.quick else WIDTH))
        yield _uploads(bench, server, model, backend)
        yield _shared(bench, server, model, backend)


def to_be_had(group: str, bench: Bench) -> bool:
    """Whether the packages for the server and the callbacks are installed."""
    needed = [name for name in ("wandb", "aiohttp", "graphql") if importlib.util.find_spec(name) is None]
    if needed:
        bench.missing[f"group {group}"] = f"it needs {', '.join(needed)}: pip install 'lamina[dev,wandb]'"
    return not needed


@contextlib.contextmanager
def online(group: str, bench: Bench) -> Iterator[tuple[Any, str]]:
    """The server and Keras's backend. At the end the server must not have refused a request."""
    import keras

    backend = keras.backend.backend()
    bench.say(f"{group}: {backend}")
    with loopback_server(bench.folder) as server:
        # The server does not hash, so that only the link is measured; lamina and the check verify.
        server.call("policy", check_md5=False)
        yield server, backend
        refused = server.call("errors")
        demand(not refused, f"the server refused requests: {refused}")


# Models.


class Model:
    """A model that every run trains from the same weights."""

    def __init__(self, model: Any) -> None:
        import keras

        self.keras = model
        generator = np.random.default_rng(0)
        self._x = generator.normal(size=(8, model.input_shape[1])).astype("float32")
        self._y = generator.normal(size=(8, model.output_shape[1])).astype("float32")
        self.fit(1, [])
        convert = keras.ops.convert_to_numpy
        self._start = [np.array(convert(variable)) for variable in model.variables]
        self.nbytes = sum(value.nbytes for value in model.get_weights())

    def reset(self) -> None:
        for variable, value in zip(self.keras.variables, self._start, strict=True):
            variable.assign(value)

    def fit(self, epochs: int, callbacks: list[Any]) -> None:
        self.keras.fit(self._x, self._y, batch_size=8, epochs=epochs, verbose=0, callbacks=callbacks)

    def weights(self) -> list[np.ndarray[Any, Any]]:
        return [np.array(value) for value in self.keras.get_weights()]

    def holds(self, expected: list[np.ndarray[Any, Any]]) -> None:
        same = all(np.array_equal(a, b) for a, b in zip(expected, self.keras.get_weights(), strict=True))
        demand(same, "the downloaded version has wrong weights")


def _frozen(width: int) -> Any:
    """A step that leaves 95 % of the weights unchanged."""
    import keras

    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((width,)), dense(width, trainable=False), dense(width // 20), dense(1)])
    model.compile("sgd", "mse")
    return model


def dense(width: int) -> Any:
    import keras

    model = keras.Sequential([keras.Input((width,)), *(keras.layers.Dense(width) for _ in range(3))])
    model.compile(keras.optimizers.SGD(1e-6), "mse")
    return model


# Runs.


@dataclass
class Watched:
    """A fit with one of the callbacks, and its cost."""

    bench: Bench
    server: Any
    model: Model
    found: dict[str, list[Figures]] = field(default_factory=dict)

    def begin(self) -> Any:
        import wandb

        shutil.rmtree(self._folder, ignore_errors=True)
        self.model.reset()
        return wandb.init(project="bench", dir=str(self.bench.folder))

    def callback(self, name: str) -> Any:
        path = str(self._folder / "m.weights.h5")
        if name == NONE:
            return None
        if name == STOCK:
            from wandb.integration.keras import WandbModelCheckpoint as Stock

            return Stock(path, save_weights_only=True)
        from lamina.keras import WandbModelCheckpoint

        return WandbModelCheckpoint(path, save_weights_only=True, layout="packs" if name == PACKS else "file")

    def note(self, name: str, figures: Figures) -> None:
        self.found.setdefault(name, []).append(figures)

    def median(self, name: str, what: str) -> float:
        """The median of the runs that count."""
        runs = self.found.get(name, [])[1:]
        return statistics.median(run[what] for run in runs) if runs else float("nan")

    def come_back(self, name: str, version: str) -> None:
        """Load a version into the model."""
        if name == PACKS:
            lamina.restore(f"wandb:{version}", self.model.keras)
            return
        import wandb

        folder = wandb.Api().artifact(version).download(str(self._folder / "download"))
        (path,) = Path(folder).iterdir()
        self.model.keras.load_weights(path)

    @property
    def _folder(self) -> Path:
        return self.bench.folder / "checkpoints"


def _contenders(bench: Bench) -> list[str]:
    if importlib.util.find_spec("tensorflow") is None:
        bench.missing["wandb's own callback"] = "it imports tensorflow"
        return [FILE, PACKS]
    return [STOCK, FILE, PACKS]


# Training beside a slow server.


def _training(bench: Bench, server: Any, backend: str) -> Table:
    model = Model(_frozen(600 if bench.quick else 2400))
    watched = Watched(bench, server, model)
    names = [NONE, *_contenders(bench)]
    lined_up = [_trained(watched, name, delay) for delay in (0.0, DELAY) for name in names]
    outcomes = race(lined_up, bench.repeats)
    rows = [_training_row(watched, outcomes, name, delay) for delay in (0.0, DELAY) for name in names if name != NONE]
    note = (
        f"{model.nbytes / 1e6:,.0f} MB, 95 % frozen, {EPOCHS} versions a fit; medians of {bench.repeats}; 'blocked' is "
        "the hook of an epoch's end, 'finish' from there to the end of run.finish(); CPU with wandb's process; CPU and "
        "requests beyond a fit without checkpoints; bytes as the server received them; the last version was restored"
    )
    formats = {
        "blocked ms": "{:,.1f}",
        "longest ms": "{:,.1f}",
        "finish s": "{:.2f}",
        "CPU ms": "{:,.0f}",
        "requests": "{:.1f}",
        "first MB": "{:,.2f}",
        "later MB": "{:,.2f}",
        "/ stock's blocked": "{:.3f}",
    }
    return Table(f"wandb training · {backend}", note, formats, rows)


def _label(name: str, delay: float) -> str:
    return f"{name}, {delay * 1e3:.0f} ms"


def _trained(watched: Watched, name: str, delay: float) -> Contender:
    server, model = watched.server, watched.model

    def prepare() -> Any:
        run = watched.begin()
        server.call("reset_counters")
        if delay:
            server.call("inject", path="*", delay=delay, times=None)
        return run

    def timed(run: Any) -> tuple[Any, list[np.ndarray[Any, Any]], Figures]:
        callback = watched.callback(name)
        blocked: list[float] = []
        cpu = _cpu()
        model.fit(EPOCHS, [_clocked(callback, blocked)] if callback else [])
        weights = model.weights()
        start = time.perf_counter()
        if callback is not None:
            start = callback.last_end
        run.finish()
        figures = {"finish": time.perf_counter() - start, "cpu": _cpu() - cpu}
        if blocked:
            figures |= {"blocked": statistics.median(blocked), "longest": max(blocked)}
        return run, weights, figures

    def check(given: tuple[Any, list[np.ndarray[Any, Any]], Figures]) -> None:
        run, weights, figures = given
        figures["requests"] = server.call("requests")
        server.call("clear_faults")
        if name != NONE:
            figures |= _arrived(watched, name, run, weights)
        watched.note(_label(name, delay), figures)

    return Contender(_label(name, delay), timed, check, prepare, ours=name in (FILE, PACKS))


def _clocked(callback: Any, blocked: list[float]) -> Any:
    """The callback, with a timer around `on_epoch_end`."""
    hook = callback.on_epoch_end

    def on_epoch_end(*given: Any, **more: Any) -> None:
        start = time.perf_counter()
        hook(*given, **more)
        callback.last_end = time.perf_counter()
        blocked.append(callback.last_end - start)

    callback.on_epoch_end = on_epoch_end
    return callback


def _arrived(watched: Watched, name: str, run: Any, weights: list[np.ndarray[Any, Any]]) -> Figures:
    """Bytes of the first version, and of each later one; checks that all are there and that the last one loads."""
    import wandb

    collection = f"{run.entity}/{run.project}/run_{run.id}_model"
    put = []
    for number in range(EPOCHS):
        artifact = wandb.Api().artifact(f"{collection}:v{number}")
        put.append(watched.server.call("total", pattern=f"artifacts/{artifact.id}/*")["put_bytes"])
    watched.model.reset()
    watched.come_back(name, f"{collection}:latest")
    watched.model.holds(weights)
    return {"first": put[0], "later": statistics.mean(put[1:])}


def _training_row(watched: Watched, outcomes: dict[str, Outcome], name: str, delay: float) -> Row:
    label, base, stock = (_label(other, delay) for other in (name, NONE, STOCK))

    def more(what: str) -> float:
        return (watched.median(label, what) - watched.median(base, what)) / EPOCHS

    values = {
        "blocked ms": watched.median(label, "blocked") * 1e3,
        "longest ms": watched.median(label, "longest") * 1e3,
        "finish s": watched.median(label, "finish"),
        "CPU ms": more("cpu") * 1e3,
        "requests": more("requests"),
        "first MB": watched.median(label, "first") / 1e6,
        "later MB": watched.median(label, "later") / 1e6,
        "/ stock's blocked": watched.median(label, "blocked") / watched.median(stock, "blocked"),
    }
    outcome = outcomes[label]
    return Row(label, values, outcome.failure, outcome.ours, _single_runs(watched, label))


def _cpu() -> float:
    """Processor seconds of this process, and of wandb's, which uploads."""
    return time.process_time() + sum(_seconds_of(path) for path in Path("/proc").glob("[0-9]*/stat"))


def _seconds_of(stat: Path) -> float:
    try:
        name, rest = stat.read_text().split("(", 1)[1].rsplit(")", 1)
    except OSError:  # it has ended
        return 0.0
    fields = rest.split()
    ours = int(fields[1]) == os.getpid() and name.startswith(("wandb", "gpu_stats"))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if ours else 0.0


# Uploads.


def _uploads(bench: Bench, server: Any, model: Model, backend: str) -> Table:
    watched = Watched(bench, server, model)
    names = _contenders(bench)
    outcomes = race([_uploaded(watched, name, RATE, None) for name in names], bench.repeats)
    size, rate = f"{model.nbytes / 1e6:,.0f} MB", f"{RATE / 1e6:.0f} MB/s per connection"
    note = f"{size}, {rate}; {_UPLOAD_NOTE}; medians of {bench.repeats}"
    formats = {"s": "{:.2f}", "MB": "{:,.1f}", "connections": "{:.0f}", "MB/s": "{:,.0f}", "stock's time /": "{:.1f}"}
    rows = []
    for name, outcome in outcomes.items():
        seconds, nbytes = (watched.median(name, what) for what in ("seconds", "bytes"))
        values = {
            "s": seconds,
            "MB": nbytes / 1e6,
            "connections": watched.median(name, "connections"),
            "MB/s": nbytes / seconds / 1e6,
            "stock's time /": watched.median(STOCK, "seconds") / seconds,
        }
        rows.append(Row(name, values, outcome.failure, outcome.ours, _single_runs(watched, name)))
    return Table(f"wandb upload · {backend}", note, formats, rows)


_UPLOAD_NOTE = "from the start of an epoch's last hook until the server has committed the version, which was restored"


def _shared(bench: Bench, server: Any, model: Model, backend: str) -> Table:
    watched = Watched(bench, server, model)
    outcomes = race([_uploaded(watched, PACKS, SHARED_RATE, TOTAL)], bench.repeats)
    seconds, nbytes = (watched.median(PACKS, what) for what in ("seconds", "bytes"))
    values = {
        "s": seconds,
        "MB": nbytes / 1e6,
        "connections": watched.median(PACKS, "connections"),
        "of the link": nbytes / TOTAL / seconds,
    }
    note = f"{TOTAL / 1e6:.0f} MB/s in all, {SHARED_RATE / 1e6:.0f} MB/s per connection; {_UPLOAD_NOTE}"
    formats = {"s": "{:.2f}", "MB": "{:,.1f}", "connections": "{:.0f}", "of the link": "{:.2f}"}
    outcome = outcomes[PACKS]
    rows = [Row(PACKS, values, outcome.failure, True, _single_runs(watched, PACKS))]
    return Table(f"wandb upload, shared link · {backend}", note, formats, rows)


def _uploaded(watched: Watched, name: str, per_connection: float, total: float | None) -> Contender:
    server, model = watched.server, watched.model

    def prepare() -> Any:
        run = watched.begin()
        server.call("reset_counters")
        server.call("limit", per_connection=per_connection, total=total)
        return run

    def timed(run: Any) -> tuple[Any, list[np.ndarray[Any, Any]], Figures]:
        callback = watched.callback(name)
        blocked: list[float] = []
        model.fit(1, [_clocked(callback, blocked)])
        _until(lambda: server.call("count", operation="CommitArtifact") > 0)
        seconds = time.perf_counter() - (callback.last_end - blocked[0])
        nbytes = server.call("total", pattern="artifacts/*")["put_bytes"]
        connections = server.call("peaks")["puts"]
        return run, model.weights(), {"seconds": seconds, "bytes": nbytes, "connections": connections}

    def check(given: tuple[Any, list[np.ndarray[Any, Any]], Figures]) -> None:
        run, weights, figures = given
        server.call("limit")
        run.finish()
        model.reset()
        watched.come_back(name, f"{run.entity}/{run.project}/run_{run.id}_model:latest")
        model.holds(weights)
        watched.note(name, figures)

    return Contender(name, timed, check, prepare, ours=name != STOCK)


def _until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not there():
        demand(time.monotonic() < end, f"the server had no version after {WAIT:.0f} s")
        time.sleep(0.005)  # poll the server, which is another process


def _single_runs(watched: Watched, name: str) -> dict[str, list[float]]:
    runs = watched.found.get(name, [])[1:]
    return {what: [run[what] for run in runs] for what in (runs[0] if runs else ())}
