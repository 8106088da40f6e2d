"""The series of a callback's snapshots, and where a resumed training continues."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import lamina
from keras_training import one_layer
from lamina.errors import InvalidInputError, NotFoundError
from lamina.keras import ModelCheckpoint
from lamina.keras.saving.series import default_series

pytestmark = pytest.mark.backend

X = np.ones((8, 3), "float32")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fit(*callbacks: Any, epochs: int = 2, model: Any = None) -> list[int]:
    model = model or one_layer()
    found: list[int] = model.fit(X, X[:, :1], verbose=0, epochs=epochs, callbacks=list(callbacks)).epoch
    return found


def checkpoint(path: Any, **arguments: Any) -> ModelCheckpoint:
    return ModelCheckpoint(path, "loss", repository="r", resume=True, **arguments)


def test_folds_with_files_of_one_name_are_series_of_their_own() -> None:
    assert [fit(checkpoint(f"fold{n}/m.keras")) for n in (1, 2)] == [[0, 1], [0, 1]]
    assert lamina.open("r").series == ["fold1/m.keras", "fold2/m.keras"]
    assert fit(checkpoint("fold2/m.keras"), epochs=3) == [2]


@pytest.mark.parametrize(
    ("template", "repository", "expected"),
    [
        ("m.keras", "r", "m.keras"),
        ("a/{epoch}/m.keras", "r", "a/{epoch}/m.keras"),
        ("a/m.keras", "a/.lamina", "m.keras"),
        ("a/m.keras", "b/r", "a/m.keras"),
        ("../c/m.keras", "r", "c/m.keras"),
        ("gs://bucket/fold1/m.keras", "r", "bucket/fold1/m.keras"),
        ("/elsewhere/fold1/m.keras", "r", "fold1/m.keras"),
    ],
)
def test_the_default_comes_from_the_whole_template_and_is_relative(
    template: str, repository: str, expected: str
) -> None:
    assert default_series(template, Path(repository).absolute()) == expected
    if "://" not in template:
        assert default_series(os.path.abspath(template), Path(repository).absolute()) == expected


def test_a_series_has_the_name_that_it_is_given() -> None:
    assert fit(checkpoint("a.keras", series="mine")) == [0, 1]
    assert fit(checkpoint("b.keras", series="mine"), epochs=3) == [2]
    assert lamina.open("r").series == ["mine"]
    with pytest.raises(InvalidInputError, match="`series` must be a name"):
        checkpoint("a.keras", series="")


def test_a_series_named_by_the_old_rule_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old(ModelCheckpoint):
        """Earlier versions named the series by the base name alone."""

        def _series_name(self) -> str:
            return os.path.basename(self.filepath)

        def _facts(self, decision: Any) -> Any:
            facts = super()._facts(decision)
            facts.checkpoint.pop("template")
            return facts

    fit(Old("ck/m.keras", "loss", repository="r"))
    assert fit(checkpoint("ck/m.keras"), epochs=4) == [2, 3]
    assert lamina.open("r").series == ["m.keras"]
    assert fit(checkpoint("ck/m.keras"), epochs=5) == [4]


def test_a_series_of_another_file_is_not_continued() -> None:
    fit(checkpoint("m.keras"))
    assert fit(checkpoint("fold1/m.keras")) == [0, 1]


def test_training_that_is_complete_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    fit(checkpoint("m.keras"))
    assert fit(checkpoint("m.keras")) == []
    out = capfd.readouterr().out
    assert "already at epoch 2 of 2, nothing to train" in out
    assert "training begins" not in out


class Inner(ModelCheckpoint):
    """Saves a part of the trained model."""

    def __init__(self, inner: Any, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.inner = inner

    def set_model(self, model: Any) -> None:
        super().set_model(self.inner)


def test_training_begins_where_it_is_said_to() -> None:
    def train(epochs: int, **more: Any) -> list[int]:
        base = one_layer()
        model = keras.Sequential([keras.Input((3,)), base, layers.Dense(1)])
        model.compile("sgd", "mse")
        callback = Inner(base, "i.keras", "loss", repository="i", resume=True)
        found: list[int] = model.fit(X, X[:, :1], epochs=epochs, verbose=0, callbacks=[callback], **more).epoch
        return found

    assert train(2) == [0, 1]
    with pytest.raises(InvalidInputError, match=r"continue at epoch 3, but it began at epoch 1.*initial_epoch=2"):
        train(4)
    assert train(4, initial_epoch=2) == [2, 3]


@pytest.mark.parametrize("best_only", [False, True])
def test_a_metric_that_is_not_there_is_told_once(best_only: bool) -> None:
    callback = ModelCheckpoint("m.keras", repository="r", save_best_only=best_only)
    with pytest.warns(UserWarning, match="validation_data") as caught:
        fit(callback)
    said = [str(one.message) for one in caught if "'val_loss' is not among" in str(one.message)]
    assert len(said) == 1
    assert "(loss)" in said[0]


def test_a_best_snapshot_that_is_not_there_is_explained() -> None:
    fit(ModelCheckpoint("m.keras", repository="r"))
    with pytest.raises(NotFoundError, match=r"no snapshot 'best' in .*monitored metric; existing names: .*latest"):
        lamina.open("r").snapshot("best")
    with pytest.raises(NotFoundError, match=r"no snapshot 'epoch_7' in .*; existing names: epoch_0, epoch_1, latest;"):
        lamina.load_model("r@epoch_7")
