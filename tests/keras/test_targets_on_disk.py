"""What is at a checkpoint's path already: links, modes, odd names, files instead of folders."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import lamina
from keras_training import one_layer
from lamina.errors import InvalidInputError, LaminaError
from lamina.keras import ModelCheckpoint

pytestmark = pytest.mark.backend

X = np.ones((8, 3), "float32")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fit(*callbacks: Any, epochs: int = 1) -> list[int]:
    found: list[int] = one_layer().fit(X, X[:, :1], verbose=0, epochs=epochs, callbacks=list(callbacks)).epoch
    return found


@keras.saving.register_keras_serializable(package="test_targets_on_disk")
class OwnSave(keras.Sequential):
    """Has no plan, so Keras writes the file."""

    def save(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        super().save(filepath, overwrite=overwrite, **kwargs)


def own_save() -> keras.Model:
    model = OwnSave([keras.Input((3,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


@pytest.mark.filterwarnings("ignore:ModelCheckpoint falls back to Keras")
@pytest.mark.parametrize("made", [one_layer, own_save])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_link_is_written_through_and_the_mode_stays(made: Any, mode: int) -> None:
    Path("disk").mkdir()
    Path("disk/real.keras").touch(mode)
    os.chmod("disk/real.keras", mode)
    Path("link.keras").symlink_to("disk/real.keras")
    made().fit(X, X[:, :1], verbose=0, epochs=2, callbacks=[ModelCheckpoint("link.keras", "loss")])
    assert Path("link.keras").is_symlink()
    assert Path("disk/real.keras").stat().st_mode & 0o777 == mode
    assert [path.name for path in Path("disk").iterdir()] == ["real.keras"]
    assert keras.models.load_model("link.keras").built


@pytest.mark.filterwarnings("ignore:ModelCheckpoint falls back to Keras")
@pytest.mark.parametrize("made", [one_layer, own_save])
@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("m-10:20:30.keras", "m-10%3A20%3A30.keras"),
        ("a\\b.keras", "a%5Cb.keras"),
        ("a\nb.keras", "a%0Ab.keras"),
    ],
)
def test_what_a_snapshot_cannot_call_a_file_is_encoded(made: Any, name: str, stored: str) -> None:
    callback = ModelCheckpoint(name, "loss", repository="r")
    made().fit(X, X[:, :1], verbose=0, epochs=2, callbacks=[callback])
    assert keras.models.load_model(name).built
    found = lamina.open("r").snapshots()
    assert [snapshot.files for snapshot in found] == [[stored]] * 2
    assert lamina.load_model("r").built


def test_the_plain_file_is_there_whatever_becomes_of_the_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(shutil, "disk_usage", refuse)
    with pytest.raises(LaminaError, match="cannot read the free space of .*: Input/output error"):
        fit(ModelCheckpoint("m.keras", "loss", repository="r"))
    assert keras.models.load_model("m.keras").built
    Path("m.keras").unlink()
    with pytest.raises(LaminaError, match="cannot read the free space"):
        fit(ModelCheckpoint("m.keras", "loss", repository="r", keep_file=False))
    assert not Path("m.keras").exists()


@pytest.mark.parametrize("place", ["file", "file/below/it"])
def test_a_repository_that_is_a_file_is_refused_at_once(place: str) -> None:
    Path("file").write_text("x")
    with pytest.raises(InvalidInputError, match=r"repository must be a directory, but .*file is not one"):
        ModelCheckpoint("m.keras", repository=place)
    with pytest.raises(InvalidInputError, match=r"repository must be a directory, but .*file is not one"):
        lamina.Checkpointer(one_layer(), place)
