"""`ModelCheckpoint` is never worse than Keras's: whatever differs is named, with its reason, in `differences`."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from differences import unexplained
from side_by_side import Training, both

pytestmark = pytest.mark.filterwarnings("ignore")

EXAMPLES = 200 if os.environ.get("LAMINA_SOAK") else 12

FILES = [
    *("m.keras", "m-{epoch}.keras", "sub/m-{epoch:02d}.keras", "{epoch}/m.keras", "m-{score:.2f}.keras", "m.h5"),
    *(
        "ü-{epoch}.keras",
        " m.keras",
        "%s.keras",
        ".m.keras",
        "a:b-{epoch}.keras",
        "back\\slash.keras",
        "new\nline.keras",
    ),
    *("{nothing}.keras", "m", "m-{val_loss:.1f}.keras", "x" * 240 + ".keras"),
]
WEIGHTS = ["m.weights.h5", "m-{epoch}.weights.h5", "m-{epoch}-{batch}.weights.h5", "m.keras"]

named = st.booleans().flatmap(
    lambda weights: st.fixed_dictionaries(
        {"file": st.sampled_from(WEIGHTS if weights else FILES), "weights_only": st.just(weights)}
    )
)
other = st.fixed_dictionaries(
    {},
    optional={
        "monitor": st.sampled_from(["score", "loss", "val_loss", "nothing"]),
        "mode": st.sampled_from(["min", "max", "auto", "odd"]),
        "best_only": st.booleans(),
        "freq": st.sampled_from(["epoch", 1, 2, 4]),
        "verbose": st.sampled_from([0, 1]),
        "threshold": st.sampled_from([None, 1.5]),
        "scores": st.lists(st.sampled_from([3.0, 1.0, 2.0, 0.0, float("nan")]), min_size=1, max_size=3).map(tuple),
        "first": st.booleans(),
        "data": st.sampled_from(["arrays", "dataset", "generator"]),
        "before": st.sampled_from(
            ["nothing", "link", "dangling link", "link of the folder", "hard link", "mode 600", "mode 444", "directory"]
        ),
        "event": st.sampled_from(
            [
                *("nothing", "interrupted", "again", "again with a new callback", "again in another directory"),
                "another directory in training",
            ]
        ),
        "repository": st.booleans(),
    },
)
trainings = st.builds(lambda name, more: replace(Training(), **name, **more), named, other)


@settings(
    max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
@given(trainings)
def test_a_training_leaves_what_kerass_callback_leaves(scenario: Training) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert not unexplained(scenario, both(scenario, Path(folder)))


#: What found something, or what nobody tries by chance.
KEPT = [
    Training(first=True, best_only=True),
    Training(data="generator", file="m-{batch}.weights.h5", weights_only=True, freq=2),
    Training(data="dataset", event="again with a new callback", best_only=True, file="m.keras"),
    Training(event="another directory in training"),
    Training(event="interrupted"),
    Training(file="sub/m.keras", before="link"),
    Training(file="sub/m.keras", before="mode 600"),
    Training(file="a:b-{epoch}.keras", repository=True),
]


@pytest.mark.parametrize("scenario", KEPT, ids=str)
def test_these_leave_the_same(scenario: Training, tmp_path: Path) -> None:
    assert not unexplained(scenario, both(scenario, tmp_path), [])
