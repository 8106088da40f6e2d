"""Models that train in part, are distributed, have another vocabulary, or are not built: restored, or refused."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import lamina
from lamina.errors import InvalidInputError
from lamina.keras import ModelCheckpoint

pytestmark = pytest.mark.backend

X = np.random.default_rng(0).random((16, 4)).astype("float32")
tensorflow_only = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a train_step for TensorFlow")


# A train_step that trains a part of the model.


class WithAverage(keras.Model):
    """Trains a network and averages it into a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.built = True
        self.net = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
        self.average = keras.models.clone_model(self.net)

    def train_step(self, data: Any) -> dict[str, Any]:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.net(data) - 1.0) ** 2)
        weights = self.net.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}


def fit_part(folder: Path, epochs: int) -> Any:
    keras.utils.set_random_seed(3)
    model = WithAverage()
    model.compile("adam")
    checkpoint = ModelCheckpoint(
        folder / "d.weights.h5", monitor="loss", save_weights_only=True, repository=folder / "d", resume=True
    )
    model.fit(X, epochs=epochs, verbose=0, shuffle=False, callbacks=[checkpoint])
    return model


def state(model: Any) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable) for variable in [*model.weights, *model.optimizer.variables]]


@tensorflow_only
def test_the_optimizer_of_a_part_goes_on(tmp_path: Path) -> None:
    whole = fit_part(tmp_path / "whole", 3)
    fit_part(tmp_path / "part", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        resumed = fit_part(tmp_path / "part", 3)
    assert int(resumed.optimizer.iterations) == 3
    assert len(resumed.optimizer.variables) == 6
    for a, b in zip(state(whole), state(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


@tensorflow_only
def test_a_saved_model_notes_the_part_as_well(tmp_path: Path) -> None:
    model = fit_part(tmp_path, 1)
    lamina.save(model, tmp_path / "r", weights_only=True)
    other = WithAverage()
    other.compile("adam")
    lamina.restore(tmp_path / "r", other, optimizer=True)
    for a, b in zip(state(model), state(other), strict=True):
        np.testing.assert_array_equal(a, b)


@tensorflow_only
def test_where_nothing_notes_the_part_the_optimizer_stays_unbuilt(tmp_path: Path) -> None:
    model = fit_part(tmp_path, 1)
    model.save_weights(tmp_path / "plain.weights.h5")
    other = WithAverage()
    other.compile(keras.optimizers.Adam(0.25))
    with pytest.warns(UserWarning, match=r"model\.optimizer\.build\("):
        lamina.restore(tmp_path / "plain.weights.h5", other)
    assert not other.optimizer.built
    assert float(other.optimizer.learning_rate) == 0.25
    other.optimizer.build(other.net.trainable_variables)  # what the message advises
    lamina.restore(tmp_path / "plain.weights.h5", other, optimizer=True)
    assert int(other.optimizer.iterations) == 1


@tensorflow_only
def test_an_optimizer_that_was_built_for_all_is_told(tmp_path: Path) -> None:
    fit_part(tmp_path, 1)
    other = WithAverage()
    other.compile("adam")
    other.optimizer.build(other.trainable_variables)
    with pytest.warns(UserWarning, match="other variables than the saved one"):
        lamina.restore(tmp_path / "d", other)
    with pytest.raises(InvalidInputError, match=r"model\.optimizer\.build\("):
        lamina.restore(tmp_path / "d", other, optimizer=True)


def dense(units: int = 2, **arguments: Any) -> keras.Model:
    return keras.Sequential([keras.Input((4,)), layers.Dense(8, **arguments), layers.Dense(units)])


def test_a_misfit_leaves_the_model_and_its_optimizer(tmp_path: Path) -> None:
    model = dense()
    model.compile("adam", "mse")
    model.fit(X, X[:, :2], verbose=0)
    lamina.save(model, tmp_path / "r")
    other = dense(3)
    other.compile("adam", "mse")
    with pytest.raises(InvalidInputError, match="does not fit"):
        lamina.restore(tmp_path / "r", other)
    assert not other.optimizer.built


# A strategy.

_MIRRORED = """
import os, sys
import keras, lamina, numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
x = np.ones((8, 3), "float32")
def build():
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(1)])
        model.compile("adam", "mse")
    return model
def values(model):
    return [keras.ops.convert_to_numpy(v) for v in [*model.weights, *model.optimizer.variables]]
model = build()
model.fit(x, x[:, :1], verbose=0)
model.save("k.keras")
lamina.save(model, "r")
for source in ("k.keras", "r"):
    other = build()
    lamina.restore(source, other)
    assert all(np.array_equal(a, b) for a, b in zip(values(model), values(other), strict=True))
    other.fit(x, x[:, :1], verbose=0)
print("the same")
"""


@tensorflow_only
def test_a_distributed_model_is_restored_outside_its_scope(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MIRRORED], cwd=tmp_path, capture_output=True, text=True, env={**os.environ}, timeout=300
    )
    assert "the same" in done.stdout, done.stderr[-2000:]


# A vocabulary.


def speaking(*words: str) -> keras.Model:
    pytest.importorskip("tensorflow")
    lookup = layers.StringLookup(name="words")
    if words:
        lookup.adapt(list(words))
    inputs = keras.Input((1,), dtype="string")
    return keras.Model(inputs, layers.Embedding(4, 2)(lookup(inputs)))


def test_another_vocabulary_is_told(tmp_path: Path) -> None:
    speaking("a", "b").save(tmp_path / "m.keras")
    lamina.save(tmp_path / "m.keras", tmp_path / "r")
    for source in (tmp_path / "m.keras", tmp_path / "r"):
        with pytest.warns(UserWarning, match="another vocabulary.* words"):
            lamina.restore(source, speaking("x", "y"))
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            lamina.restore(source, speaking("a", "b"))


def test_a_layer_without_vocabulary_takes_the_snapshots(tmp_path: Path) -> None:
    saved = speaking("a", "b")
    saved.save(tmp_path / "m.keras")
    model = speaking()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        lamina.restore(tmp_path / "m.keras", model)
    assert model.get_layer("words").get_vocabulary() == saved.get_layer("words").get_vocabulary()


# Values that change in a restore.


def test_rounding_is_told(tmp_path: Path) -> None:
    model = dense()
    lamina.save(model, tmp_path / "r")
    with pytest.warns(UserWarning, match="rounds 2 variables.*float32 to bfloat16.*/kernel"):
        lamina.restore(tmp_path / "r", dense(dtype="bfloat16"))
    lamina.save(dense(dtype="bfloat16"), tmp_path / "half")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        lamina.restore(tmp_path / "half", dense())  # float32 can represent each bfloat16
        lamina.restore(tmp_path / "r", dense())


def test_variables_that_the_model_lacks_are_told(tmp_path: Path) -> None:
    lamina.save(dense(), tmp_path / "r")
    smaller = keras.Sequential([keras.Input((4,)), layers.Dense(8)])
    with pytest.warns(UserWarning, match="skipped 2 variables.*does not have: [^ ]*/dense[^ ]*/kernel, "):
        lamina.restore(tmp_path / "r", smaller, skip_mismatch=True)


# Models without call().


class Pair(keras.Model):
    """Two networks and no call(), as in Keras's examples of distillers and autoencoders."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = dense(), dense()


def test_models_without_call_say_what_works(tmp_path: Path) -> None:
    says = r"8 variables: it has no call\(\).*model\.built = True"
    with pytest.raises(InvalidInputError, match=says):
        lamina.save(Pair(), tmp_path / "r")
    with lamina.Checkpointer(Pair(), tmp_path / "c") as checkpointer, pytest.raises(InvalidInputError, match=says):
        checkpointer.save(epoch=0)
    model = Pair()
    model.built = True
    lamina.save(model, tmp_path / "r", weights_only=True)
    with pytest.raises(InvalidInputError, match=says):
        lamina.restore(tmp_path / "r", Pair())
    other = Pair()
    other.built = True
    lamina.restore(tmp_path / "r", other)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(InvalidInputError, match="no variables yet"):
        lamina.save(keras.Sequential([layers.Dense(1)]), tmp_path / "r")


def test_checkpointer_refuses_what_keras_would(tmp_path: Path) -> None:
    called = WithAverage()
    called.built = False
    with (
        lamina.Checkpointer(called, tmp_path / "r", weights_only=True) as checkpointer,
        pytest.raises(InvalidInputError, match=r"model\.built = True"),
    ):
        checkpointer.save(epoch=0)
