"""Damaged checkpoint files that Keras itself reads raise an error of `lamina.errors`."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import lamina
from lamina.errors import CorruptDataError, LaminaError
from lamina.keras.restoring.keras_errors import as_corrupt_data

pytestmark = pytest.mark.keras


@keras.saving.register_keras_serializable("lamina-damage")
class Own(layers.Dense):
    """Reads its weights in a custom way, so Keras must load it."""

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), Own(3)])
    model.compile("adam", "mse")
    model.fit(np.zeros((4, 4), "float32"), np.zeros((4, 3), "float32"), verbose=0)
    return model


def damaged(data: bytes, cases: int) -> Iterator[bytes]:
    """The file truncated, and with changed bytes."""
    chance = random.Random(1)
    for case in range(cases):
        changed = bytearray(data)
        if case % 3 == 0:
            del changed[chance.randrange(len(data)) :]
        else:
            for _ in range(chance.choice([1, 4, 16])):
                changed[chance.randrange(len(data))] = chance.randrange(256)
        yield bytes(changed)


READS: dict[str, list[Callable[[Any, Any], Any]]] = {
    "m.keras": [lambda source, model: lamina.load_model(source), lambda source, model: lamina.restore(source, model)],
    "m.weights.h5": [lambda source, model: lamina.restore(source, model)],
}


@pytest.mark.parametrize("name", READS)
def test_damage_is_an_error_of_ours(name: str, model: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / name
    model.save(path) if name.endswith(".keras") else model.save_weights(path)
    found: Counter[str] = Counter()
    for data in damaged(path.read_bytes(), 90):
        path.write_bytes(data)
        for read in READS[name]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    read(path, model)
                    found["read"] += 1
                except LaminaError as error:
                    found[type(error).__name__] += 1
    assert found["CorruptDataError"] > 30
    assert found.keys() <= {"CorruptDataError", "InvalidInputError", "read"}


def test_a_snapshot_of_a_damaged_file_too(model: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    model.save(path)
    path.write_bytes(path.read_bytes()[:2000])
    lamina.save(path, tmp_path / "r")
    for read in READS["m.keras"]:
        with pytest.raises(CorruptDataError, match=r"m\.keras is damaged: it is not a whole zip archive"):
            read(tmp_path / "r", model)


def test_what_a_model_raises_is_passed_on() -> None:
    with pytest.raises(KeyError, match="mine"), as_corrupt_data("it"):
        raise KeyError("mine")
