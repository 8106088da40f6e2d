"""Files written during training equal those of stock Keras at the same step."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import lamina
from lamina.files.plan import FilePlan, TensorPlan
from lamina.keras import ModelCheckpoint
from lamina.keras.capture import arena, planner
from lamina.keras.capture.archive_plan import Members, archive_plan
from lamina.keras.capture.arena import ArenaPool
from lamina.keras.capture.planner import Planner
from lamina.keras.capture.training_state import TrainingTensors
from lamina.keras.capture.walk import FallbackToKeras
from stock_pairs import assert_same_file, assert_same_folders, pair
from zoo import SKIP, ZOO

pytestmark = [pytest.mark.fit, pytest.mark.keras, pytest.mark.backend, pytest.mark.filterwarnings("ignore")]

KINDS = [pytest.param(kind, marks=pytest.mark.skip(SKIP[kind])) if kind in SKIP else kind for kind in ZOO]
X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")


def network(width: int = 40) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(width, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Dense(6),
        ]
    )


def compiled(model: keras.Model, **arguments: Any) -> keras.Model:
    model.compile(keras.optimizers.AdamW(0.01, use_ema=True, ema_overwrite_frequency=4), "mse", **arguments)
    return model


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_each_file_is_that_of_its_step(suffix: str, jit: bool, tmp_path: Path) -> None:
    if jit and keras.backend.backend() == "torch":
        pytest.skip("torch.compile takes a minute, and updates in place as without it")
    model = compiled(network(), jit_compile=jit)
    ours, stock = pair(tmp_path, suffix, repository=tmp_path / "repo")
    model.fit(X, X, batch_size=8, epochs=3, callbacks=[ours, stock], verbose=0)
    assert_same_folders(tmp_path, 8)
    repository = lamina.open(tmp_path / "repo")
    assert len(repository.snapshots()) == 8
    assert not repository.verify(full=True).problems
    for snapshot in repository.snapshots():
        (file,) = lamina.export(snapshot, tmp_path / "exported" / str(snapshot.number))
        assert file.read_bytes() == (tmp_path / "ours" / file.name).read_bytes()


def test_steps_run_eagerly(tmp_path: Path) -> None:
    model = compiled(network(), run_eagerly=True)
    ours, stock = pair(tmp_path, ".weights.h5", save_freq=1)
    model.fit(X, X, batch_size=16, epochs=1, callbacks=[ours, stock], verbose=0)
    assert_same_folders(tmp_path, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model(kind: str, tmp_path: Path) -> None:
    model = ZOO[kind]()
    try:
        model.save(tmp_path / "probe.keras")
    except Exception as error:
        pytest.skip(f"Keras cannot save it: {type(error).__name__}")
    for suffix in (".weights.h5", ".keras"):
        ours, stock = pair(tmp_path, suffix, save_freq="epoch")
        for epoch in range(3):
            for callback in (ours, stock):
                callback.set_model(model)
                if epoch == 0:
                    callback.on_train_begin()
                callback.on_epoch_begin(epoch)
                callback.on_epoch_end(epoch, {"loss": 1.0, "val_loss": 1.0})
            shift(model)
        ours.on_train_end()
    assert_same_folders(tmp_path, 6)


def shift(model: keras.Model) -> None:
    """Change each float variable, as a step does."""
    optimizer = getattr(model, "optimizer", None)
    for variable in [*model.variables, *([] if optimizer is None else optimizer.variables)]:
        if "float" in variable.dtype and "float8" not in variable.dtype:
            variable.assign(variable + 1)


def saves_by_hand(callback: ModelCheckpoint, model: keras.Model, epoch: int) -> None:
    callback.set_model(model)
    callback.on_epoch_begin(epoch)
    callback.on_epoch_end(epoch, {"loss": 1.0, "val_loss": 1.0})


def test_another_model_of_the_same_form_is_not_taken_for_the_first(tmp_path: Path) -> None:
    ours, stock = pair(tmp_path, ".weights.h5", save_freq="epoch")
    for epoch in range(3):
        keras.backend.clear_session()  # so that names repeat
        keras.utils.set_random_seed(epoch)
        model = network()
        saves_by_hand(ours, model, epoch)
        saves_by_hand(stock, model, epoch)
    ours.wait()
    assert_same_folders(tmp_path, 3)


def test_a_layer_that_is_renamed_or_added_gives_another_file(tmp_path: Path) -> None:
    ours, stock = pair(tmp_path, ".weights.h5", save_freq="epoch")
    model = network()
    for epoch in range(3):
        saves_by_hand(ours, model, epoch)
        saves_by_hand(stock, model, epoch)
        if epoch == 0:
            model.layers[0].name = "renamed"
        else:
            model.add(layers.Dense(3))
    ours.wait()
    assert_same_folders(tmp_path, 3)


def test_lora_merges_at_each_save(tmp_path: Path) -> None:
    model = network()
    model.layers[0].enable_lora(2)
    compiled(model)
    ours, stock = pair(tmp_path, ".weights.h5", repository=tmp_path / "repo")
    model.fit(X, X, batch_size=8, epochs=2, callbacks=[ours, stock], verbose=0)
    assert_same_folders(tmp_path, 5)


@keras.saving.register_keras_serializable("test_capture")
class Logbook(layers.Layer):
    """Saves in a way that no plan describes."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(), initializer="ones")
        self.built = True

    def call(self, x: Any) -> Any:
        return x * self.scale

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        assert store["0"].shape == ()

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)


def test_what_cannot_be_planned_is_saved_by_keras_with_one_notice(tmp_path: Path) -> None:
    model = compiled(keras.Sequential([keras.Input((6,)), Logbook(), layers.Dense(6)]))
    ours, stock = pair(tmp_path, ".weights.h5", repository=tmp_path / "repo")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, X, batch_size=8, epochs=3, callbacks=[ours, stock], verbose=0)
    assert_same_folders(tmp_path, 8)
    assert sum("blocks training" in str(w.message) for w in caught) == 1
    assert not lamina.open(tmp_path / "repo").verify(full=True).problems


def test_legacy_files_are_saved_by_keras(tmp_path: Path) -> None:
    model = compiled(network())
    ours, stock = pair(tmp_path, ".h5", save_freq="epoch", repository=tmp_path / "repo")
    model.fit(X, X, epochs=2, callbacks=[ours, stock], verbose=0)
    assert_same_folders(tmp_path, 2)
    (file,) = lamina.export(ours.last_snapshot, tmp_path / "exported")
    assert file.read_bytes() == (tmp_path / "ours" / "2.h5").read_bytes()


def test_assets_are_in_the_archive(tmp_path: Path) -> None:
    vectors = layers.TextVectorization(output_mode="tf_idf", max_tokens=12) if _has_text() else None
    if vectors is None:
        pytest.skip("TextVectorization needs TensorFlow")
    vectors.adapt(["a b c a", "b d"])
    inputs = keras.Input((1,), dtype="string")
    model = keras.Model(inputs, layers.Dense(2)(vectors(inputs)))
    ours, stock = pair(tmp_path, ".keras", save_freq="epoch")
    for epoch in range(2):
        saves_by_hand(ours, model, epoch)
        saves_by_hand(stock, model, epoch)
    ours.wait()
    assert_same_folders(tmp_path, 2)
    with zipfile.ZipFile(tmp_path / "ours" / "1.keras") as archive:
        assert any("assets" in name for name in archive.namelist())


def _has_text() -> bool:
    return keras.backend.backend() == "tensorflow"


def test_a_file_that_does_not_read_back_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    ours, stock = pair(tmp_path, ".weights.h5", save_freq="epoch")
    make = planner.make_template

    def damaged(model: keras.Model, *, embedded: bool) -> Any:
        template = make(model, embedded=embedded)
        return replace(template, literals=bytes(8) + template.literals[8:])  # without HDF5's signature

    monkeypatch.setattr(planner, "make_template", damaged)
    saves_by_hand(ours, model, 0)
    with pytest.warns(RuntimeWarning, match="does not read back"):
        ours.wait()
    saves_by_hand(ours, model, 1)
    saves_by_hand(stock, model, 1)
    ours.wait()
    assert_same_file(tmp_path / "ours" / "2.weights.h5", tmp_path / "stock" / "2.weights.h5")


def test_a_capture_stays_as_it_was_while_training_goes_on(tmp_path: Path) -> None:
    model = network(300)  # on JAX, Keras 3.15 cannot fit a second time with averaged weights
    model.compile("adam", "mse")
    model.fit(X, X, batch_size=16, epochs=1, verbose=0)
    plans = Planner()

    def written(captured: Any, name: str) -> dict[str, np.ndarray]:
        captured.copy_to(tmp_path / f"{name}.weights.h5")
        return lamina.read_tensors(tmp_path / f"{name}.weights.h5")

    held = plans.capture(model, "m.weights.h5", TrainingTensors(), weights_only=True, threads=0)
    before = written(held, "before")
    model.fit(X, X, batch_size=16, epochs=2, verbose=0)
    still = written(held, "still")
    assert all(np.array_equal(value, still[name]) for name, value in before.items())
    later = written(plans.capture(model, "m.weights.h5", TrainingTensors(), weights_only=True, threads=0), "later")
    assert sum(not np.array_equal(value, later[name]) for name, value in before.items()) > len(before) / 2


def test_a_plan_is_learnt_once_and_its_walk_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    model = compiled(network())
    model.fit(X, X, epochs=1, verbose=0)
    calls: list[str] = []
    make, walk = planner.make_template, planner.walk
    monkeypatch.setattr(planner, "make_template", lambda *a, **k: calls.append("make_template") or make(*a, **k))
    monkeypatch.setattr(planner, "walk", lambda *a: calls.append("walk") or walk(*a))
    plans = Planner()
    for _ in range(3):
        plans.capture(model, "m.weights.h5", TrainingTensors(), weights_only=True, threads=0).release()
    assert calls == ["make_template"]


def test_the_memory_of_captures_is_used_again() -> None:
    arenas = ArenaPool()
    first = arenas.take([100, 0, 5])
    assert [len(buffer) for buffer in first.buffers] == [100, 0, 5]
    arenas.release(first)
    assert arenas.take([100, 0, 5]) is first
    assert arenas.take([100, 0, 5]) is not first
    arenas.release(first)
    freed = weakref.ref(first)
    del first
    arenas.take([7])
    assert freed() is None


def test_the_memory_of_the_first_save_comes_while_training_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Private names: which thread prefaults pages can be seen nowhere else.
    monkeypatch.setattr(arena, "_WORTH_A_THREAD", 1)
    touched: list[str] = []
    touch = arena._prefaulted

    def noting(nbytes: int) -> Any:
        touched.append(threading.current_thread().name)
        return touch(nbytes)

    monkeypatch.setattr(arena, "_prefaulted", noting)
    model = compiled(network(300))
    ours, stock = pair(tmp_path, ".weights.h5", save_freq="epoch", repository=tmp_path / "repo")
    model.fit(X, X, epochs=3, callbacks=[ours, stock], verbose=0)
    assert_same_folders(tmp_path, 3)
    # TensorFlow's tensors are not copied. For others, only copies that queue are prefaulted in the training thread.
    held = keras.backend.backend() == "tensorflow"
    assert touched[:1] == ([] if held else ["lamina-memory"])
    assert touched.count("lamina-memory") == (0 if held else 1)


@pytest.mark.parametrize("prepared", [None, 0, 100, 10_000, 1 << 60])
def test_prepared_memory_is_used_where_it_suits(prepared: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "_WORTH_A_THREAD", 1)
    monkeypatch.setattr(arena, "_MORE", 0)
    arenas = ArenaPool()
    if prepared is not None:
        arenas.prepare(prepared)  # 1 << 60 cannot be allocated, so the capture allocates again
    taken = arenas.take([100, 1000, 5000])
    assert [len(buffer) for buffer in taken.buffers] == [100, 1000, 5000]
    for number, buffer in enumerate(taken.buffers):
        buffer[:] = number
    assert [set(buffer) for buffer in taken.buffers] == [{0}, {1}, {2}]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:os.fork")
def test_a_forked_child_waits_for_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "_WORTH_A_THREAD", 1)
    goes_on = threading.Event()
    touch = arena._prefaulted

    def slowly(nbytes: int) -> Any:
        if threading.current_thread().name == "lamina-memory":
            assert goes_on.wait(30)
        return touch(nbytes)

    monkeypatch.setattr(arena, "_prefaulted", slowly)
    arenas = ArenaPool()
    arenas.prepare(5000)
    child = os.fork()
    if child == 0:
        os._exit(0 if arenas.take([5000]).nbytes == 5056 else 1)
    _, status = os.waitpid(child, 0)
    goes_on.set()
    assert status == 0
    assert arenas.take([5000]).nbytes == 5056


def test_an_unbuilt_model_is_left_to_keras() -> None:
    model = keras.Sequential([layers.Dense(2)])
    with pytest.raises(FallbackToKeras, match="built"):
        Planner().capture(model, "m.weights.h5", TrainingTensors(), weights_only=True, threads=0)


def test_an_archive_over_two_gib_has_zip64_fields_where_zipfile_has_them() -> None:
    size = (1 << 31) + 5
    weights = FilePlan("w", size, (TensorPlan("a", "|u1", (size - 8,), "weights", 8, size - 8),))
    plan, literals = archive_plan("m.keras", weights, b"12345678", 7, Members(b"{}", b"{}", None))
    start = plan.tensors[0].offset - 8
    at = literals.index(b"model.weights.h5")
    extra_length = int.from_bytes(literals[at - 2 : at], "little")
    assert extra_length == 20
    assert plan.size == size + len(literals) - 8
    assert start == at + len(b"model.weights.h5") + extra_length
