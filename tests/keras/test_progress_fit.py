"""What `fit` prints of its saves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import wandb

from lamina.errors import InvalidInputError
from lamina.keras import ModelCheckpoint, WandbModelCheckpoint

pytestmark = pytest.mark.keras

_COSTS = r"  \d[\d.]* kB(, \d[\d.]* k?B new as version \d+)?; training waited [\d.]+ m?s, committed in [\d.]+ m?s"


def fit(callback: Any, epochs: int = 2) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(64), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    rng = np.random.default_rng(0)
    model.fit(rng.random((8, 16)), rng.random((8, 1)), epochs=epochs, callbacks=[callback], verbose=0)


@pytest.mark.parametrize("repository", [None, "repo"])
def test_a_line_per_version_and_a_summary(
    repository: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "{epoch}.weights.h5"
    callback = ModelCheckpoint(path, verbose=1, save_weights_only=True, repository=repository and tmp_path / repository)
    fit(callback)
    said = capsys.readouterr().out
    assert "\r" not in said
    lines = [line for line in said.splitlines() if line and ": saving model to" not in line]
    assert lines[0::2][:2] == [f"Epoch {n}: finished saving model to {tmp_path / f'{n}.weights.h5'}" for n in (1, 2)]
    assert all(re.fullmatch(_COSTS, line) and ("new" in line) == bool(repository) for line in lines[1:4:2]), lines
    new = r", \d[\d.]* kB new" if repository else ""
    assert re.fullmatch(rf"lamina: 2 versions, \d[\d.]* kB{new}; training waited [\d.]+ m?s for them", lines[4]), lines
    assert len(lines) == 5
    fit(callback, epochs=1)
    assert "lamina: 1 version," in capsys.readouterr().out


def test_quiet_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(ModelCheckpoint(tmp_path / "m.weights.h5", save_weights_only=True, repository=tmp_path / "repo"))
    fit(ModelCheckpoint(tmp_path / "b.weights.h5", "loss", 1, True, True, initial_value_threshold=-1.0))
    captured = capsys.readouterr()
    assert "lamina" not in captured.out + captured.err  # the second one saved nothing, so it prints no summary


@pytest.mark.parametrize(("repository", "layout"), [(None, "file"), ("repo", "file"), ("repo", "packs")])
def test_what_packs_would_have_uploaded(
    repository: str | None,
    layout: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(mode="offline", dir=str(tmp_path), project="p"):
        fit(
            WandbModelCheckpoint(
                tmp_path / "m.weights.h5",
                verbose=1,
                save_weights_only=True,
                layout=layout,
                repository=repository and tmp_path / repository,
            )
        )
    said = re.findall(r"^lamina: 2 versions.*for them(.*)$", capsys.readouterr().out, re.M)
    assert len(said) == 1
    expected = (repository, layout) == ("repo", "file")
    wanted = r"; layout='packs' would have uploaded \d[\d.]* kB instead of \d[\d.]* kB" if expected else ""
    assert re.fullmatch(wanted, said[0])


def test_a_wrong_number_of_threads_is_told_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMINA_THREADS", "2.5")
    with pytest.raises(InvalidInputError, match="LAMINA_THREADS must be .*2.5"):
        ModelCheckpoint(tmp_path / "m.keras")
