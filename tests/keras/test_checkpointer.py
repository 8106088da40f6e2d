"""`lamina.Checkpointer` in a custom training loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import lamina
from lamina.errors import InvalidInputError, LaminaError, StorageError
from lamina.keras.saving import job

pytestmark = [pytest.mark.keras, pytest.mark.backend]

X, Y = np.ones((8, 6), "float32"), np.zeros((8, 3), "float32")


def build(seed: int = 0) -> Any:
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(20), layers.Dropout(0.5), layers.Dense(3)])
    model.compile("adam", "mean_squared_error")
    return model


@pytest.mark.parametrize("weights_only", [False, True])
def test_each_save_is_the_step_it_was_taken_at(tmp_path: Path, weights_only: bool) -> None:
    model, kept = build(), []
    committed: list[Any] = []
    with lamina.Checkpointer(
        model, tmp_path / "repo", weights_only=weights_only, monitor="loss", on_commit=committed.append
    ) as checkpointer:
        for epoch, loss in enumerate([3.0, 1.0, 2.0]):
            model.train_on_batch(X, Y)
            kept.append(model.get_weights())
            assert checkpointer.save(epoch=epoch, logs={"loss": loss}) is None
            model.train_on_batch(X, Y)
    repository = lamina.open(tmp_path / "repo")
    assert [s.epoch for s in repository.snapshots()] == [0, 1, 2] == [c.epoch for c in committed]
    assert checkpointer.last_snapshot == repository.snapshot()
    assert repository.snapshot("best").epoch == 1 == checkpointer.best_snapshot.epoch
    for epoch, weights in enumerate(kept):
        fresh = build(seed=1)
        snapshot = lamina.restore(f"{tmp_path / 'repo'}@epoch_{epoch}", fresh, optimizer=True)
        assert (snapshot.step, snapshot.next_epoch) == (2 * epoch + 1, epoch + 1)
        for a, b in zip(fresh.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(a, b)


def test_blocking_returns_the_snapshot(tmp_path: Path) -> None:
    checkpointer = lamina.Checkpointer(build(), tmp_path / "repo", series="mine", keep=lamina.Keep(last=1))
    first = checkpointer.save(epoch=0, blocking=True)
    second = checkpointer.save(epoch=0, batch=5, blocking=True)
    checkpointer.close()
    assert (first.series, second.batch, second.number) == ("mine", 5, 2)
    assert lamina.open(tmp_path / "repo").snapshots() == [second]


def test_without_room_nothing_is_written_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpointer = lamina.Checkpointer(build(), tmp_path / "repo", weights_only=True)
    with monkeypatch.context() as patch:
        patch.setattr(job, "RESERVE_BYTES", 1 << 60)
        with pytest.raises(StorageError, match=r"repo has \d+ MiB free, .* nothing was saved"):
            checkpointer.save(epoch=0, blocking=True)
    assert [path.name for path in tmp_path.iterdir()] == ["repo"]
    assert checkpointer.save(epoch=1, blocking=True).epoch == 1
    checkpointer.close()


def test_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LaminaError):
        lamina.Checkpointer(build(), tmp_path / "file").save(epoch=0, blocking=True)
    with pytest.raises(InvalidInputError, match="codec"):
        lamina.Checkpointer(build(), tmp_path / "repo", codec="lzma")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"epoch": "1"}, "`epoch` must be an int of 0 or more. Received: '1'"),
        ({"epoch": -1}, "`epoch` must be an int of 0 or more. Received: -1"),
        ({"epoch": 0, "batch": 1.5}, "`batch` must be an int of 0 or more. Received: 1.5"),
        ({"epoch": 0, "logs": [1.0]}, r"`logs` must be a dict of metrics. Received: \[1.0\]"),
    ],
)
def test_a_wrong_place_in_training_is_refused(arguments: dict[str, Any], text: str, tmp_path: Path) -> None:
    with lamina.Checkpointer(build(), tmp_path / "repo") as checkpointer, pytest.raises(InvalidInputError, match=text):
        checkpointer.save(**arguments)


def test_what_is_no_model_or_has_no_variables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="expected a Keras model. Received: 'model' of type str"):
        lamina.Checkpointer("model", tmp_path / "repo")
    unbuilt = keras.Sequential([keras.layers.Dense(2)])
    with lamina.Checkpointer(unbuilt, tmp_path / "repo") as checkpointer:
        with pytest.raises(InvalidInputError, match="no variables yet"):
            checkpointer.save(epoch=0)
        unbuilt(np.zeros((1, 2)))
        assert checkpointer.save(epoch=0, blocking=True) is not None
    with pytest.warns(UserWarning, match="Checkpoint.* mode 'up' is unknown"):
        lamina.Checkpointer(build(), tmp_path / "repo", mode="up").close()
