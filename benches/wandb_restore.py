"""Restoring a version from W&B over slow connections, beside wandb's client and Keras; every weight is compared.

Caches are empty each time, and lamina verifies every chunk.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lamina
from benches.measure import Bench, Contender, Row, Table, race
from benches.wandb import FILE, PACKS, QUICK_WIDTH, RATE, WIDTH, Model, Watched, dense, online, to_be_had

DOWNLOADED = "artifact.download() + load_weights"


def run(bench: Bench) -> Iterator[Table]:
    """One table."""
    if not to_be_had("wandb-restore", bench):
        return
    with online("wandb-restore", bench) as (server, backend):
        yield _downloads(bench, server, Model(dense(QUICK_WIDTH if bench.quick else WIDTH)), backend)


def _downloads(bench: Bench, server: Any, model: Model, backend: str) -> Table:
    watched = Watched(bench, server, model)
    versions: dict[str, str] = {}
    weights: dict[str, list[np.ndarray[Any, Any]]] = {}
    for name in (FILE, PACKS):
        run = watched.begin()
        model.fit(1, [watched.callback(name)])
        run.finish()
        versions[name] = f"{run.entity}/{run.project}/run_{run.id}_model:latest"
        weights[name] = model.weights()
    outcomes = race(_readers(watched, versions, weights), bench.repeats)
    base = outcomes[DOWNLOADED].median
    rows = []
    for name, outcome in outcomes.items():
        values = {
            "s": outcome.median,
            "MB/s": model.nbytes / outcome.median / 1e6,
            "download's time /": base / outcome.median,
        }
        rows.append(Row(name, values, outcome.failure, outcome.ours, {"wall": outcome.seconds}))
    size, rate = f"{model.nbytes / 1e6:,.0f} MB", f"{RATE / 1e6:.0f} MB/s per connection"
    note = f"{size} of weights into a built model, empty caches, {rate}; medians of {bench.repeats}"
    formats = {"s": "{:.2f}", "MB/s": "{:,.0f}", "download's time /": "{:.1f}"}
    return Table(f"wandb restore · {backend}", note, formats, rows)


def _readers(
    watched: Watched, versions: dict[str, str], weights: dict[str, list[np.ndarray[Any, Any]]]
) -> Iterator[Contender]:
    model, cache = watched.model, Path(os.environ["WANDB_CACHE_DIR"])

    def prepare() -> None:
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir()
        shutil.rmtree(watched.bench.folder / "checkpoints", ignore_errors=True)
        model.reset()
        watched.server.call("limit", per_connection=RATE, total=None)

    def check(name: str) -> None:
        watched.server.call("limit")
        model.holds(weights[name])

    def restored(name: str) -> Contender:
        def read(_: Any) -> str:
            lamina.restore(f"wandb:{versions[name]}", model.keras)
            return name

        return Contender(f"lamina.restore, {name.partition(', ')[2]}", read, check, prepare, ours=True)

    def downloaded(_: Any) -> str:
        watched.come_back(FILE, versions[FILE])
        return FILE

    # wandb's client reads a file as wandb's callback logs it; lamina's plain file is the same.
    yield Contender(DOWNLOADED, downloaded, check, prepare)
    yield restored(FILE)
    yield restored(PACKS)
