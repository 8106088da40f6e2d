"""Models of each kind: saved, exported as the bytes that Keras wrote, restored into a new model."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import lamina
from lamina.errors import CorruptDataError, InvalidInputError
from lamina.keras import ModelCheckpoint
from lamina.keras.capture.planned_file import PlannedFile
from zoo import SKIP, ZOO

pytestmark = [pytest.mark.fit, pytest.mark.keras, pytest.mark.backend]

KINDS = [pytest.param(k, marks=pytest.mark.skip(reason=SKIP[k])) if k in SKIP else k for k in ZOO]


def values(model: Any) -> list[np.ndarray]:
    optimizer = getattr(model, "optimizer", None)
    variables = list(model.weights) + (list(optimizer.variables) if optimizer else [])
    return [keras.ops.convert_to_numpy(v) for v in variables if "seed_generator" not in v.path]


def same(left: Any, right: Any) -> None:
    pairs = list(zip(values(left), values(right), strict=True))
    assert pairs
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)


def build(units: int = 3, optimizer: Any = "adam", seed: int = 0) -> Any:
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(40, activation="relu"),
            layers.BatchNormalization(),
            layers.Dense(units),
        ]
    )
    if optimizer:
        model.compile(optimizer, "mean_squared_error")
        model.train_on_batch(np.ones((4, 6)), np.ones((4, units)))
    return model


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model(kind: str, tmp_path: Path) -> None:
    model = ZOO[kind]()
    repo = tmp_path / "repo"
    for ending in (".weights.h5", ".keras"):
        path = tmp_path / f"model{ending}"
        model.save(path) if ending == ".keras" else model.save_weights(path)
        lamina.save(path, repo)
        assert lamina.export(repo, tmp_path / "out")[0].read_bytes() == path.read_bytes()
        fresh = ZOO[kind]()
        reference = ZOO[kind]()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reference.load_weights(path)
            lamina.restore(repo, fresh)
        same(fresh, reference)


def test_a_model_goes_in_and_comes_back(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    model = build()
    snapshot = lamina.save(model, repo, metadata={"a": 1})
    assert (snapshot.kind, snapshot.step, snapshot.files) == ("model", 1, ["model.keras"])
    assert lamina.save(model, repo, weights_only=True).files == ["model.weights.h5"]
    for source in (f"{repo}@1", f"{repo}@2"):
        fresh = build(seed=1)
        assert lamina.restore(source, fresh, optimizer=True).id == lamina.open(repo).snapshot(source[-1]).id
        same(fresh, model)
    loaded = lamina.load_model(f"{repo}@1")
    same(loaded, model)
    with pytest.raises(InvalidInputError, match=r"model.weights.h5"):
        lamina.load_model(f"{repo}@2")


def test_an_unbuilt_optimizer_is_built(tmp_path: Path) -> None:
    model = build()
    lamina.save(model, tmp_path / "repo")
    fresh = build(optimizer=None)
    fresh.compile("adam", "mean_squared_error")
    lamina.restore(tmp_path / "repo", fresh, optimizer=True)
    same(fresh, model)


def test_a_model_that_does_not_fit_is_unchanged(tmp_path: Path) -> None:
    lamina.save(build(), tmp_path / "repo")
    other = build(units=5, seed=3)
    before = values(other)
    with pytest.raises(InvalidInputError) as caught:
        lamina.restore(tmp_path / "repo", other)
    assert f"{other.layers[-1].kernel.path} is (40, 3), the model's (40, 5)" in str(caught.value)
    extra = keras.Sequential([keras.Input((6,)), layers.Dense(40), layers.Dense(3, name="head")])
    with pytest.raises(InvalidInputError, match=r"(?s)different shape.*missing|unexpected"):
        lamina.restore(tmp_path / "repo", extra)
    for a, b in zip(before, values(other), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.warns(UserWarning, match="skipped layers whose shapes differ"):
        lamina.restore(tmp_path / "repo", other, skip_mismatch=True, optimizer=False)
    np.testing.assert_array_equal(other.layers[-1].get_weights()[0], before[6])
    source = build()
    np.testing.assert_array_equal(other.layers[0].get_weights()[0], source.layers[0].get_weights()[0])


def test_the_optimizer_is_asked_for(tmp_path: Path) -> None:
    lamina.save(build(), tmp_path / "adam")
    lamina.save(build(optimizer=None), tmp_path / "none")
    sgd = build(optimizer="sgd", seed=1)
    with pytest.warns(UserWarning, match="did not restore the optimizer") as caught:
        lamina.restore(tmp_path / "adam", sgd)
    assert len([w for w in caught if "lamina" in str(w.message)]) == 1
    for source, model in (
        ("adam", build(optimizer="sgd")),
        ("none", build()),
        ("adam", build(optimizer=None)),
    ):
        with pytest.raises(InvalidInputError, match="optimizer"):
            lamina.restore(tmp_path / source, model, optimizer=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        uncompiled = build(optimizer=None, seed=1)
        lamina.restore(tmp_path / "adam", uncompiled)
        kept = build(seed=1)
        before = values(kept)
        lamina.restore(tmp_path / "adam", kept, optimizer=False)
    steps = len(kept.optimizer.variables)
    for a, b in zip(before[-steps:], values(kept)[-steps:], strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(InvalidInputError, match="'auto'"):
        lamina.restore(tmp_path / "adam", kept, optimizer="yes")


def test_damage_does_not_reach_the_model(tmp_path: Path) -> None:
    lamina.save(build(), tmp_path / "repo")
    (pack,) = (tmp_path / "repo" / "packs").iterdir()
    data = bytearray(pack.read_bytes())
    data[40] ^= 1
    pack.write_bytes(data)
    model = build(seed=4)
    before = values(model)
    with pytest.raises(CorruptDataError):
        lamina.restore(tmp_path / "repo", model)
    for a, b in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_legacy_and_sharded_files(tmp_path: Path) -> None:
    model = build()
    model.save(tmp_path / "model.h5")
    lamina.save(tmp_path / "model.h5", tmp_path / "legacy")
    assert lamina.export(tmp_path / "legacy", tmp_path / "out")[0].read_bytes() == (tmp_path / "model.h5").read_bytes()
    fresh = build(seed=1)
    lamina.restore(tmp_path / "legacy", fresh)
    for a, b in zip(fresh.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(lamina.load_model(tmp_path / "legacy").get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    shards = tmp_path / "shards"
    shards.mkdir()
    model.save_weights(shards / "m.weights.json", max_shard_size=1e-6)
    snapshot = lamina.save(shards / "m.weights.json", tmp_path / "sharded")
    assert len(snapshot.files) > 2
    for path in lamina.export(tmp_path / "sharded", tmp_path / "out"):
        assert path.read_bytes() == (shards / path.name).read_bytes()
    fresh = build(seed=1)
    lamina.restore(tmp_path / "sharded", fresh)
    for a, b in zip(fresh.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    if keras.__version__ != "3.10.0":  # Keras itself cannot load an optimizer that it split over several files
        same(fresh, model)


def test_files_are_sources_too(tmp_path: Path) -> None:
    model = build()
    model.save(tmp_path / "m.keras")
    fresh = build(seed=1)
    assert lamina.restore(tmp_path / "m.keras", fresh).number is None
    same(fresh, model)
    same(lamina.load_model(tmp_path / "m.keras"), model)


def test_an_unbuilt_model(tmp_path: Path) -> None:
    lamina.save(build(), tmp_path / "repo")
    for call in (lambda m: lamina.restore(tmp_path / "repo", m), lambda m: lamina.save(m, tmp_path / "repo")):
        with pytest.raises(InvalidInputError, match="build it"):
            call(keras.Sequential([layers.Dense(3)]))


@pytest.mark.parametrize("kind", ["callback", "model", "weights", "file", "plain"])
def test_another_kind_of_optimizer_is_left_alone(kind: str, tmp_path: Path) -> None:
    """AdamW and Adam have the same variables, but their states must not be mixed."""
    model = build(optimizer="adamw")
    source: Any = tmp_path / "repo"
    if kind == "callback":
        with lamina.Checkpointer(model, source, weights_only=True) as checkpointer:
            checkpointer.save(epoch=0)
    elif kind in ("model", "weights"):
        lamina.save(model, source, weights_only=kind == "weights")
    else:
        model.save(tmp_path / "m.keras")
        source = tmp_path / "m.keras" if kind == "plain" else lamina.save(tmp_path / "m.keras", source)
    other = build(optimizer="adam", seed=1)
    before = [keras.ops.convert_to_numpy(v) for v in other.optimizer.variables]
    with pytest.warns(UserWarning, match="the snapshot's optimizer is AdamW, the model's is Adam"):
        lamina.restore(source, other)
    for a, b in zip(before, other.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, keras.ops.convert_to_numpy(b))
    np.testing.assert_array_equal(model.get_weights()[0], other.get_weights()[0])
    with pytest.raises(InvalidInputError, match="the snapshot's optimizer is"):
        lamina.restore(source, other, optimizer=True)
    scaled = build(optimizer=None, seed=2)
    scaled.compile(keras.optimizers.AdamW(), "mse", auto_scale_loss=False)
    lamina.restore(source, scaled, optimizer=True)


def test_a_file_that_tells_no_optimizer(tmp_path: Path) -> None:
    (tmp_path / "m.keras").write_bytes(b"damaged")
    assert lamina.save(tmp_path / "m.keras", tmp_path / "repo").tensors == {}
    build(optimizer=None).save(tmp_path / "plain.keras")
    other = build(optimizer="adam")
    with pytest.warns(UserWarning, match="no optimizer state"):
        lamina.restore(tmp_path / "plain.keras", other)


# Large tensors, whose memory TensorFlow and JAX share.

WIDE = 200  # squared, in float32, well above `lamina.repository.memory.SMALL`


@keras.saving.register_keras_serializable(package="lamina-tests")
class Twice(layers.Layer):  # type: ignore[misc]
    """Two variables that load the same stored tensor."""

    def build(self, input_shape: Any) -> None:
        self.a = self.add_weight(shape=(WIDE, WIDE), name="a")
        self.b = self.add_weight(shape=(WIDE, WIDE), name="b")

    def call(self, x: Any) -> Any:
        return keras.ops.matmul(x, self.a) - 2.0 * keras.ops.matmul(x, self.b)

    def save_own_variables(self, store: Any) -> None:
        store["0"] = self.a.numpy() if hasattr(self.a, "numpy") else keras.ops.convert_to_numpy(self.a)

    def load_own_variables(self, store: Any) -> None:
        stored = store["0"]
        self.a.assign(stored)
        self.b.assign(stored)
        assert stored[:2].shape == (2, WIDE)


def wide(*extra: Any) -> Any:
    model = keras.Sequential([keras.Input((WIDE,)), layers.Dense(WIDE, "tanh"), *extra, layers.Dense(WIDE)])
    model.compile("adam", "mean_squared_error")
    return model


def trained(model: Any, steps: int) -> Any:
    x = np.random.default_rng(1).normal(size=(8, WIDE)).astype("float32")
    for _ in range(steps):
        model.train_on_batch(x, x[::-1])
    return model


@pytest.mark.parametrize("kind", ["weights", "model", "two variables of one tensor"])
def test_training_goes_on_as_after_keras_own_loading(kind: str, tmp_path: Path) -> None:
    extra = [Twice()] if kind.startswith("two") else []
    model = trained(wide(*extra), 2)
    path = tmp_path / ("m.keras" if kind == "model" else "m.weights.h5")
    model.save(path) if kind == "model" else model.save_weights(path)
    lamina.save(path, tmp_path / "repo")
    if kind == "model":
        ours, theirs = lamina.load_model(tmp_path / "repo"), keras.models.load_model(path)
    else:
        ours, theirs = (trained(wide(*([Twice()] if extra else [])), 1) for _ in range(2))
        lamina.restore(tmp_path / "repo", ours, optimizer=True)
        theirs.load_weights(path)
    same(ours, theirs)
    same(trained(ours, 3), trained(theirs, 3))


def test_a_save_before_the_first_step_holds_what_was_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training step does not change shared memory that a pending save still reads."""
    model = trained(wide(), 2)
    lamina.save(model, tmp_path / "repo", weights_only=True)
    restored = trained(wide(), 1)
    lamina.restore(tmp_path / "repo", restored, optimizer=True)
    stepped = threading.Event()
    write = PlannedFile.write
    monkeypatch.setattr(PlannedFile, "write", lambda *given: stepped.wait(60) and write(*given))
    callback = ModelCheckpoint(tmp_path / "m.weights.h5", save_weights_only=True)
    callback.set_model(restored)
    callback.on_epoch_begin(0)
    callback.on_epoch_end(0, {"loss": 1.0})
    trained(restored, 2)
    stepped.set()
    assert callback.wait(60)
    found = trained(wide(), 1)
    found.load_weights(tmp_path / "m.weights.h5")
    same(found, model)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own protocol")
def test_memory_is_given_away_once() -> None:
    import tensorflow as tf

    from lamina.keras.restoring.zero_copy import shareable_array

    array = shareable_array((WIDE, WIDE), np.dtype("float32"))
    array[:] = 1
    view = tf.convert_to_tensor(array[1:])  # copied as usual
    first, second = tf.convert_to_tensor(array), tf.convert_to_tensor(array)
    array[:2, 0] = 7
    assert (float(first[0, 0]), float(second[0, 0]), float(view[0, 0])) == (7, 1, 1)
    other = shareable_array((WIDE, WIDE), np.dtype("float32"))
    assert tf.convert_to_tensor(other, "float64").dtype == tf.float64
    for small_or_odd in (shareable_array((2,), np.dtype("float32")), shareable_array((WIDE, WIDE), np.dtype(">f4"))):
        assert type(small_or_odd) is np.ndarray
