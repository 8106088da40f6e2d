"""Trainings in runs whose ids are no names of artifacts."""

from __future__ import annotations

from typing import Any

import pytest
import wandb

from lamina.keras import WandbCallback, WandbEvalCallback, WandbMetricsLogger, WandbModelCheckpoint
from wandb_server import Server
from wandb_training import Remember, data, fit, restored, same_weights, small_model

pytestmark = pytest.mark.wandb


class Evaluation(WandbEvalCallback):
    def add_ground_truth(self, logs: Any = None) -> None:
        self.data_table.add_data(1)

    def add_model_predictions(self, epoch: int, logs: Any = None) -> None:
        for number in self.data_table_ref.get_index():
            self.pred_table.add_data(epoch, number)


@pytest.mark.parametrize("id", ["lr=0.1 bs=32", "größe", "x" * 120])
def test_every_callback_logs_what_it_makes(wandb_online: Server, id: str) -> None:
    remember = Remember()
    with wandb.init(project="p", id=id) as run:
        run.name = id
        model = small_model()
        callbacks = [
            *(remember, WandbMetricsLogger(), WandbModelCheckpoint("m.weights.h5", "loss", save_weights_only=True)),
            *(Evaluation(["number"], ["epoch", "number"]), WandbCallback(monitor="loss", save_weights_only=True)),
        ]
        fit(model, *callbacks, epochs=2, validation_data=data(model))
        best_of_run = run.summary["best_epoch"]
    store = wandb_online.store
    found = {name.split("/")[-1]: store.artifacts(name) for name in store.collections}
    by_type = {versions[0].type: name for name, versions in found.items()}
    checkpoints = next(name for name in found if name.startswith("run_") and found[name][0].type == "model")
    assert len(found[checkpoints]) == 2
    assert same_weights(restored(f"p/{checkpoints}:epoch_1", small_model), remember.weights[1])
    assert len(found[by_type["evaluation"]]) == 2
    (best,) = [name for name in found if name.startswith("model-")]
    assert same_weights(restored(f"p/{best}:latest", small_model), remember.weights[best_of_run])
