"""Saves by the clock, and by what they cost; time is the test's own."""

from __future__ import annotations

import copy
from datetime import timedelta
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from keras_training import fit_on
from lamina.errors import InvalidInputError
from lamina.keras import EveryMinutes, ModelCheckpoint, Overhead
from lamina.keras.saving.saver import Saver
from lamina.keras.schedule import frequency

pytestmark = [pytest.mark.fit, pytest.mark.keras, pytest.mark.backend, pytest.mark.filterwarnings("ignore")]

X = np.random.default_rng(0).normal(size=(80, 4)).astype("float32")
fit = fit_on(X, X[:, :1])  # ten batches in an epoch


class Time(keras.callbacks.Callback):
    """Each batch takes as long as the test says."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.now = seconds, 1000.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.now += self.seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time(60.0)
    monkeypatch.setattr(frequency, "clock", lambda: time.now)
    return time


def small_model() -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def moments(commits: list[Any]) -> list[tuple[int, int | None]]:
    return [(commit.epoch, commit.batch) for commit in commits]


@pytest.mark.parametrize("save_freq", [EveryMinutes(4), timedelta(minutes=4)], ids=["minutes", "timedelta"])
def test_every_minutes_is_a_matter_of_the_clock(save_freq: Any, time: Time, tmp_path: Path) -> None:
    commits: list[Any] = []
    checkpoint = ModelCheckpoint(
        tmp_path / "{epoch}-{batch}.keras", "loss", save_freq=save_freq, on_commit=commits.append
    )
    fit(small_model(), time, checkpoint)  # a minute for each batch
    assert moments(commits) == [(0, 3), (0, 7), (1, 1), (1, 5), (1, 9)]
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["1-4", "1-8", "2-10", "2-2", "2-6"]
    time.now += 3600  # between two trainings nobody waits for a save
    fit(small_model(), time, checkpoint, epochs=1)
    assert moments(commits)[5:] == [(0, 3), (0, 7)]


def test_a_moment_passes_though_keras_finds_no_improvement(time: Time, tmp_path: Path) -> None:
    commits: list[Any] = []
    checkpoint = ModelCheckpoint(
        tmp_path / "m.keras", "loss", save_best_only=True, initial_value_threshold=0.0, mode="min",
        save_freq=EveryMinutes(3), on_commit=commits.append,
    )  # fmt: skip
    asked = []
    checkpoint._is_improvement = lambda value, reference: asked.append(value) and False  # type: ignore[method-assign]
    fit(small_model(), time, checkpoint, epochs=1)
    assert (len(asked), commits) == (3, [])


def test_saves_take_no_more_than_their_share(
    time: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    time.seconds = 10.0
    save, waits = Saver.save, iter([1.0, 1.0, 2.0, 1.0, 1.0])

    def slow(self: Saver, *arguments: Any, **named: Any) -> None:
        time.now += next(waits)
        save(self, *arguments, **named)

    monkeypatch.setattr(Saver, "save", slow)
    commits: list[Any] = []
    checkpoint = ModelCheckpoint(
        tmp_path / "{epoch}-{batch}.keras", "loss", save_freq=Overhead(0.02), verbose=1, on_commit=commits.append
    )
    fit(small_model(), time, checkpoint, epochs=3)
    # After 10 s; 2 s in all fit into 100 s of training, 3 s into 150 (this one takes 2), 6 s into 300.
    assert moments(commits) == [(0, 0), (0, 9), (1, 4), (2, 9)]
    said = capsys.readouterr().out
    assert "saves take 10.00% of training, at most 2.00%" in said
    assert said.splitlines()[-1].endswith("for them; saves take 1.67% of training, at most 2.00%")


def test_a_first_save_that_would_cost_too_much_waits(time: Time, tmp_path: Path) -> None:
    time.seconds = 0.5
    commits: list[Any] = []
    checkpoint = ModelCheckpoint(tmp_path / "m.keras", "loss", save_freq=Overhead(0.02), on_commit=commits.append)
    fit(small_model(), time, checkpoint, epochs=1)
    assert moments(commits)[0] == (0, 5)  # 0.05 s in 2.5 s and a little for its bytes


def test_copies_are_the_same(tmp_path: Path) -> None:
    for value in (EveryMinutes(1.5), Overhead(0.1)):
        assert repr(copy.deepcopy(value)) == repr(value)
        checkpoint = copy.deepcopy(ModelCheckpoint(tmp_path / "m.keras", "loss", save_freq=value))
        assert repr(checkpoint.save_freq) == repr(value)
        fit(small_model(), checkpoint, epochs=1)


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf"), "3", True, None, timedelta(0)])
def test_what_is_no_time_is_refused(minutes: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="`minutes` must be a number above 0"):
        EveryMinutes(minutes) if not isinstance(minutes, timedelta) else ModelCheckpoint(
            tmp_path / "m.keras", save_freq=minutes
        )


@pytest.mark.parametrize("share", [0, -0.1, 2, float("nan"), "2 %", None, False])
def test_what_is_no_share_is_refused(share: Any) -> None:
    with pytest.raises(InvalidInputError, match="`share` must be"):
        Overhead(share)


def test_a_validation_metric_is_told_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"'val_mae' at batches \(save_freq=EveryMinutes\(5\)\)"):
        ModelCheckpoint(tmp_path / "m.keras", "val_mae", save_freq=EveryMinutes(5))
