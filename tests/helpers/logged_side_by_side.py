"""Compares W&B: a training with wandb's callbacks and one with lamina's, in two projects of a loopback server."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import wandb
import wandb.integration.keras as stock_callbacks

import lamina.keras
from side_by_side import Differing, Outcome, content, differing, fit_on, fresh_model, inside, tree
from wandb_server import Server
from wandb_training import Follow

_numbers = itertools.count()


@dataclass(frozen=True)
class Logging:
    """A training whose callbacks log to W&B."""

    callbacks: tuple[str, ...] = ("score", "metrics", "checkpoint")
    file: str = "m.keras"
    weights_only: bool = False
    best_only: bool = False
    freq: str | int = "epoch"
    log_freq: str | int = "epoch"
    scores: tuple[float, ...] = (3.0, 1.0, 2.0)
    data: str = "arrays"
    run_id: str = "run"
    mode: str = "online"
    event: str = "nothing"


def both_logged(scenario: Logging, folder: Path, server: Server) -> Differing:
    """Run it in two folders below an empty one; the server may have other projects."""
    number = next(_numbers)
    return differing(
        _outcome(scenario, folder / "stock", server, f"stock-{number}", stock_callbacks),
        _outcome(scenario, folder / "ours", server, f"ours-{number}", lamina.keras),
    )


def _outcome(scenario: Logging, root: Path, server: Server, project: str, callbacks: Any) -> Outcome:
    (root / "work").mkdir(parents=True)
    (root / "runs").mkdir()
    found: Outcome = {}
    directories = []
    made: list[Any] = []
    model = fresh_model()
    with inside(root / "work"):
        for number in range(2 if scenario.event == "resumed run" else 1):
            again = {"resume": "must"} if number else {}
            run = wandb.init(project=project, id=scenario.run_id, mode=scenario.mode, dir=str(root / "runs"), **again)
            directories.append(Path(run.dir).parent)
            try:
                for turn in range(2 if "again" in scenario.event else 1):
                    if turn and scenario.event == "again in another directory":
                        Path("elsewhere").mkdir()
                        os.chdir("elsewhere")
                    if not made or scenario.event != "again":
                        made = [_callback(name, scenario, callbacks) for name in scenario.callbacks]
                    fit_on(model, scenario.data, made, epochs=len(scenario.scores))
            except Exception as error:  # the error that ends a training is compared too
                found[f"raised in run {number}"] = type(error).__name__
            finally:
                run.finish()
    if scenario.mode == "offline":
        found["exit code of wandb sync"] = _synced(directories, root, server)
    return found | tree(root / "work") | _arrived(server, project)


def _callback(name: str, scenario: Logging, callbacks: Any) -> Any:
    if name == "score":
        return Follow(scenario.scores)
    if name == "metrics":
        return callbacks.WandbMetricsLogger(log_freq=scenario.log_freq)
    if name == "eval":
        return _evaluation(callbacks.WandbEvalCallback)
    return callbacks.WandbModelCheckpoint(
        scenario.file,
        monitor="score",
        mode="min",
        save_best_only=scenario.best_only,
        save_weights_only=scenario.weights_only,
        save_freq=scenario.freq,
    )


def _evaluation(base: Any) -> Any:
    class Evaluation(base):  # type: ignore[misc]
        """Configured as in the documentation."""

        def add_ground_truth(self, logs: Any = None) -> None:
            for number in range(3):
                self.data_table.add_data(number, number * number)

        def add_model_predictions(self, epoch: int, logs: Any = None) -> None:
            for number in self.data_table_ref.get_index():
                row = self.data_table_ref.data[number]
                self.pred_table.add_data(epoch, row[0], row[1], number + epoch)

    return Evaluation(["number", "square"], ["epoch", "number", "square", "guess"])


def _synced(directories: list[Path], root: Path, server: Server) -> int:
    """``wandb sync`` of the runs, as wandb advises, but from another directory."""
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", *map(str, directories)],
        cwd=elsewhere,
        env={key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=120,
    )
    return done.returncode


# --- On the server.


def _arrived(server: Server, project: str) -> Outcome:
    store = server.store
    found: Outcome = {}
    (run,) = [run for (_, owner, _), run in store._state.runs.items() if owner == project]
    found["history"] = [_row(json.loads(line)) for line in run.history if line]
    for collection in store.collections:
        if project in collection.split("/"):
            name = collection.split("/")[-1].replace(project, "PROJECT")
            for version in store.artifacts(collection):
                key = f"{name}:{version.version}"
                found[f"aliases {key}"] = sorted(version.aliases)
                found[f"type {key}"] = version.type
                for path, entry in version.entries.items():
                    whole = f"{collection.rpartition('/')[0]}/{version.name}"
                    found[f"entry {key}/{path}"] = "reference" if entry.ref else content(store.file_bytes(whole, path))
    return found


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """Without times and values of the clock."""
    return {
        key: float(np.float32(value)) if isinstance(value, float) else value
        for key, value in row.items()
        if key not in ("_runtime", "_timestamp", "_wandb")
    }
