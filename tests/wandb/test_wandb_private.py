"""A new wandb release never ends a training. Each private name that lamina uses is removed once."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import wandb
from test_eval_callback import DATA_COLUMNS, PRED_COLUMNS, Documented, examples, make_model

from lamina.keras import WandbModelCheckpoint
from lamina.wandb import private
from wandb_server import Server
from wandb_training import Remember, fit, restored, same_weights, small_model

pytestmark = pytest.mark.wandb

#: The variables of `lamina.wandb.private` for its names.
FOUND = ("_Entry", "_artifacts_by_client", "_staging_folder", "_telemetry", "_Hook", "_Stage")


def test_this_wandb_has_them_all() -> None:
    assert [name for name in FOUND if getattr(private, name) is None] == []
    assert len(FOUND) == len(private.NAMES)


def test_what_is_not_there_is_none() -> None:
    assert private._find("wandb.sdk.gone", "name") is None
    assert private._find("wandb.sdk.wandb_run", "Gone") is None


def test_several_threads_make_artifacts() -> None:
    def make(_: int) -> int:
        for _ in range(300):
            wandb.Artifact("a", "model")
        return 300

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            assert sum(threads.map(make, range(4))) == 1200
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("missing", FOUND)
def test_checkpoints_and_tables_arrive_without(
    missing: str, wandb_online: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, missing, None)
    remember, evaluated, run = Remember(), make_model(), wandb.init()
    checkpoint = WandbModelCheckpoint("m.weights.h5", "loss", save_weights_only=True, layout="packs")
    fit(small_model(), remember, checkpoint, epochs=2)
    x, y = examples()
    evaluated.fit(x, y, verbose=0, epochs=2, callbacks=[Documented((x, y), DATA_COLUMNS, PRED_COLUMNS)])
    run.finish()
    name = f"run_{run.id}_model"
    packs = [path for path in wandb_online.counters.files if path.endswith(".pack")]
    assert len(packs) == len({path.rpartition("/")[2] for path in packs})  # none is sent twice
    assert len(wandb_online.store.artifacts(name)) == 2
    assert same_weights(restored(f"{name}:epoch_0", small_model), remember.weights[0])
    tables = wandb.Api().artifact(f"run_{run.id}_pred:latest")
    table = json.loads(Path(tables.get_entry("eval_data.table.json").download()).read_text())
    assert [(row[0], row[3]) for row in table["data"]] == [(1, label) for label in y]


@pytest.mark.usefixtures("wandb_online")
def test_the_end_of_a_run_is_known_without_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "_Hook", None)
    ended: list[bool] = []
    run = wandb.init()
    private.at_end_of_run(run, lambda: run.log({"last": 1}), lambda: ended.append(True))
    run.finish()
    assert ended == [True]
    assert wandb.Api().run(f"{run.entity}/{run.project}/{run.id}").summary["last"] == 1
