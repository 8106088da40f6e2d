"""The kinds of sources that Keras writes, and the errors if a call needs another kind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

import lamina
from lamina.errors import InvalidInputError, NotFoundError
from lamina.keras import ModelCheckpoint

pytestmark = pytest.mark.backend


def made(units: int = 3) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def trained(units: int = 3) -> keras.Model:
    model = made(units)
    model.fit(np.ones((8, 4)), np.ones((8, 1)), verbose=0)
    return model


def _same(a: keras.Model, b: keras.Model) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a.get_weights(), b.get_weights(), strict=True))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_an_unzipped_model_is_loaded_from_its_folder_and_from_its_snapshot() -> None:
    model = trained()
    model.save("folder", zipped=False)
    snapshot = lamina.save("folder", "repo")
    assert snapshot.kind == "model"
    for source in ("folder", "repo", snapshot):
        loaded = lamina.load_model(source)
        assert _same(loaded, model)
        assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations)
        other = made()
        lamina.restore(source, other)
        assert _same(other, model)


def test_a_legacy_file_of_weights_only_is_named() -> None:
    with h5py.File("old.h5", "w") as file:
        file.attrs["layer_names"] = [b"dense"]
        file.create_group("dense").attrs["weight_names"] = []
    lamina.save("old.h5", "repo")
    for source in ("old.h5", "repo"):
        with pytest.raises(InvalidInputError, match=r"^old\.h5 holds weights only; build the model and use lamina\.re"):
            lamina.load_model(source)


def test_a_colon_in_place_of_the_at_is_understood() -> None:
    lamina.save(made(), "repo", aliases=["best-one"])
    with pytest.raises(NotFoundError, match="repo@best-one"):
        lamina.read_tensors("repo:best-one")
    with pytest.raises(NotFoundError, match="expected a repository, a checkpoint file or DIR@ALIAS"):
        lamina.read_tensors("nowhere:best-one")


def test_a_folder_with_a_repository_inside_points_to_it() -> None:
    lamina.save(made(), "checkpoints/.lamina")
    Path("checkpoints/notes.txt").write_text("notes")
    inside = os.path.join("checkpoints", ".lamina")
    with pytest.raises(InvalidInputError, match=f"contains one: use {inside}$"):
        lamina.read_tensors("checkpoints")
    command = [sys.executable, "-m", "lamina", "ls", "checkpoints"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (InvalidInputError.exit_code, "")
    assert inside in done.stderr


def test_an_optimizer_of_other_shapes_is_told_by_its_variable() -> None:
    model = trained()
    model.optimizer.variables[-1].assign(model.optimizer.variables[-1])
    lamina.save(model, "repo")
    other = made(5)
    other.optimizer.build(other.trainable_variables)
    with pytest.warns(UserWarning, match=r"optimizer/\S+ has the shape \(4, 5\), the saved one \(4, 3\)"):
        lamina.restore("repo", other, skip_mismatch=True)


def test_only_who_has_the_argument_is_told_of_it() -> None:
    x, y = np.ones((8, 4)), np.ones((8, 1))
    made().fit(x, y, verbose=0, callbacks=[ModelCheckpoint("m.keras", "loss", repository="repo")])
    with pytest.raises(InvalidInputError, match="Pass skip_mismatch=True"):
        lamina.restore("repo", made(5))
    resuming = ModelCheckpoint("m.keras", "loss", repository="repo", resume=True)
    with pytest.raises(InvalidInputError, match="pass another series or repository") as caught:
        made(5).fit(x, y, verbose=0, callbacks=[resuming])
    assert "Pass skip_mismatch" not in str(caught.value)
