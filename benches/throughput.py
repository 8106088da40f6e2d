"""Throughput of training during a save: training on one core, lamina on another."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benches.blocked import LAYERS, QUICK_WIDTH, WIDTH, model_and_data, timed
from benches.measure import Bench, Row, Table, demand
from benches.training import WAYS, callback_of, child, end_epoch, finish, measure_alone

#: An epoch lasts as many times as long as a commit.
EPOCH = 10


def run(bench: Bench) -> Iterator[Table]:
    """Epochs with a save and without one."""
    import keras

    if len(os.sched_getaffinity(0)) < 2:
        bench.missing["group throughput"] = "it needs two cores"
        return
    backend = keras.backend.backend()
    bench.say(f"throughput: {backend}")
    yield _throughput(bench, backend, QUICK_WIDTH if bench.quick else WIDTH)


def _throughput(bench: Bench, backend: str, width: int) -> Table:
    found = child("benches.throughput", bench, WAYS[2], width, 0)
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


def measure_throughput(way: str, folder: Path, width: int, repeats: int) -> dict[str, Any]:
    """Epochs with and without a save at their end, in turns; training on one core, lamina on the other."""
    first, second = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {first})  # before the backend starts its threads
    model, x = model_and_data(width, LAYERS)
    callback, _ = callback_of(way, folder)
    callback.set_model(model)
    end_epoch(callback, 0)
    finish(callback)
    savers = [t.native_id for t in threading.enumerate() if t.name.startswith("lamina-save") and t.native_id]
    demand(bool(savers), "no thread of lamina could be pinned to its own core")
    for thread in savers:
        os.sched_setaffinity(thread, {second})
    start = time.perf_counter()
    end_epoch(callback, 1)
    finish(callback)
    commit = time.perf_counter() - start
    step = statistics.median(timed(lambda: model.train_on_batch(x, x)) for _ in range(5))
    steps = max(2, round(EPOCH * commit / step))
    found: dict[str, list[float]] = {"plain": [], "saving": []}
    for epoch in range(2 * repeats):
        saving = epoch % 2 == 1
        start = time.perf_counter()
        if saving:
            end_epoch(callback, 2 + epoch)
        for _ in range(steps):
            model.train_on_batch(x, x)
        found["saving" if saving else "plain"].append(time.perf_counter() - start)
        finish(callback)
    return {**found, "commit": commit, "steps": steps}


if __name__ == "__main__":
    measure_alone(measure_throughput)
