"""The peak memory of saves during training, above the model.

Each way runs in its own process (``python -m benches.training WAY FOLDER WIDTH REPEATS``), so that it cannot reuse
memory that another has freed.
"""

from __future__ import annotations

import gc
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benches.blocked import LAYERS, QUICK_WIDTH, WIDTH, model_and_data, peak, reset_peak, saved_bytes
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


def run(bench: Bench) -> Iterator[Table]:
    """Peak memory of consecutive saves."""
    import keras

    backend = keras.backend.backend()
    width = QUICK_WIDTH if bench.quick else WIDTH
    bench.say(f"training: memory, {backend}")
    yield _memory(bench, backend, width)


def _memory(bench: Bench, backend: str, width: int) -> Table:
    rows = []
    for way in WAYS:
        runs = [child("benches.training", bench, way, width, number) for number in range(bench.repeats)]
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


def child(module: str, bench: Bench, way: str, width: int, number: int) -> dict[str, Any]:
    """The result of the child process, or its failure."""
    folder = bench.folder / f"{WAYS.index(way)}-{number}"
    command = [sys.executable, "-m", module, way, str(folder), str(width), str(bench.repeats)]
    done = subprocess.run(command, capture_output=True, text=True)
    shutil.rmtree(folder, ignore_errors=True)  # together they would fill the disk
    if done.returncode:
        return {"failure": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# In the child process.


def callback_of(way: str, folder: Path) -> tuple[Any, Path]:
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


def end_epoch(callback: Any, epoch: int) -> None:
    callback.on_epoch_begin(epoch)
    callback.on_epoch_end(epoch, {"loss": 1.0, "val_loss": 1.0})


def finish(callback: Any) -> None:
    getattr(callback, "wait_until_finished", lambda: None)()


def measure_memory(way: str, folder: Path, width: int, repeats: int) -> dict[str, Any]:
    """Save as fast as possible, with one step between saves."""
    import lamina

    model, x = model_and_data(width, LAYERS)
    state = saved_bytes(model)
    callback, path = callback_of(way, folder)
    callback.set_model(model)
    gc.collect()
    reset_peak()
    for _ in range(SAVES):
        model.train_on_batch(x, x)
    saved_bytes(model)  # reads the values, and so waits for the step
    before = peak()
    for epoch in range(SAVES):
        end_epoch(callback, epoch)
        model.train_on_batch(x, x)
    finish(callback)
    above = peak() - before
    step = int(lamina.read_tensors(path, ["optimizer/vars/0"])["optimizer/vars/0"])
    demand(step == int(model.optimizer.iterations) - 1, f"the last file holds step {step}")
    return {"above": above, "state": state}


def measure_alone(measure: Callable[[str, Path, int, int], dict[str, Any]]) -> None:
    """The main function of the child process: takes the arguments of ``child``, prints JSON."""
    way, place, size, count = sys.argv[1:]
    own = Path(place)
    own.mkdir(parents=True)
    print(json.dumps(measure(way, own, int(size), int(count))))


if __name__ == "__main__":
    measure_alone(measure_memory)
