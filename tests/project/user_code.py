"""Typical user code. It is never run; type checkers must know what each call takes and returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from typing_extensions import assert_type

import lamina
import lamina.wandb
from lamina.errors import CorruptDataError, LaminaError, NotFoundError
from lamina.keras import EveryNEpochs, ModelCheckpoint, WandbMetricsLogger, WandbModelCheckpoint


def train(model: keras.Model, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> lamina.Snapshot | None:
    checkpoint = ModelCheckpoint(
        "best.keras", monitor="val_loss", save_freq=EveryNEpochs(2), repository="runs/a", keep=lamina.Keep(last=3)
    )
    model.fit(x, y, callbacks=[checkpoint, WandbMetricsLogger(log_freq="batch"), WandbModelCheckpoint("m.keras")])
    return checkpoint.last_snapshot


def own_loop(model: keras.Model) -> lamina.Snapshot | None:
    with lamina.Checkpointer(model, Path("runs/a"), monitor="loss", codec="zstd") as checkpointer:
        checkpointer.save(epoch=0, logs={"loss": 0.5})
        return checkpointer.best_snapshot


def save_and_look(model: keras.Model) -> None:
    snapshot = lamina.save(model, "runs/a", aliases=["paper"], metadata={"lr": 0.1}, codec="delta")
    assert_type(snapshot, lamina.Snapshot)
    assert_type(snapshot.epoch, int | None)
    assert_type(snapshot.aliases, list[str])
    repository = lamina.open("runs/a")
    assert_type(repository, lamina.Repository)
    assert_type([found.number for found in repository.snapshots()], list[int | None])
    for difference in repository.diff("paper", "latest"):
        assert_type(difference.changed_bytes, int)
    repository.set_alias("latest", "keep")
    assert_type(repository.remove_alias("latest", "keep"), bool)
    assert_type(repository.prune(lamina.Keep(last=1)).bytes, int)


def get_back(model: keras.Model, source: lamina.Snapshot | Path | str) -> None:
    assert_type(lamina.restore(source, model, optimizer="auto"), lamina.Snapshot)
    assert_type(lamina.export(source, "out"), list[Path])
    for name, tensor in lamina.read_tensors(source, ["layers/dense/vars/0"]).items():
        assert_type(name, str)
        assert_type(tensor.nbytes, int)
    loaded = lamina.load_model(source, compile=False)
    loaded.summary()


def on_the_server(snapshot: lamina.Snapshot) -> None:
    artifact = lamina.wandb.log_checkpoint(snapshot, name="digits", layout="packs", aliases=["best"])
    artifact.wait()
    assert_type(lamina.wandb.pull("wandb:digits:best", "runs/b"), lamina.Snapshot)
    assert_type(lamina.wandb.push(snapshot), list[str])
    lamina.restore(artifact, keras.Sequential())


def damage(repository: lamina.Repository) -> list[str]:
    try:
        repository.verify(full=True)
    except CorruptDataError as error:
        return [] if error.report is None else error.report.problems
    except (NotFoundError, LaminaError):
        raise
    return []


def mistakes(model: keras.Model) -> None:
    """Each line must be an error; if a checker finds none, it reports the comment as unused."""
    lamina.save(model, "runs/a", codec="gzip")  # type: ignore  # pyright: ignore
    lamina.export("runs/a")  # type: ignore  # pyright: ignore
    lamina.Keep(latest=3)  # type: ignore  # pyright: ignore
    lamina.restore(3, model)  # type: ignore  # pyright: ignore
    print(lamina.open("runs/a").snapshot().epochs)  # type: ignore  # pyright: ignore
