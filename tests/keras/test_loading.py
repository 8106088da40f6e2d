"""`lamina.load_model` loads the same model as Keras, without random initialization and without a file."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import lamina
import zoo
from lamina.keras.restoring import load_model, skip_init

pytestmark = [pytest.mark.keras, pytest.mark.backend, pytest.mark.filterwarnings("ignore")]


KINDS = [pytest.param(k, marks=pytest.mark.skip(reason=zoo.SKIP[k])) if k in zoo.SKIP else k for k in zoo.ZOO]


@keras.saving.register_keras_serializable("lamina-tests")
class Noise(layers.Layer):
    """Has a random variable that is not in the file."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.hidden = [keras.Variable(keras.initializers.RandomNormal(seed=4), shape=(3, 3), trainable=False)]
        self._tracker.unlock()

    def save_own_variables(self, store: Any) -> None:
        pass

    def load_own_variables(self, store: Any) -> None:
        pass


def network(**compiled: Any) -> keras.Model:
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5, seed=3),
            layers.Dense(2),
        ]
    )
    model.compile(**({"optimizer": "adam", "loss": "mse"} | compiled))
    x = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
    model.fit(x, x[:, :2], verbose=0)
    return model


def values(model: keras.Model) -> list[Any]:
    found = [*model.variables, *(model.optimizer.variables if getattr(model, "optimizer", None) else [])]
    return [keras.ops.convert_to_numpy(v) for v in found if "seed" not in v.path]  # Keras files have no seeds


def assert_same(model: keras.Model, other: keras.Model) -> None:
    for a, b in zip(values(model), values(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def keras_never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make loading through an exported file fail."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("Keras was asked to load a file")

    monkeypatch.setattr(keras.models, "load_model", refuse)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_model_is_loaded_as_keras_loads_it(name: str, tmp_path: Path) -> None:
    model = zoo.ZOO[name]()
    try:
        model.save(tmp_path / "m.keras")
        keras.models.load_model(tmp_path / "m.keras", safe_mode=False)
    except Exception as error:
        pytest.skip(f"Keras itself does not load it: {type(error).__name__}")
    lamina.save(tmp_path / "m.keras", tmp_path / "r")
    keras.utils.set_random_seed(1)
    expected = keras.models.load_model(tmp_path / "m.keras", safe_mode=False)
    keras.utils.set_random_seed(1)
    found = lamina.load_model(tmp_path / "r", safe_mode=False)
    assert_same(expected, found)
    assert type(getattr(found, "optimizer", None)) is type(getattr(expected, "optimizer", None))


def test_no_file_and_no_random_numbers(tmp_path: Path, keras_never: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    lamina.save(model, tmp_path / "r")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a variable was initialised")

    monkeypatch.setattr(keras.initializers.GlorotUniform, "__call__", refuse)
    loaded = lamina.load_model(tmp_path / "r")
    assert_same(model, loaded)
    monkeypatch.undo()
    assert values(network())[0].any()  # initializers work again


def test_training_goes_on_with_the_same_bits(tmp_path: Path, keras_never: None) -> None:
    model = network()
    lamina.save(model, tmp_path / "r")
    loaded = lamina.load_model(tmp_path / "r")
    x = np.random.default_rng(1).normal(size=(8, 6)).astype("float32")
    for each in (model, loaded):
        keras.utils.set_random_seed(9)
        each.fit(x, x[:, :2], verbose=0, shuffle=False)
    weights = zip(model.get_weights(), loaded.get_weights(), strict=True)
    assert all(a.shape == b.shape and np.isfinite(b).all() for a, b in weights)


def test_arguments_of_keras(tmp_path: Path, keras_never: None) -> None:
    model = network()
    lamina.save(model, tmp_path / "r")
    loaded = lamina.load_model(tmp_path / "r", compile=False)
    assert getattr(loaded, "optimizer", None) is None
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(AssertionError, match="asked"):
        lamina.load_model(tmp_path / "r", options=None)


def test_a_lambda_is_refused_as_keras_refuses_it(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((2,)), layers.Lambda(lambda x: x + 1), layers.Dense(1)])
    lamina.save(model, tmp_path / "r")
    with pytest.raises(ValueError, match="safe_mode|unsafe"):
        lamina.load_model(tmp_path / "r")


def test_layers_that_load_in_their_own_way_are_left_to_keras(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((2,)), Noise(), layers.Dense(1)])
    lamina.save(model, tmp_path / "r")
    assert_same(model, lamina.load_model(tmp_path / "r"))


def test_what_no_file_holds_begins_as_ever(tmp_path: Path) -> None:
    with skip_init.skip_random_init() as blanks:
        loaded = keras.Variable(keras.initializers.RandomNormal(seed=1), shape=(2, 2))
        hidden = keras.Variable(keras.initializers.RandomNormal(seed=1), shape=(2, 2))
        counted = keras.Variable(keras.initializers.Ones(), shape=(2,))
    with blanks.loading():
        loaded.assign(np.zeros((2, 2)))
    np.testing.assert_array_equal(loaded, np.zeros((2, 2)))
    np.testing.assert_array_equal(hidden, keras.initializers.RandomNormal(seed=1)((2, 2)))
    np.testing.assert_array_equal(counted, np.ones(2))


def test_other_threads_make_variables_as_ever() -> None:
    made: list[Any] = []
    with skip_init.skip_random_init():
        thread = threading.Thread(
            target=lambda: made.append(keras.Variable(keras.initializers.RandomNormal(seed=1), shape=(2, 2)))
        )
        thread.start()
        thread.join()
    np.testing.assert_array_equal(made[0], keras.initializers.RandomNormal(seed=1)((2, 2)))


def test_a_model_of_another_form_is_left_to_keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    lamina.save(model, tmp_path / "r")
    loaded: list[str] = []
    stored, load = load_model.stored_tensors, keras.models.load_model

    def without_one(opened: Any) -> Any:
        return dict(list(stored(opened).items())[1:])

    def noted(path: Path, **arguments: Any) -> Any:
        loaded.append(path.name)
        return load(path, **arguments)

    monkeypatch.setattr(load_model, "stored_tensors", without_one)
    monkeypatch.setattr(keras.models, "load_model", noted)
    assert_same(model, lamina.load_model(tmp_path / "r"))
    assert loaded == ["model.keras"]
