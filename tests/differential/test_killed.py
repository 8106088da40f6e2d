"""A training that is killed and goes on ends as one with the stock callbacks does: on disk and on the server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from differences import DIFFERENCES, unexplained
from logged_side_by_side import Logging, both_logged
from wandb_server import Server

pytestmark = [
    pytest.mark.wandb,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(os.name != "posix", reason="SIGKILL"),
]

BOUNDED = Logging(event="killed", layout="packs", resume=True, callbacks=("score", "plain", "metrics", "checkpoint"))
LONG = [
    Logging(event="killed", callbacks=("score", "plain", "metrics", "checkpoint")),
    Logging(event="killed", file="m-{epoch}.weights.h5", weights_only=True, log_freq="batch", data="dataset"),
    Logging(event="killed", layout="packs", resume=True, best_only=True, callbacks=("score", "checkpoint")),
    Logging(event="killed", mode="offline"),
    Logging(event="killed", mode="offline", layout="packs", resume=True),
]


@pytest.mark.parametrize("scenario", [BOUNDED, *(LONG if os.environ.get("LAMINA_SOAK") else [])], ids=str)
def test_a_killed_training_goes_on(scenario: Logging, wandb_online: Server, tmp_path: Path) -> None:
    found = both_logged(scenario, tmp_path / "work", wandb_online)
    assert not unexplained(scenario, found)
    for line in DIFFERENCES:  # whose examples are not run again
        if line.example == scenario:
            assert any(line.explains(scenario, found, name) for name in found), found
