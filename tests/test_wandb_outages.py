"""Servers that fail for a while, runs that end badly, sweeps: everything arrives in the end, once.

With ``LAMINA_SOAK=1`` the outage lasts a minute, and there are more sequences and more faults.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import wandb

import lamina
import lamina.wandb
from lamina.keras import WandbModelCheckpoint
from wandb_server import Server
from wandb_training import Follow, Remember, fit, restored, same_weights, small_model

SOAK = os.environ.get("LAMINA_SOAK") == "1"
OUTAGE_SECONDS = 60 if SOAK else 3
FAULTY_RUNS = range(20 if SOAK else 3)
SEQUENCES = 200 if SOAK else 12
PACKS = {"layout": "packs", "save_weights_only": True}


def arrived_once(server: Server, name: str, remember: Remember) -> None:
    """Each epoch is one version, no version is there twice, and each comes back."""
    versions = server.store.artifacts(name)
    assert [version.metadata["epoch"] for version in versions] == list(range(len(remember.weights)))
    assert len({version.metadata["snapshot"] for version in versions}) == len(versions)
    for epoch, weights in enumerate(remember.weights):
        assert same_weights(restored(f"{name}:epoch_{epoch}", small_model), weights)
    assert not list(Path(".lamina/journal").glob("*.json"))


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- Trouble.


class Outage(keras.callbacks.Callback):
    """Once the first pack is on its way the server goes down, and comes back later."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            until(lambda: self.server.counters.total("artifacts/*").put_attempts)
            self.server.down = True
            self.timer = threading.Timer(OUTAGE_SECONDS, lambda: setattr(self.server, "down", False))
            self.timer.start()


def test_a_server_that_goes_down_in_mid_upload(wandb_online: Server) -> None:
    wandb_online.inject(method="PUT", path="*.pack", delay=1.0, times=2)
    remember, outage = Remember(), Outage(wandb_online)
    with wandb.init() as run:
        fit(small_model(), remember, WandbModelCheckpoint("m.weights.h5", "loss", **PACKS), outage, epochs=4)
    outage.timer.join()
    lamina.wandb.push(".lamina")  # what had not arrived when the run ended
    arrived_once(wandb_online, f"run_{run.id}_model", remember)


@pytest.mark.parametrize("seed", FAULTY_RUNS)
def test_faults_by_chance(wandb_online: Server, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(4):
        where = chance.choice([{"method": "PUT", "path": "*.pack"}, {"method": "PUT", "path": "*/lamina.*"},
                               {"operation": "CreateArtifact*"}, {"operation": "CommitArtifact"}])  # fmt: skip
        what = chance.choice([{"status": 500}, {"status": 429}, {"reset_after": chance.randrange(3000)}])
        wandb_online.inject(**where, **what, skip=chance.randrange(4), times=chance.randrange(1, 3))
    remember = Remember()
    with wandb.init() as run:
        fit(small_model(), remember, WandbModelCheckpoint("m.weights.h5", "loss", **PACKS), epochs=4)
    wandb_online.clear_faults()
    lamina.wandb.push(".lamina")
    arrived_once(wandb_online, f"run_{run.id}_model", remember)


def test_a_forbidden_upload_is_sent_when_it_is_allowed(wandb_online: Server) -> None:
    wandb_online.inject(method="PUT", path="*.pack", status=403, times=None)
    remember = Remember()
    with pytest.warns(UserWarning, match=r"lamina push"), wandb.init() as run:
        fit(small_model(), remember, WandbModelCheckpoint("m.weights.h5", "loss", **PACKS), epochs=3)
    name = f"run_{run.id}_model"
    assert len(remember.weights) == 3
    assert list(Path(".lamina/journal").glob("*.json"))
    wandb_online.clear_faults()
    lamina.wandb.push(".lamina")
    arrived_once(wandb_online, name, remember)
    assert lamina.wandb.push(".lamina") == []


class Raise(keras.callbacks.Callback):
    def on_train_end(self, logs: Any = None) -> None:
        raise RuntimeError("mine")


@pytest.mark.parametrize("layout", ["file", "packs"])
def test_an_exception_right_before_the_end_of_the_run(wandb_online: Server, layout: str) -> None:
    """Ours has not been told that training ended when another callback raises there."""
    wandb_online.inject(operation="CreateArtifact", delay=0.5, times=None)
    remember = Remember()

    def train() -> None:
        with wandb.init(id="raising"):
            checkpoint = WandbModelCheckpoint("m.weights.h5", "loss", save_weights_only=True, layout=layout)
            fit(small_model(), Raise(), remember, checkpoint, epochs=3)

    with pytest.raises(RuntimeError, match="mine"):
        train()
    versions = wandb_online.store.artifacts("run_raising_model")
    assert [version.metadata["epoch"] for version in versions] == [0, 1, 2]
    assert same_weights(restored("run_raising_model:latest", small_model), remember.weights[2])


# --- What overwrites the file.


def test_a_stock_save_onto_the_path_in_mid_upload(wandb_online: Server) -> None:
    slow = wandb_online.inject(method="PUT", path="*/artifacts/*", delay=1.0, times=None)
    remember = Remember()
    model = small_model()
    with wandb.init() as run:
        fit(model, remember, WandbModelCheckpoint("m.weights.h5", "loss", save_weights_only=True), epochs=1)
        until(lambda: slow.hits)
        model.set_weights([np.zeros_like(value) for value in model.get_weights()])
        model.save_weights("m.weights.h5")
        assert not wandb_online.counters.total("artifacts/*").puts
    assert same_weights(restored(f"run_{run.id}_model:latest", small_model), remember.weights[0])


# --- Aliases.


def expected(values: list[float], best_only: bool) -> list[set[str]]:
    """Every epoch has its alias, the last one `latest`, the newest that beat all before it `best`."""
    beaten = [all(not value <= before for before in values[:epoch] if before == before) and value == value
              for epoch, value in enumerate(values)]  # fmt: skip
    logged = [epoch for epoch in range(len(values)) if beaten[epoch] or not best_only]
    best = [epoch for epoch in range(len(values)) if beaten[epoch]][-1:]
    return [
        {f"epoch_{epoch}"} | ({"latest"} if epoch == logged[-1] else set()) | ({"best"} if [epoch] == best else set())
        for epoch in logged
    ]


def test_aliases_of_many_sequences(wandb_online: Server) -> None:
    chance = random.Random(0)
    model = small_model()
    wanted: dict[str, list[set[str]]] = {}
    with wandb.init():
        for number in range(SEQUENCES):
            values = [chance.choice([0.1, 0.2, 0.3, 0.5, float("nan")]) for _ in range(chance.randrange(1, 7))]
            best_only = number % 3 == 0 and values[0] == values[0]
            checkpoint = WandbModelCheckpoint(
                f"{number}/m.weights.h5", "score", mode="max", name=f"sequence-{number}", save_weights_only=True,
                save_best_only=best_only, layout=chance.choice(["file", "packs"]),
            )  # fmt: skip
            fit(model, Follow(values), checkpoint, epochs=len(values))
            wanted[f"sequence-{number}"] = expected(values, best_only)
    for name, aliases in wanted.items():
        found = [set(version.aliases) for version in wandb_online.store.artifacts(name)]
        assert found == aliases, name


# --- Sweeps.


def test_the_runs_of_a_sweep(wandb_online: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent calls training on a thread of its own, and tears wandb down between two runs."""
    monkeypatch.setattr("wandb.agents.pyagent.Agent.HEARTBEAT_SLEEP_SECONDS", 0)
    trained: dict[str, Remember] = {}

    def train() -> None:
        assert threading.current_thread() is not threading.main_thread()
        with wandb.init() as run:
            remember = Remember()
            checkpoint = WandbModelCheckpoint("m.weights.h5", "loss", repository=run.id, **PACKS)
            fit(small_model(), remember, checkpoint, epochs=run.config.epochs)
            trained[run.id] = remember

    wandb.agent(wandb_online.sweep([{"epochs": 1}, {"epochs": 3}, {"epochs": 2}]), train, count=3)
    assert sorted(len(remember.weights) for remember in trained.values()) == [1, 2, 3]
    for name, remember in trained.items():
        versions = wandb_online.store.artifacts(f"run_{name}_model")
        assert [version.metadata["epoch"] for version in versions] == list(range(len(remember.weights)))
        for epoch, weights in enumerate(remember.weights):
            assert same_weights(restored(f"run_{name}_model:epoch_{epoch}", small_model), weights)
