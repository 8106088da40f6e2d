"""Tensors are called what the user called them: in the API, in diffs, in errors and in the command's output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import lamina
from lamina import report
from lamina.errors import InvalidInputError, NotFoundError
from lamina.keras import ModelCheckpoint

pytestmark = [pytest.mark.fit, pytest.mark.keras, pytest.mark.backend, pytest.mark.filterwarnings("ignore")]

X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
SLOTS = [f"optimizer/{layer}/{part}/{slot}" for layer, part, slot in [
    ("encoder", "kernel", "momentum"), ("encoder", "kernel", "velocity"), ("encoder", "bias", "momentum"),
    ("encoder", "bias", "velocity"), ("head", "kernel", "momentum"), ("head", "kernel", "velocity"),
    ("head", "bias", "momentum"), ("head", "bias", "velocity"),
]]  # fmt: skip
WEIGHTS = ["encoder/kernel", "encoder/bias", "head/kernel", "head/bias"]


def network(width: int = 3, inputs: int = 4) -> keras.Model:
    given = keras.Input((inputs,))
    model = keras.Model(given, layers.Dense(1, name="head")(layers.Dense(width, name="encoder")(given)))
    model.compile("adam", "mse")
    return model


def trained(model: keras.Model, folder: Path, name: str = "m.keras", **arguments: Any) -> lamina.Snapshot:
    checkpoint = ModelCheckpoint(str(folder / name), monitor="loss", repository=folder / "repo", **arguments)
    model.fit(X, X[:, :1], batch_size=8, epochs=2, verbose=0, callbacks=[checkpoint])
    assert checkpoint.last_snapshot is not None
    return checkpoint.last_snapshot


def held(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable))


@pytest.mark.parametrize(("name", "whole"), [("m.keras", True), ("m.weights.h5", False)], ids=["keras", "weights"])
def test_a_snapshot_knows_what_the_user_called_its_tensors(name: str, whole: bool, tmp_path: Path) -> None:
    model = network()
    snapshot = trained(model, tmp_path, name, save_weights_only=not whole)
    steps = ["optimizer/iteration", "optimizer/learning_rate"]
    assert set(snapshot.tensors) == {*WEIGHTS, *SLOTS, *steps}
    found = lamina.read_tensors(snapshot)
    assert set(found) == set(snapshot.tensors)
    for variable in model.variables:
        np.testing.assert_array_equal(found[variable.path], held(variable))
    slots = {v.name: v for v in model.optimizer.variables}
    for slot in SLOTS:
        own = slots[slot.removeprefix("optimizer/").replace("/", "_")]
        np.testing.assert_array_equal(found[slot], held(own), err_msg=slot)


def test_paths_in_the_file_and_beginnings_are_understood_too(tmp_path: Path) -> None:
    snapshot = trained(network(), tmp_path)
    kernel = lamina.read_tensors(snapshot, "encoder/kernel")["encoder/kernel"]
    path = snapshot.tensors["encoder/kernel"].name
    assert path == "layers/dense/vars/0"
    assert snapshot.tensors[path] == snapshot.tensors["encoder/kernel"]
    np.testing.assert_array_equal(lamina.read_tensors(snapshot, [path])[path], kernel)
    np.testing.assert_array_equal(lamina.read_tensors(snapshot)[path], kernel)
    assert list(lamina.read_tensors(snapshot, ["encoder"])) == WEIGHTS[:2]
    assert list(lamina.read_tensors(snapshot, "optimizer/encoder/kernel")) == SLOTS[:2]
    assert list(lamina.read_tensors(snapshot, "layers/dense")) == ["layers/dense/vars/0", "layers/dense/vars/1"]
    with pytest.raises(NotFoundError, match="no tensor 'decoder'; there are 14: 'encoder/kernel'"):
        lamina.read_tensors(snapshot, ["decoder"])
    with pytest.raises(KeyError):
        lamina.read_tensors(snapshot, "head")[path]


def test_what_is_saved_outside_fit_is_named_as_well(tmp_path: Path) -> None:
    model = network()
    model.fit(X, X[:, :1], epochs=1, verbose=0)
    saved = lamina.save(model, tmp_path / "repo")
    assert {*WEIGHTS, *SLOTS} < set(saved.tensors)
    with lamina.Checkpointer(model, tmp_path / "loop", weights_only=True) as checkpointer:
        checkpointer.save(epoch=0)
    assert {*WEIGHTS, *SLOTS} < set(lamina.open(tmp_path / "loop").snapshot().tensors)


def test_a_plain_file_has_its_paths_and_pairs_with_a_snapshot(tmp_path: Path) -> None:
    snapshot = trained(network(), tmp_path)
    file = tmp_path / "m.keras"
    assert list(lamina.read_tensors(file))[:2] == ["layers/dense/vars/0", "layers/dense/vars/1"]
    bare = lamina.save(file, tmp_path / "repo", series="bare")
    assert set(bare.tensors) == set(lamina.read_tensors(file))
    for pair in [(bare, snapshot), (snapshot, bare)]:
        found = lamina.open(tmp_path / "repo").diff(*pair)
        assert {one.status for one in found} == {"same"}
        assert {*WEIGHTS, *SLOTS} < {one.name for one in found}


def test_names_that_are_there_twice_give_way_to_the_paths(tmp_path: Path) -> None:
    class Twins(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="twins")
            self.a, self.b, self.c = layers.Dense(4, name="d"), layers.Dense(4, name="d"), layers.Dense(1, name="c")

        def call(self, inputs: Any) -> Any:
            return self.c(self.b(self.a(inputs)))

    model = Twins()
    model.compile("adam", "mse")
    snapshot = trained(model, tmp_path, "m.weights.h5", save_weights_only=True)
    assert {"a/vars/0", "b/vars/0", "twins/c/kernel", "optimizer/twins/c/kernel/momentum"} < set(snapshot.tensors)
    assert not [name for name in snapshot.tensors if "/d/" in name]
    np.testing.assert_array_equal(lamina.read_tensors(snapshot)["b/vars/0"], held(model.b.kernel))


def test_slots_of_variables_that_keras_calls_alike_stand_with_their_own(tmp_path: Path) -> None:
    given = keras.Input((4,))
    inner = keras.Sequential([layers.Dense(4, name="b")], name="a")
    model = keras.Model(given, layers.Dense(4, name="a_b")(inner(given)))
    model.compile("adam", "mse")
    assert {"a/b/kernel", "a_b/kernel"} <= {variable.path for variable in model.variables}
    snapshot = trained(model, tmp_path)
    found = lamina.read_tensors(snapshot)
    momenta = [v for v in model.optimizer.variables if v.name == "a_b_kernel_momentum"]
    assert len(momenta) == 2
    order = [v.path for v in model.trainable_variables if v.path.endswith("kernel")]
    for path, momentum in zip(order, momenta, strict=True):
        np.testing.assert_array_equal(found[f"optimizer/{path}/momentum"], held(momentum))


def test_a_model_that_is_built_again_has_its_new_names(tmp_path: Path) -> None:
    def unnamed() -> keras.Model:
        given = keras.Input((4,))
        model = keras.Model(given, layers.Dense(1)(layers.Dense(3)(given)))
        model.compile("adam", "mse")
        return model

    checkpoint = ModelCheckpoint(str(tmp_path / "m.keras"), monitor="loss", repository=tmp_path / "repo")
    models = [unnamed(), unnamed()]
    for model in models:
        model.fit(X, X[:, :1], epochs=1, verbose=0, callbacks=[checkpoint])
    repository = lamina.open(tmp_path / "repo")
    for model, snapshot in zip(models, repository.snapshots(), strict=True):
        assert {variable.path for variable in model.variables} < set(snapshot.tensors)
    changes = repository.diff(1, 2)  # by the place in the model, whatever Keras has numbered
    assert {change.status for change in changes} <= {"same", "changed"}
    assert {variable.path for variable in models[1].variables} < {change.name for change in changes}
    found = report.gather(report.history(tmp_path / "repo"))
    assert len(found.tensors) == len(repository.snapshot().tensors) + len(repository.snapshot()._opened().training)


def test_a_report_calls_layers_by_their_own_names(tmp_path: Path) -> None:
    trained(network(), tmp_path)
    found = report.gather(report.history(tmp_path / "repo"))
    assert {"encoder/kernel", "optimizer/head/bias/velocity"} < {tensor.name for tensor in found.tensors}
    assert {"encoder", "head", "optimizer"} < {layer.name for layer in found.layers}
    assert {tensor.layer for tensor in found.tensors if tensor.role == "weights"} == {"encoder", "head"}


def test_an_error_of_a_restore_names_the_variable(tmp_path: Path) -> None:
    snapshot = trained(network(), tmp_path)
    with pytest.raises(InvalidInputError, match=r"different shape: encoder/kernel is \(4, 3\), the model's \(4, 5\)"):
        lamina.restore(snapshot, network(5))
    with pytest.raises(InvalidInputError, match=r"unexpected in the snapshot: head/kernel \(3, 1\)"):
        lamina.restore(snapshot, keras.Sequential([keras.Input((4,)), layers.Dense(3, name="encoder")]))


def test_the_command_shows_and_takes_both(tmp_path: Path) -> None:
    trained(network(), tmp_path)

    def command(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "lamina", *arguments], capture_output=True, text=True, cwd=tmp_path, check=True
        )
        return done.stdout

    assert "encoder/kernel" in command("show", "repo", "--tensors")
    assert "vars" not in command("show", "repo", "--tensors")
    for name in ("encoder/kernel", "layers/dense/vars/0"):
        lines = command("show", "repo", name).splitlines()
        assert [line.split() for line in lines[1:]] == [[name, "<f4", "4x3", "48", "B", "weights"]]
    assert [line.split()[0] for line in command("show", "repo", "head").splitlines()[1:]] == WEIGHTS[2:]
    names = [line.split()[0] for line in command("diff", "repo@epoch_0", "repo").splitlines()]
    assert {*WEIGHTS, *SLOTS} < set(names)


def test_the_name_of_the_model_may_be_left_out(tmp_path: Path) -> None:
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="encoder"), layers.Dense(1, name="head")], name="net"
    )
    model.compile("adam", "mse")
    snapshot = trained(model, tmp_path)
    assert "net/encoder/kernel" in set(snapshot.tensors)
    found = lamina.read_tensors(snapshot, ["encoder/kernel", "optimizer/head/bias/velocity"])
    assert list(found) == ["encoder/kernel", "optimizer/head/bias/velocity"]
    np.testing.assert_array_equal(found["encoder/kernel"], held(model.layers[0].kernel))
    assert list(lamina.read_tensors(snapshot, "head")) == ["head/kernel", "head/bias"]
    everything = lamina.read_tensors(snapshot)
    assert everything["head/bias"] is everything["net/head/bias"] is everything["layers/dense_1/vars/1"]
    with pytest.raises(NotFoundError, match="no tensor 'kernel'"):  # of which layer?
        lamina.read_tensors(snapshot, "kernel")
    with pytest.raises(KeyError):
        everything["net"]
