"""The W&B callbacks are never worse than wandb's own: what a server then holds is the same, but for the table."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from differences import unexplained
from logged_side_by_side import Logging, both_logged
from wandb_server import Server

pytestmark = [pytest.mark.wandb, pytest.mark.filterwarnings("ignore")]

EXAMPLES = 60 if os.environ.get("LAMINA_SOAK") else 4

logged = st.fixed_dictionaries(
    {},
    optional={
        "callbacks": st.permutations(["score", "metrics", "checkpoint", "eval", "plain"]).flatmap(
            lambda names: st.integers(1, 5).map(lambda count: tuple(names[:count]))
        ),
        "file": st.sampled_from(["m.keras", "m-{epoch}.keras", "sub/odd: ü-{epoch}.keras"]),
        "best_only": st.booleans(),
        "freq": st.sampled_from(["epoch", 1, 2, 4]),
        "verbose": st.sampled_from([0, 1]),
        "layout": st.sampled_from(["file", "packs"]),
        "log_freq": st.sampled_from(["epoch", "batch", 2]),
        "scores": st.sampled_from([(3.0, 1.0, 2.0), (1.0, 2.0), (2.0,)]),
        "data": st.sampled_from(["arrays", "dataset", "generator"]),
        "run_id": st.sampled_from(["run", "a.b-c_d", "lr=0.1 bs=32", "ü", "x" * 118, "x" * 120]),
        "mode": st.sampled_from(["online", "offline"]),
        "event": st.sampled_from(
            ["nothing", "again", "again with new callbacks", "again in another directory", "resumed run"]
        ),
    },
)


def _possible(values: dict[str, object]) -> Logging:
    scenario = replace(Logging(), **values)  # type: ignore[arg-type]
    # An offline run cannot be resumed.
    return replace(scenario, mode="online") if scenario.event == "resumed run" else scenario


@settings(
    max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
@given(logged.map(_possible))
def test_a_training_logs_what_wandbs_callbacks_log(wandb_online: Server, scenario: Logging) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert not unexplained(scenario, both_logged(scenario, Path(folder), wandb_online))


#: What found something, or what nobody tries by chance.
KEPT = [
    Logging(mode="offline", layout="packs", file="m-{epoch}.keras", event="again"),
    Logging(mode="offline", event="again in another directory", callbacks=("score", "checkpoint"), best_only=True),
    Logging(layout="packs", callbacks=("score", "plain", "checkpoint", "metrics"), freq=2, run_id="ü", verbose=1),
    Logging(layout="packs", callbacks=("checkpoint", "eval", "score"), event="again with new callbacks", freq=4),
    Logging(event="resumed run", callbacks=("checkpoint", "metrics", "score"), log_freq="batch"),
    Logging(event="again", data="dataset", file="m-{epoch}.weights.h5", weights_only=True),
]


@pytest.mark.parametrize("scenario", KEPT, ids=str)
def test_these_log_the_same(scenario: Logging, wandb_online: Server, tmp_path: Path) -> None:
    assert not unexplained(scenario, both_logged(scenario, tmp_path / "work", wandb_online))
