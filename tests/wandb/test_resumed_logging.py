"""What callbacks log when training resumes in the same W&B run: curves continue, and nothing is logged twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import wandb
from test_eval_callback import DATA_COLUMNS, PRED_COLUMNS, Documented, examples, make_model

from lamina.keras import WandbCallback, WandbMetricsLogger, WandbModelCheckpoint
from wandb_server import Server
from wandb_training import fit, small_model

pytestmark = [pytest.mark.keras, pytest.mark.wandb]


@pytest.mark.parametrize("place", ["before", "behind", "tracked behind"])
def test_a_resumed_training_goes_on_in_the_same_curves(place: str, wandb_online: Server) -> None:
    """With ``wandb.init(id=…, resume="allow")`` the batch axis continues, and no epoch is logged twice."""
    for epochs in (2, 3):
        with wandb.init(id="one", resume="allow") as run:
            logger = WandbMetricsLogger(log_freq="batch")
            track = [logger] if place.startswith("tracked") else []
            checkpoint = WandbModelCheckpoint("m.keras", "loss", layout="packs", name="n", resume=True, track=track)
            callbacks = [logger, checkpoint] if place == "before" else [checkpoint, logger]
            fit(small_model(), *callbacks, epochs=epochs)
            name = f"{run.entity}/{run.project}/one"
    rows = list(wandb.Api().run(name).scan_history())
    assert [row["batch/batch_step"] for row in rows if "batch/batch_step" in row] == list(range(6))
    assert [row["epoch/epoch"] for row in rows if "epoch/epoch" in row] == [0, 1, 2]


def test_a_given_step_counts_more_than_the_snapshot(wandb_online: Server) -> None:
    seen = []
    for epochs in (1, 2):
        with wandb.init(id="one", resume="allow"):
            logger = WandbMetricsLogger("batch", initial_global_step=100)
            checkpoint = WandbModelCheckpoint("m.keras", "loss", layout="packs", name="n", resume=True)
            fit(small_model(), logger, checkpoint, epochs=epochs)
            seen.append(logger.global_step)
    assert seen == [102, 102]


def test_a_row_of_every_epoch_and_a_table_are_logged_once(wandb_online: Server, tmp_path: Path) -> None:
    x, y = examples()
    for epochs in (2, 3):
        with wandb.init(id="one", resume="allow") as run:
            rows = WandbCallback(save_model=False)
            tables = Documented((x, y), DATA_COLUMNS, PRED_COLUMNS)
            checkpoint = WandbModelCheckpoint(
                "m.keras", "loss", layout="packs", name="n", resume=True, track=[rows, tables]
            )
            make_model().fit(x, y, epochs=epochs, verbose=0, callbacks=[checkpoint, rows, tables])
            name = f"{run.entity}/{run.project}/one"
    history = list(wandb.Api().run(name).scan_history())
    assert [row["epoch"] for row in history if "epoch" in row] == [0, 1, 2]
    assert len(wandb_online.store.artifacts("run_one_pred")) == 3
