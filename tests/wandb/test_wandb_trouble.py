"""Failures between training and W&B. In the end every version must be there, and none twice.

``LAMINA_SOAK=1`` makes the outages as long, and the sequences as many, as nobody wants to wait for every day.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import pytest
import wandb

import lamina
import lamina.wandb
from lamina.keras import WandbModelCheckpoint
from lamina.wandb.upload.staging import Staging
from wandb_server import Server
from wandb_training import Remember, fit, restored, run_python, same_weights, small_model

pytestmark = pytest.mark.wandb

SOAK = os.environ.get("LAMINA_SOAK") == "1"


def checkpoint_of(file: str = "m.weights.h5", **more: Any) -> WandbModelCheckpoint:
    return WandbModelCheckpoint(file, **{"monitor": "loss", "save_weights_only": True, "layout": "packs", **more})


def assert_arrived(server: Server, name: str, remember: Remember) -> None:
    """One version per epoch, none twice, each can be restored, and there are no other or pending versions."""
    versions = sorted(server.store.artifacts(name), key=lambda version: version.metadata["epoch"])
    assert [version.metadata["epoch"] for version in versions] == list(range(len(remember.weights)))
    assert len({version.metadata["snapshot"] for version in versions}) == len(versions)
    assert len({version.digest for version in versions}) == len(versions)
    assert_aliases(versions, "loss", min)
    for version, weights in zip(versions, remember.weights, strict=True):
        assert same_weights(restored(version.name, small_model), weights)
    assert not list(Path(".lamina/journal").glob("*.json"))
    assert lamina.wandb.push(".lamina") == []


def assert_aliases(versions: Sequence[Any], monitor: str, better: Callable[..., float]) -> None:
    """`latest` names the last epoch, `best` the first epoch with the best value, `epoch_N` each epoch."""
    versions = sorted(versions, key=lambda version: version.metadata["epoch"])
    values = [version.metadata["logs"][monitor] for version in versions]
    expected: list[set[str]] = [{f"epoch_{version.metadata['epoch']}"} for version in versions]
    expected[-1].add("latest")
    expected[values.index(better(values))].add("best")
    assert [set(version.aliases) for version in versions] == expected


# --- The server is away, or refuses.


class At(keras.callbacks.Callback):
    """Acts at the end of an epoch."""

    def __init__(self, epoch: int, act: Callable[[], object]) -> None:
        super().__init__()
        self.epoch, self.act = epoch, act

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == self.epoch:
            self.act()


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.02)


def test_a_server_that_goes_away_in_mid_upload(wandb_online: Server) -> None:
    upload = wandb_online.inject(method="PUT", path="*.pack", delay=3600)
    remember, back = Remember(), threading.Timer(60 if SOAK else 2, lambda: setattr(wandb_online, "down", False))

    def go() -> None:
        wait_until(lambda: upload.hits == 1)
        wandb_online.down = True
        back.start()

    with wandb.init() as run:
        fit(small_model(), remember, checkpoint_of(), At(1, go), epochs=3)
    back.join()
    lamina.wandb.push(".lamina")
    assert_arrived(wandb_online, f"run_{run.id}_model", remember)


@pytest.mark.parametrize(
    "fault",
    [
        {"method": "PUT", "path": "*.pack", "status": 403, "times": 2},
        {"operation": "CreateArtifact", "status": 403, "times": 2},
    ],
)
@pytest.mark.filterwarnings("ignore:upload of a version:UserWarning")
def test_refusals(wandb_online: Server, fault: dict[str, Any]) -> None:
    """The client gives up after a 403. The journal sends the version later, and it takes no alias from newer ones."""
    struck = wandb_online.inject(**fault)
    remember = Remember()
    with wandb.init() as run:
        fit(small_model(), remember, checkpoint_of(), epochs=4)
    assert struck.hits == 2
    waiting = list(Path(".lamina/journal").glob("*.json"))
    assert waiting
    assert len(lamina.wandb.push(".lamina")) == len(waiting)
    assert_arrived(wandb_online, f"run_{run.id}_model", remember)


def test_connections_that_break_at_random_bytes(wandb_online: Server) -> None:
    generator = random.Random(11)
    faults = [
        wandb_online.inject(method="PUT", path="*/artifacts/*", reset_after=generator.randrange(2000), skip=skip)
        for skip in (range(24) if SOAK else (0, 3, 5))
    ]
    faults += [
        wandb_online.inject(operation=operation, reset_after=0, skip=generator.randrange(2))
        for operation in ("CreateArtifact", "CommitArtifact", "CreateArtifactManifest")
    ]
    remember = Remember()
    with wandb.init() as run:
        fit(small_model(), remember, checkpoint_of(), epochs=3)
    assert sum(fault.hits for fault in faults) >= 5
    lamina.wandb.push(".lamina")
    assert_arrived(wandb_online, f"run_{run.id}_model", remember)


# --- Others use the same repository.


def test_what_another_callback_is_about_to_write_is_not_uploaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two callbacks stage the stand-alone reader at the same time; neither sees an incomplete file."""
    small_model().save_weights(tmp_path / "m.weights.h5")
    snapshot = lamina.save(tmp_path / "m.weights.h5", tmp_path / "repo")
    repository = lamina.open(tmp_path / "repo")
    staging = Staging.of_repository(repository)
    write, staged = Path.write_bytes, []

    def slow(path: Path, content: bytes) -> int:
        if "restore.py" in path.name:
            write(path, content[:100])
            monkeypatch.setattr(Path, "write_bytes", write)
            staged.append(staging.stage_packs("other", repository, snapshot, {}))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", slow)
    staged.append(staging.stage_packs("one", repository, snapshot, {}))
    theirs, ours = ({entry.path: (entry.digest, entry.size) for entry in entries} for entries in staged)
    assert theirs == ours


# --- The process fails.


@pytest.mark.parametrize("end", ["finish", "with"])
def test_fit_that_fails_right_before_the_end_of_the_run(wandb_online: Server, end: str) -> None:
    """Nothing is sent when training fails, and everything is there when the run has ended."""
    wandb_online.inject(operation="CreateArtifact", delay=1)
    remember = Remember()

    def fail() -> None:
        raise RuntimeError("mine")

    def train() -> None:
        fit(small_model(), remember, checkpoint_of(), At(2, fail), epochs=5)

    if end == "finish":
        run = wandb.init(id="failing")
        with pytest.raises(RuntimeError, match="mine"):
            train()
        run.finish()
    else:
        with pytest.raises(RuntimeError, match="mine"), wandb.init(id="failing"):
            train()
    assert_arrived(wandb_online, "run_failing_model", remember)


KILLED = """
import os, keras, wandb
from lamina.keras import WandbModelCheckpoint
from wandb_training import fit, small_model
class Kill(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            checkpoint.wait()
            me = os.getpid()
            for child in open(f"/proc/{me}/task/{me}/children").read().split():
                os.kill(int(child), 9)
            os.kill(me, 9)
wandb.init(id="spot", resume="allow")
checkpoint = WandbModelCheckpoint("m.weights.h5", "loss", save_weights_only=True, layout="packs")
fit(small_model(), checkpoint, Kill(), epochs=4)
"""


def test_a_process_that_is_killed_and_started_again(wandb_online: Server, tmp_path: Path) -> None:
    """Versions of the first process are sent after those of the second, and do not take their aliases."""
    wandb_online.inject(method="PUT", path="*.pack", delay=3600)
    with pytest.raises(AssertionError):
        run_python(KILLED, wandb_online.environment(tmp_path / "client"), tmp_path)
    wandb_online.clear_faults()
    assert list(Path(".lamina/journal").glob("*.json"))
    with wandb.init(id="spot", resume="allow"):
        fit(small_model(), checkpoint_of(resume=True), epochs=4)
    assert lamina.wandb.push(".lamina")
    versions = wandb_online.store.artifacts("run_spot_model")
    saved = {snapshot.id: snapshot.epoch for snapshot in lamina.open(".lamina").snapshots()}
    assert sorted(saved.values()) == [0, 1, 2, 3]
    assert sorted(v.metadata["snapshot"] for v in versions) == sorted(saved)
    assert_aliases(versions, "loss", min)
    for version in versions:
        lamina.read_tensors(f"wandb:{version.name}")
    assert lamina.wandb.push(".lamina") == []
    assert not list(Path(".lamina/journal").glob("*.json"))


# --- Sweeps: the agent trains in a thread.


def test_a_sweep(wandb_online: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb.agents.pyagent import Agent

    monkeypatch.setattr(Agent, "HEARTBEAT_SLEEP_SECONDS", 0.1)
    for name in ("WANDB_ENTITY", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.setenv(name, os.environ.get(name, "tester"))  # the agent sets them and does not reset them
    runs: dict[str, tuple[float, Remember]] = {}

    def train() -> None:
        assert threading.current_thread() is not threading.main_thread()
        remember = Remember()
        with wandb.init() as run:
            model = small_model()
            model.optimizer.learning_rate = run.config["rate"]
            checkpoint = checkpoint_of(f"{run.id}/m.weights.h5", repository=".lamina")
            fit(model, remember, checkpoint, epochs=2)
            runs[run.id] = (run.config["rate"], remember)

    sweep = wandb.sweep({"method": "grid", "parameters": {"rate": {"values": [0.1, 0.01, 0.001]}}})
    wandb.agent(sweep, function=train, count=3)
    assert [rate for rate, _ in runs.values()] == [0.1, 0.01, 0.001]
    assert [wandb_online.store.run(name).sweep for name in runs] == [sweep] * 3
    for name, (_, remember) in runs.items():
        assert_arrived(wandb_online, f"run_{name}_model", remember)
    assert wandb_online.errors == []


# --- Aliases: sequences of epochs that improve or do not, compared with the rules.


def _saved(values: Sequence[float], best_only: bool) -> list[int]:
    """The saved epochs: all, or those that are better than all before."""
    beats = [n for n, value in enumerate(values) if all(value > before for before in values[:n])]
    return beats if best_only else list(range(len(values)))


@pytest.mark.parametrize("start", range(0, 200 if SOAK else 10, 10))
def test_aliases_of_random_sequences(wandb_online: Server, start: int) -> None:
    """Ten sequences in one `fit`, each with its own callback and its own metric."""
    generator = random.Random(start)
    length = 5
    scores = {f"s{n}": [generator.choice([0.1, 0.2, 0.3, 0.5, 0.8]) for _ in range(length)] for n in range(10)}

    class Scores(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs.update({name: values[epoch] for name, values in scores.items()})

    with wandb.init():
        checkpoints = [
            checkpoint_of(f"{name}.weights.h5", monitor=name, mode="max", name=name, save_best_only=number % 2 == 1,
                          layout="packs" if number % 4 < 2 else "file", repository=".lamina")
            for number, name in enumerate(scores)
        ]  # fmt: skip
        fit(small_model(), Scores(), *checkpoints, epochs=length)
    for number, (name, values) in enumerate(scores.items()):
        versions = wandb_online.store.artifacts(name)
        assert [v.metadata["epoch"] for v in versions] == _saved(values, number % 2 == 1), values
        assert_aliases(versions, name, max)
