"""A template, which is made without the weights, gives the file that Keras writes."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
from keras import layers

from lamina.files.h5 import plan_file, plan_source
from lamina.files.plan import FilePlan
from lamina.keras import private
from lamina.keras.capture import walk as walk_module
from lamina.keras.capture.template import FallbackToKeras, Template, enumerate_variables, make_template, walk
from zoo import SKIP, ZOO, batch

pytestmark = [pytest.mark.keras, pytest.mark.backend, pytest.mark.filterwarnings("ignore")]

KINDS = [pytest.param(kind, marks=pytest.mark.skip(SKIP[kind])) if kind in SKIP else kind for kind in ZOO]


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> keras.Model:
    return ZOO[request.param]()


def saved(model: keras.Model, file: Path) -> Path:
    """Save with Keras, or skip if Keras cannot."""
    try:
        model.save_weights(file) if file.name.endswith(".weights.h5") else model.save(file)
    except Exception as error:
        pytest.skip(f"Keras cannot save it: {type(error).__name__}")
    return file


def embedded(file: Path) -> bytes:
    with zipfile.ZipFile(file) as archive:
        return archive.read("model.weights.h5")


def fill(template: Template) -> bytes:
    data, at = bytearray(template.plan.size), 0
    for offset, length in template.plan.literal_runs():
        data[offset : offset + length] = template.literals[at : at + length]
        at += length
    assert at == len(template.literals)
    for tensor, value in zip(template.plan.tensors, template.values, strict=True):
        array = keras.ops.convert_to_numpy(value)
        assert array.nbytes == tensor.nbytes
        data[tensor.offset : tensor.offset + tensor.nbytes] = array.tobytes()
    return bytes(data)


def in_file(file: Path, data: bytes, base: int, plan: FilePlan) -> None:
    """Each dataset that h5py finds is a tensor of the plan, with the same bytes."""
    expected: dict[str, tuple[tuple[int, ...], bytes]] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            expected[name] = (item.shape, item[()].tobytes())

    with h5py.File(file) as h5:
        h5.visititems(visit)
    found = {t.name: (t.shape, data[base + t.offset : base + t.offset + t.nbytes]) for t in plan.tensors}
    assert found == expected
    assert expected


def test_plans_of_weights_files_hold_every_dataset(model: keras.Model, tmp_path: Path) -> None:
    file = saved(model, tmp_path / "m.weights.h5")
    in_file(file, file.read_bytes(), 0, plan_file(file, file.name))


def test_plans_of_legacy_files_hold_every_dataset(model: keras.Model, tmp_path: Path) -> None:
    file = saved(model, tmp_path / "m.h5")
    in_file(file, file.read_bytes(), 0, plan_file(file, file.name))


def test_plans_of_keras_files_hold_every_dataset(model: keras.Model, tmp_path: Path) -> None:
    file = saved(model, tmp_path / "m.keras")
    (tmp_path / "inner.h5").write_bytes(embedded(file))
    in_file(tmp_path / "inner.h5", file.read_bytes(), 0, plan_file(file, file.name))


def test_the_template_makes_the_weights_file(model: keras.Model, tmp_path: Path) -> None:
    expected = saved(model, tmp_path / "m.weights.h5")
    template = make_template(model, embedded=False)
    assert template.plan.tensors == plan_file(expected, "model.weights.h5").tensors
    assert fill(template) == expected.read_bytes()


def test_the_template_makes_the_embedded_file(model: keras.Model, tmp_path: Path) -> None:
    expected = saved(model, tmp_path / "m.keras")
    assert fill(make_template(model, embedded=True)) == embedded(expected)


def test_enumeration_names_what_the_template_holds(model: keras.Model) -> None:
    template = make_template(model, embedded=False)
    entries = enumerate_variables(model)
    assert {(name, dtype, shape) for name, _, dtype, shape in entries} == {
        (t.name, t.dtype, t.shape) for t in template.plan.tensors
    }
    assert len(entries) == len(template.plan.tensors)
    assert walk(model).structure == template.structure
    hash(template.structure)


@pytest.mark.parametrize("kind", ["adam", "two_optimizers"])
def test_optimizers_give_their_variables_and_no_copies(kind: str) -> None:
    for name, value, _, _ in enumerate_variables(ZOO[kind]()):
        assert isinstance(value, keras.Variable), name


@pytest.mark.parametrize("kind", ["lora_adam", "bfloat16_adam", "batchnorm_dropout"])
def test_a_walk_copies_no_weight(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ZOO[kind]()

    def convert(value: Any) -> None:
        raise AssertionError(f"{value} was converted")

    monkeypatch.setattr(keras.ops, "convert_to_numpy", convert)
    assert enumerate_variables(model)


def test_a_sharded_checkpoint_is_planned_with_all_its_shards(tmp_path: Path) -> None:
    model = ZOO["large"]()
    model.save_weights(tmp_path / "m.weights.json", max_shard_size=0.00124)
    found = plan_source(tmp_path / "m.weights.json")
    assert len(found) > 2
    for file, plan in found[1:]:
        in_file(file, file.read_bytes(), 0, plan)


def test_a_template_serves_other_weights_of_the_same_structure(tmp_path: Path) -> None:
    model = ZOO["adam"]()
    before = make_template(model, embedded=False)
    model.train_on_batch(*batch(model))
    after = walk(model)
    assert after.structure == before.structure
    values = {entry.name: entry.value for entry in after.entries}
    moved = Template(before.plan, [values[t.name] for t in before.plan.tensors], before.literals, before.structure)
    assert fill(moved) == saved(model, tmp_path / "m.weights.h5").read_bytes()


def _grow(model: keras.Model) -> None:
    model.layers[1].enable_lora(2)


def _compile(model: keras.Model) -> None:
    model.compile("adam", "mse")


def _rename(model: keras.Model) -> None:
    model.layers[0].name = "renamed"


def _freeze(model: keras.Model) -> None:
    model.layers[0].trainable = False


def _quantize(model: keras.Model) -> None:
    model.quantize("int8")


@pytest.mark.parametrize("change", [_compile, _rename, _quantize])
def test_the_structure_tells_models_apart(change: Callable[[keras.Model], None]) -> None:
    model = ZOO["sequential"]()
    before = walk(model).structure
    change(model)
    assert walk(model).structure != before


@pytest.mark.parametrize("change", [_grow, _freeze])
def test_changes_that_keras_does_not_save_keep_the_structure(change: Callable[[keras.Model], None]) -> None:
    """LoRA is merged into the kernel, and frozen weights keep their place."""
    model = ZOO["sequential"]()
    before = walk(model).structure
    change(model)
    assert walk(model).structure == before


# What a template cannot describe.


class Own(layers.Layer):
    """A layer with the test's save_own_variables."""

    def __init__(self, save: Callable[[Any], object]) -> None:
        super().__init__()
        self.save = save

    def call(self, x: Any) -> Any:
        return x

    def save_own_variables(self, store: Any) -> None:
        store["0"] = np.ones(3, "f4")
        self.save(store)


def own(save: Callable[[Any], object]) -> keras.Model:
    return keras.Sequential([keras.Input((3,)), layers.Dense(2), Own(save)])


def swallowing(access: Callable[[Any], object]) -> Callable[[Any], object]:
    def save(store: Any) -> None:
        with contextlib.suppress(Exception):
            access(store)

    return save


ODD: dict[str, Callable[[Any], object]] = {
    "reads": lambda store: store["0"],
    "asks": lambda store: "0" in store,
    "counts": lambda store: len(store),
    "lists": lambda store: list(store.keys()),
    "iterates": lambda store: list(store),
    "deletes": lambda store: store.__delitem__("0"),
    "attributes": lambda store: store._h5_entry_group.attrs.create("a", 1),
    "compresses": lambda store: store._h5_entry_group.create_dataset("z", data=np.ones(99), compression="gzip"),
    "writes": lambda store: store.h5_file.create_dataset("z", data=1),
    "gets": lambda store: store.get(""),
    "closes": lambda store: store.close(),
}


@pytest.mark.parametrize("wrap", [lambda access: access, swallowing])
@pytest.mark.parametrize("access", ODD)
def test_a_layer_that_does_more_than_set_items_is_refused(access: str, wrap: Any) -> None:
    model = own(wrap(ODD[access]))
    for attempt in (
        lambda: make_template(model, embedded=False),
        lambda: make_template(model, embedded=True),
        lambda: walk(model),
    ):
        with pytest.raises(FallbackToKeras, match="save_own_variables"):
            attempt()


def _failure(action: Callable[[], object]) -> tuple[type, str]:
    with pytest.raises(Exception) as caught:  # noqa: PT011 (compared with Keras's own below)
        action()
    return caught.type, str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        np.array(["text"]),
        "text",
        np.array([None]),
        np.array([1, 2], "M8[s]"),
        np.ones(2, ml_dtypes.float8_e5m2),
    ],
    ids=["strings", "text", "objects", "times", "float8_e5m2"],
)
def test_what_keras_cannot_save_fails_as_in_keras(value: Any, tmp_path: Path) -> None:
    model = own(lambda store: store.__setitem__("1", value))
    try:
        model.save_weights(tmp_path / "m.weights.h5")
    except Exception as error:
        expected = type(error), str(error)
    else:
        pytest.skip("this h5py can save it")
    assert _failure(lambda: make_template(model, embedded=False)) == expected


def test_a_key_that_is_set_twice_fails_as_in_keras(tmp_path: Path) -> None:
    model = own(lambda store: store.__setitem__("0", 1.0))
    kind, _ = _failure(lambda: model.save_weights(tmp_path / "m.weights.h5"))
    assert issubclass(_failure(lambda: make_template(model, embedded=False))[0], kind)


def test_errors_of_a_layer_reach_the_caller() -> None:
    def fail(store: Any) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        make_template(own(fail), embedded=True)


def test_an_unbuilt_model_is_left_to_keras() -> None:
    with pytest.raises(FallbackToKeras, match="built"):
        make_template(keras.Sequential([layers.Dense(2)]), embedded=False)


def test_keras_is_left_as_it_was() -> None:
    from keras.src.optimizers.base_optimizer import BaseOptimizer

    before = BaseOptimizer.save_own_variables, private.saving_lib.get_attr_skipset
    walk(ZOO["compiled_only"]())
    with pytest.raises(FallbackToKeras):
        walk(own(ODD["reads"]))
    assert (BaseOptimizer.save_own_variables, private.saving_lib.get_attr_skipset) == before


def test_weights_are_neither_written_nor_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The template of a 400 MB layer takes almost no memory."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = own(lambda store: store.__setitem__("big", np.broadcast_to(np.float32(1), (10_000, 10_000))))
    written: list[int] = []
    plan = walk_module.h5.plan_file

    def measured(file: Path, path: str) -> FilePlan:
        written.append(file.stat().st_blocks * 512)
        return plan(file, path)

    monkeypatch.setattr(walk_module.h5, "plan_file", measured)
    template = make_template(model, embedded=False)
    assert template.plan.size > 400_000_000
    assert written[0] < 1_000_000
    assert len(template.literals) < 100_000
    assert list(tmp_path.iterdir()) == []
