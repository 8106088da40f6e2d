"""The training state of a snapshot is checked before the model is changed; damage raises a typed error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import lamina
from lamina import _core
from lamina.errors import CorruptDataError
from lamina.keras import ModelCheckpoint

pytestmark = [pytest.mark.backend, pytest.mark.filterwarnings("ignore")]

X = np.ones((8, 3), "float32")


class Counts(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.count, self.sums = 0, np.zeros(3)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.count += 1
        self.sums += 1


def build() -> keras.Model:
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(1)]
    )
    model.compile("adam", "mse")
    return model


def checkpoint(folder: Path, track: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder / "m.keras", "loss", repository=folder / "r", resume=True, track=[track])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    counts = Counts()
    build().fit(X, X[:, :1], epochs=1, verbose=0, callbacks=[counts, checkpoint(folder, counts)])
    return folder


@pytest.fixture
def mutated(saved: Path) -> Any:
    path = saved / "r" / "snapshots" / "0000000001.json"
    whole = path.read_bytes()

    def mutate(change: Callable[[dict[str, Any]], Any]) -> Path:
        content = json.loads(_core.unseal("snapshot", whole, "x"))
        change(content)
        path.chmod(0o644)
        path.write_bytes(_core.seal("snapshot", json.dumps(content)))
        return saved

    yield mutate
    path.write_bytes(whole)


def state(model: Any) -> list[np.ndarray]:
    optimizer = model.optimizer.variables
    return [keras.ops.convert_to_numpy(variable).copy() for variable in [*model.variables, *optimizer]]


MUTATIONS: dict[str, list[Any]] = {
    "seeds": [
        5,
        "ab",
        {"0": [1, 2]},
        [5],
        [["0"]],
        [["0", 5]],
        [["0", [1, 2, 3]]],
        [["0", [1]]],
        [["0", ["a", "b"]]],
        [["0", [1.5, 2]]],
        [["0", [True, 2]]],
        [["0", [2**70, 1]]],
        [["0", [-(2**64), 1]]],
        [[5, [1, 2]]],
        [[["0"], [1, 2]]],
        [["0", [1, 2]], ["0", [3, 4]]],
    ],
    "optimizer": [5, [], {}, "", True],
    "optimizer_variables": [5, "01", [], [0, 0], [-1], [1.0], [True]],
}
RESUMED: dict[str, list[Any]] = {
    "checkpoint": [
        5,
        [],
        {"best": "x"},
        {"best": [1]},
        {"best_value": {"float": "x"}},
        {"best_value": {"list": []}},
        {"best_value": True},
        {"batches_seen": -1},
        {"batches_seen": 1.5},
        {"batches_seen": "1"},
    ],
    "callbacks": [
        5,
        {},
        [5],
        [{}],
        [{"class": 5, "state": {}}],
        [{"class": "Counts"}],
        [{"class": "Counts", "state": []}],
        [{"class": "Counts", "state": {}, "later": 1}],
        [{"class": "Counts", "state": {"count": [1]}}],
        [{"class": "Counts", "state": {"count": {"unknown": 1}}}],
        [{"class": "Counts", "state": {"count": {"tensor": "none"}}}],
        [{"class": "Counts", "state": {"count": {"dict": [[{"dict": []}, 1]]}}}],
    ],
}


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [pytest.param(field, value, id=f"{field}-{i}") for field in table for i, value in enumerate(table[field])]


@pytest.mark.parametrize(("field", "value"), cases(MUTATIONS | RESUMED))
def test_a_field_of_another_form_is_a_typed_error(field: str, value: Any, mutated: Any) -> None:
    folder = mutated(lambda content: content["training"].update({field: value}))
    model = build()
    before = state(model)
    with pytest.raises(CorruptDataError, match=rf"training\.{field}.*must be .*Received"):
        lamina.restore(folder / "r", model)
    for old, new in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(old, new)
    lamina.restore(folder / "r", model, optimizer=False)  # the way out that the message advises


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, table[field][0]) for table in (MUTATIONS, RESUMED) for field in table],
)
def test_resuming_and_loading_check_as_well(field: str, value: Any, mutated: Any) -> None:
    folder = mutated(lambda content: content["training"].update({field: value}))
    model, counts = build(), Counts()
    before = state(model)
    with pytest.raises(CorruptDataError, match=rf"training\.{field}"):
        model.fit(X, X[:, :1], epochs=2, verbose=0, callbacks=[counts, checkpoint(folder, counts)])
    if keras.backend.backend() == "tensorflow":  # elsewhere `fit` builds the optimizer before any hook
        assert len(state(model)) == len(before)
    for old, new in zip(before, state(model), strict=False):
        np.testing.assert_array_equal(old, new)
    with pytest.raises(CorruptDataError, match=rf"training\.{field}"):
        lamina.load_model(folder / "r")


@pytest.mark.parametrize("number", [2**40, 2**64 - 1, -1, -(2**63)])
def test_seeds_that_a_backend_cannot_hold_start_anew(number: int, mutated: Any) -> None:
    folder = mutated(lambda content: content["training"].update(seeds=[["0", [number, 1]]]))
    model = build()
    lamina.restore(folder / "r", model)


def test_missing_fields_are_fine(mutated: Any) -> None:
    folder = mutated(lambda content: content.update(training=dict.fromkeys(content["training"])))
    lamina.restore(folder / "r", build())
    model, counts = build(), Counts()
    assert model.fit(X, X[:, :1], epochs=2, verbose=0, callbacks=[counts, checkpoint(folder, counts)]).epoch == [1]
