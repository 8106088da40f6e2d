"""What saves take from training as a whole: memory above the model, and throughput while a save is on its way.

Each way runs in a process of its own (``python -m benches.training WAY FOLDER WIDTH``): memory that one has
freed would be another's.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benches.blocked import LAYERS, QUICK_WIDTH, WIDTH, model_and_data, peak, reset_peak, saved_bytes, timed
from benches.measure import Bench, Row, Table, demand

SAVES = 3
WAYS = (
    "lamina ModelCheckpoint",
    "lamina ModelCheckpoint .keras",
    "lamina ModelCheckpoint, repository",
    "lamina ModelCheckpoint, replace",
    "keras ModelCheckpoint",
    "keras ModelCheckpoint .keras",
)
#: An epoch lasts as many times as long as a commit.
EPOCH = 10


def run(bench: Bench) -> Iterator[Table]:
    """Peak memory of saves one after the other; epochs with and without one."""
    import keras

    backend = keras.backend.backend()
    width = QUICK_WIDTH if bench.quick else WIDTH
    bench.say(f"training: memory, {backend}")
    yield _memory(bench, backend, width)
    if len(os.sched_getaffinity(0)) < 2:
        bench.missing["training throughput"] = "it needs two cores"
        return
    bench.say(f"training: throughput, {backend}")
    yield _throughput(bench, backend, width)


def _memory(bench: Bench, backend: str, width: int) -> Table:
    rows = []
    for way in WAYS:
        runs = [_child(bench, "memory", way, width, number) for number in range(bench.repeats)]
        failure = next((run["failure"] for run in runs if "failure" in run), "")
        values = {}
        if not failure:
            above = statistics.median(run["above"] for run in runs)
            values = {"memory MB": above / 1e6, "/ saved state": above / runs[0]["state"]}
        rows.append(Row(way, values, failure, way.startswith("lamina")))
    note = (
        f"peak above that of {SAVES} steps alone; {SAVES} saves with a step between, Keras on {backend}; "
        "a process for each run, medians; every last file was read back"
    )
    return Table(f"memory · {backend}", note, {"memory MB": "{:,.0f}", "/ saved state": "{:.2f}"}, rows)


def _throughput(bench: Bench, backend: str, width: int) -> Table:
    found = _child(bench, "throughput", WAYS[2], width, 0)
    name = f"{WAYS[2]}, a save at the end of each epoch"
    if "failure" in found:
        return Table(f"throughput · {backend}", "", {}, [Row(name, {}, found["failure"], ours=True)])
    plain, saving = statistics.median(found["plain"]), statistics.median(found["saving"])
    rows = [
        Row("no checkpoint", {"ms per epoch": plain * 1e3, "throughput": 1.0}, seconds={"epoch": found["plain"]}),
        Row(name, {"ms per epoch": saving * 1e3, "throughput": plain / saving}, "", True, {"epoch": found["saving"]}),
    ]
    note = (
        f"training on one core, lamina on another; an epoch of {found['steps']} steps lasts {EPOCH} commits of "
        f"{found['commit'] * 1e3:,.0f} ms; epochs with and without saves in turns, medians"
    )
    return Table(f"throughput · {backend}", note, {"ms per epoch": "{:,.0f}", "throughput": "{:.3f}"}, rows)


def _child(bench: Bench, what: str, way: str, width: int, number: int) -> dict[str, Any]:
    folder = bench.folder / f"{what}-{WAYS.index(way)}-{number}"
    command = [sys.executable, "-m", "benches.training", what, way, str(folder), str(width), str(bench.repeats)]
    done = subprocess.run(command, capture_output=True, text=True)
    shutil.rmtree(folder, ignore_errors=True)  # all of them together would fill the disk
    if done.returncode:
        return {"failure": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# In the process of its own.


def _callback(way: str, folder: Path) -> tuple[Any, Path]:
    import keras

    from lamina.keras import ModelCheckpoint

    name, _, kind = way.partition(" ModelCheckpoint")
    path = folder / ("m.keras" if "keras" in kind else "m.weights.h5")
    arguments: dict[str, Any] = {"save_weights_only": "keras" not in kind}
    if name == "keras":
        return keras.callbacks.ModelCheckpoint(path, **arguments), path
    if "repository" in kind:
        arguments["repository"] = folder / "repository"
    if "replace" in kind:
        arguments["on_backlog"] = "replace"
    return ModelCheckpoint(path, **arguments), path


def _end_epoch(callback: Any, epoch: int) -> None:
    callback.on_epoch_begin(epoch)
    callback.on_epoch_end(epoch, {"loss": 1.0, "val_loss": 1.0})


def _finish(callback: Any) -> None:
    getattr(callback, "wait_until_finished", lambda: None)()


def measure_memory(way: str, folder: Path, width: int, repeats: int) -> dict[str, Any]:
    """Saves one after the other with a step between them, as fast as they go."""
    import lamina

    model, x = model_and_data(width, LAYERS)
    state = saved_bytes(model)
    callback, path = _callback(way, folder)
    callback.set_model(model)
    gc.collect()
    reset_peak()
    for _ in range(SAVES):
        model.train_on_batch(x, x)
    saved_bytes(model)  # looks at the values, which the step may still be computing
    before = peak()
    for epoch in range(SAVES):
        _end_epoch(callback, epoch)
        model.train_on_batch(x, x)
    _finish(callback)
    above = peak() - before
    step = int(lamina.read_tensors(path, ["optimizer/vars/0"])["optimizer/vars/0"])
    demand(step == int(model.optimizer.iterations) - 1, f"the last file holds step {step}")
    return {"above": above, "state": state}


def measure_throughput(way: str, folder: Path, width: int, repeats: int) -> dict[str, Any]:
    """Epochs with and without a save at their end, in turns; training on one core, lamina on the other."""
    first, second = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {first})  # before the backend starts its threads
    model, x = model_and_data(width, LAYERS)
    callback, _ = _callback(way, folder)
    callback.set_model(model)
    _end_epoch(callback, 0)
    _finish(callback)
    for thread in threading.enumerate():
        if thread.name.startswith("lamina-save") and thread.native_id:
            os.sched_setaffinity(thread.native_id, {second})
    start = time.perf_counter()
    _end_epoch(callback, 1)
    _finish(callback)
    commit = time.perf_counter() - start
    step = statistics.median(timed(lambda: model.train_on_batch(x, x)) for _ in range(5))
    steps = max(2, round(EPOCH * commit / step))
    found: dict[str, list[float]] = {"plain": [], "saving": []}
    for epoch in range(2 * repeats):
        saving = epoch % 2 == 1
        start = time.perf_counter()
        if saving:
            _end_epoch(callback, 2 + epoch)
        for _ in range(steps):
            model.train_on_batch(x, x)
        found["saving" if saving else "plain"].append(time.perf_counter() - start)
        _finish(callback)
    return {**found, "commit": commit, "steps": steps}


if __name__ == "__main__":
    what, way, place, size, count = sys.argv[1:]
    own = Path(place)
    own.mkdir(parents=True)
    measure = {"memory": measure_memory, "throughput": measure_throughput}[what]
    print(json.dumps(measure(way, own, int(size), int(count))))
