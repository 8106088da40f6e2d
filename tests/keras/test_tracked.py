"""The state of tracked callbacks is restored exactly, and a snapshot can change nothing else in them."""

from __future__ import annotations

import collections
import itertools
import json
import math
import os
import random
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lamina
from lamina import _core
from lamina.keras import ModelCheckpoint
from lamina.keras.capture.packing import Malformed, NotSerializable, has_outside_path, pack, unpack
from lamina.writing import body

pytestmark = pytest.mark.backend

X = np.ones((8, 3), "float32")


def train(folder: Path, epochs: int, *track: Any, before: bool = True) -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    checkpoint = ModelCheckpoint(
        folder / "t.weights.h5", "loss", save_weights_only=True, repository=folder / "t", resume=True, track=track
    )
    callbacks = [*track, checkpoint] if before else [checkpoint, *track]
    model.fit(X, X[:, :1], epochs=epochs, verbose=0, callbacks=callbacks)
    return model


def change_state(folder: Path, change: Any) -> None:
    """Change the training field of the newest snapshot, as an attacker could."""
    path = max((folder / "t" / "snapshots").glob("*.json"))
    content = json.loads(_core.unseal("snapshot", path.read_bytes(), "x"))
    change(content["training"])
    path.chmod(0o644)
    path.write_bytes(_core.seal("snapshot", json.dumps(content)))


class Log(keras.callbacks.Callback):
    """Has the attributes that users' callbacks have."""

    def __init__(self, step: int = 0) -> None:
        super().__init__()
        self.step = step
        self.by_epoch: dict[int, float] = {}
        self.recent: collections.deque[int] = collections.deque(maxlen=3)
        self.values: collections.defaultdict[str, list[int]] = collections.defaultdict(lambda: [0])
        self.seen: set[int] = set()
        self.counts: collections.Counter[str] = collections.Counter()
        self.mixed: dict[Any, Any] = {}
        self.rng = np.random.default_rng(1)
        self.dice = random.Random(2)
        self.sums = np.zeros(2)
        self.number: Any = None
        self.draws: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.step += 1
        self.by_epoch[epoch] = logs["loss"]
        self.recent.append(epoch)
        self.values[f"epoch {epoch}"].append(1)
        self.seen.add(epoch)
        self.counts["epochs"] += 1
        self.mixed |= {1: "one", "1": 2**100, (1, None): -(2**64), None: math.nan}
        self.sums += epoch
        self.number = np.float32(epoch)
        self.draws = [*self.draws, self.rng.random(), self.dice.random()]
        self.late = 1.5


@pytest.mark.parametrize("before", [True, False])
def test_attributes_come_back_in_their_own_type(before: bool, tmp_path: Path) -> None:
    straight = Log()
    train(tmp_path / "whole", 4, straight, before=before)
    train(tmp_path, 2, Log(), before=before)
    log = Log()
    held = log.by_epoch, log.values, log.sums
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(tmp_path, 4, log, before=before)
    assert log.step == 4
    assert sorted(log.by_epoch) == [0, 1, 2, 3]
    assert (log.recent, log.recent.maxlen) == (collections.deque([1, 2, 3]), 3)
    assert type(log.values) is collections.defaultdict
    assert log.values == {f"epoch {i}": [0, 1] for i in range(4)}
    assert (log.seen, log.counts) == ({0, 1, 2, 3}, collections.Counter(epochs=4))
    assert {key: log.mixed[key] for key in (1, "1", (1, None))} == {1: "one", "1": 2**100, (1, None): -(2**64)}
    assert math.isnan(log.mixed[None])
    assert log.draws == straight.draws
    assert log.sums.tolist() == [6, 6]
    assert type(log.number) is np.float32
    assert log.by_epoch is held[0]
    assert log.values is held[1]
    assert log.sums is held[2]


def test_an_argument_that_training_leaves_alone_is_the_new_ones(tmp_path: Path) -> None:
    class Patient(keras.callbacks.Callback):
        def __init__(self, patience: int, weights: Any) -> None:
            super().__init__()
            self.patience, self.weights, self.waited = patience, weights, 0

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.waited += 1

    train(tmp_path, 1, Patient(3, np.ones(3)))
    callback = Patient(5, np.zeros(3))
    train(tmp_path, 2, callback)
    assert (callback.patience, callback.waited, callback.weights.tolist()) == (5, 2, [0, 0, 0])


def test_what_cannot_travel_is_told_once_by_name(tmp_path: Path) -> None:
    class Holder(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.odd, self.fine, self.function = object(), 1, print
            self.text = "\ud800"
            self.deep: list[Any] = []
            self.deep.append(self.deep)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(tmp_path, 3, Holder())
    told = [str(one.message) for one in caught if "Holder" in str(one.message)]
    assert len(told) == 1
    assert all(f"{name}: " in told[0] for name in ("odd", "text", "deep"))
    assert "function" not in told[0]
    assert "fine" not in told[0]


# Values.


def json_round(value: Any) -> Any:
    arrays: dict[str, Any] = {}
    text = body({"training": pack(value, arrays.__setitem__, "x")})
    return unpack(json.loads(text)["training"], arrays)


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**62).map(lambda n: n * -(2**80)),
    st.floats(),
    st.binary(max_size=4),
    st.text(st.characters(exclude_characters="/\\~.", exclude_categories=["Cs"]), max_size=8),
    st.complex_numbers(allow_nan=False),
)
KEYS = st.one_of(st.integers(), st.booleans(), st.none(), st.text("ab1", max_size=3), st.tuples(st.integers()))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(KEYS, inner, max_size=3),
        st.frozensets(KEYS, max_size=3),
        st.sets(KEYS, max_size=3),
        st.lists(inner, max_size=3).map(lambda items: collections.deque(items, 5)),
        st.dictionaries(KEYS, inner, max_size=3).map(collections.OrderedDict),
        st.dictionaries(KEYS, inner, max_size=3).map(lambda items: collections.defaultdict(list, items)),
        st.dictionaries(KEYS, st.integers(), max_size=3).map(collections.Counter),
    ),
    max_leaves=8,
)


@given(VALUES)
def test_each_value_comes_back_equal_and_of_its_type(value: Any) -> None:
    try:
        again = json_round(value)
    except NotSerializable:
        return
    assert _form(again) == _form(value)


def _form(value: Any) -> Any:
    """Types and values, where NaN is equal to itself and the order of a set does not count."""
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(map(repr, value))
    if isinstance(value, dict):
        return type(value), [(repr(key), _form(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple, collections.deque)):
        return type(value), getattr(value, "maxlen", None), [_form(item) for item in value]
    return type(value), repr(value)


@pytest.mark.parametrize("name", ["bool", "int8", "uint64", "float16", "float32", "float64"])
def test_scalars_of_numpy_keep_their_dtype(name: str) -> None:
    value = np.dtype(name).type(1)
    assert (json_round(value), type(json_round(value))) == (value, type(value))


@pytest.mark.parametrize(
    "value",
    [
        np.longdouble(1),
        np.complex64(1),
        np.timedelta64(1, "s"),
        np.array(["a"]),
        np.array([object()]),
        {1: {2: object}},
    ],
)
def test_values_that_would_come_back_otherwise_are_refused(value: Any) -> None:
    with pytest.raises(NotSerializable):
        json_round(value)


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"list": [], "tuple": []},
        {"list": 5},
        {"dict": [[1]]},
        {"dict": [[{"list": []}, 1]]},
        {"integer": "x"},
        {"integer": 5},
        {"float": "1e5"},
        {"scalar": ["object", 1]},
        {"scalar": ["int8", 1000]},
        {"scalar": ["float32", "x"]},
        {"deque": [-1, []]},
        {"defaultdict": ["eval", []]},
        {"Counter": {}},
        {"bytes": "?"},
        {"tensor": "callbacks/0/none"},
        {"tensor": ["x"]},
        {"complex": [1]},
        {"object": 5},
        {"unknown": 1},
        {"Generator": {"unknown": 1}},
        {"list": ["/etc/passwd"]},
    ],
)
def test_what_no_save_has_written_is_malformed(value: Any) -> None:
    with pytest.raises(Malformed):
        unpack(value, {})


# Paths.


@pytest.mark.parametrize(
    "text",
    [
        "/", "/home/a", "~/a", "~root/a", r"C:\a", "c:/a", r"\\server\share", "file:///a", "a/../b", "..", r"..\a",
        "wrote /home/a", "a=/b", "('/a')", "/a:/b", "x:/home",
    ],
)  # fmt: skip
def test_paths_are_known(text: str) -> None:
    assert has_outside_path(text) or text == "/"


@pytest.mark.parametrize(
    "text", ["", "val/loss", "out/a.txt", "1/2", "a / b", "https://a.b/c", "s3://bucket/x", "12:30", "a~b", "x...y"]
)
def test_other_texts_are_not_taken_for_paths(text: str) -> None:
    assert not has_outside_path(text)


class Writer(keras.callbacks.Callback):
    """Keeps the paths that it has written to."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.place = os.path.join(folder, "log.txt")
        self.written: list[str] = []
        self.last = ""
        self.by_name: dict[str, int] = {}
        self.count = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.count += 1
        self.last = f"wrote {self.place}"
        self.written.append(self.place)
        self.by_name[self.place] = epoch


@pytest.mark.filterwarnings("ignore")
def test_no_absolute_path_gets_into_a_snapshot(tmp_path: Path) -> None:
    here = str(tmp_path / "here")
    train(tmp_path, 2, keras.callbacks.BackupAndRestore(here, delete_checkpoint=False), Writer(here))
    for path in (tmp_path / "t").rglob("*.json"):
        assert str(tmp_path).encode() not in path.read_bytes()
    there = str(tmp_path / "there")
    backup, writer = keras.callbacks.BackupAndRestore(there), Writer(there)
    before = {name: value for name, value in vars(backup).items() if isinstance(value, str)}
    train(tmp_path, 3, backup, writer)
    assert {name: vars(backup)[name] for name in before} == before
    assert (writer.count, writer.written) == (3, [os.path.join(there, "log.txt")])


def test_a_relative_path_of_the_new_callback_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train(tmp_path, 1, keras.callbacks.BackupAndRestore("first", delete_checkpoint=False))
    backup = keras.callbacks.BackupAndRestore("second", delete_checkpoint=False)
    train(tmp_path, 2, backup)
    assert all("first" not in value for value in vars(backup).values() if isinstance(value, str))
    assert list(tmp_path.glob("second/*"))


# Hostile snapshots.


class Plain(keras.callbacks.Callback):
    """Attributes that an attacker may want to change."""

    kind = "plain"

    def __init__(self) -> None:
        super().__init__()
        self.count, self.names, self.file = 0, ["a"], "log.csv"
        self.helper = os.path.join

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.count += 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_model", None),
        ("params", {"object": {}}),
        ("model", 1),
        ("on_epoch_end", 1),
        ("set_model", None),
        ("helper", "x"),
        ("invented", 1),
        ("__class__", "x"),
        ("__doc__", "x"),
        ("__dict__", {"object": {}}),
        ("names", 5),
        ("count", "x"),
        ("file", "other.csv"),
        ("kind", 5),
    ],
)
def test_a_snapshot_reaches_no_other_attribute(name: str, value: Any, tmp_path: Path) -> None:
    train(tmp_path, 1, Plain())
    change_state(tmp_path, lambda training: training["callbacks"][0]["state"].update({name: value}))
    callback = Plain()
    expected = vars(callback).get(name, getattr(type(callback), name, None))
    with pytest.warns(UserWarning, match=rf"did not restore these attributes of the tracked Plain.*{name}: "):
        model = train(tmp_path, 2, callback)
    if name in ("_model", "params", "model"):
        assert callback.model is model
        assert callback.params["epochs"] == 2
    elif name != "count":
        assert vars(callback).get(name, getattr(type(callback), name, None)) == expected
    assert callback.count == (1 if name == "count" else 2)


@pytest.mark.filterwarnings("ignore")
def test_a_snapshot_names_no_file_for_a_checkpoint(tmp_path: Path) -> None:
    stock = keras.callbacks.ModelCheckpoint(tmp_path / "stock.keras", "loss")
    train(tmp_path, 1, stock)
    for attribute in ("filepath", "monitor", "save_freq"):
        change_state(tmp_path, lambda t, name=attribute: t["callbacks"][0]["state"].update({name: "taken.keras"}))
    again = keras.callbacks.ModelCheckpoint(tmp_path / "stock.keras", "loss")
    train(tmp_path, 2, again)
    assert (str(again.filepath), again.monitor, again.save_freq) == (str(tmp_path / "stock.keras"), "loss", "epoch")
    assert not list(tmp_path.rglob("taken*"))


# A callback before the checkpoint.


def averaged(folder: Path, *, stop: int | None = None, tracked: bool = True) -> dict[int, Any]:
    """Keeps the weights at the begin of each epoch."""
    keras.utils.set_random_seed(1)
    x = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9), "mse")
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    checkpoint = ModelCheckpoint(
        folder / "r.keras", repository=folder, resume=True, track=[swap] if tracked else [], keep_file=False
    )
    seen: dict[int, Any] = {}

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == stop:
                checkpoint.wait()
                raise KeyboardInterrupt
            seen[epoch] = model.get_weights()[0]

    try:
        model.fit(x, x[:, :2], epochs=4, batch_size=8, shuffle=False, verbose=0, callbacks=[swap, checkpoint, Watch()])
    except KeyboardInterrupt:
        assert stop is not None
    return seen


@pytest.mark.filterwarnings("ignore:__array__")
def test_averaged_weights_are_swapped_back_after_a_resume(tmp_path: Path) -> None:
    whole = averaged(tmp_path / "a")
    averaged(tmp_path / "b", stop=2)
    part = averaged(tmp_path / "b")
    assert list(part) == [2, 3]
    for epoch, weights in part.items():
        np.testing.assert_array_equal(weights, whole[epoch])


@pytest.mark.filterwarnings("ignore:__array__")
def test_swapping_without_track_is_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="track=.*SwapEMAWeights"):
        averaged(tmp_path, tracked=False)


def test_each_kind_of_the_table_of_the_format(tmp_path: Path) -> None:
    """A real save of each kind matches the text of the format."""
    values = [1, 2**64, math.inf, (1,), {1: 2}, {1}, frozenset({1}), collections.deque([1]), b"a", 1j, np.float32(1)]

    class Each(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.all: list[Any] = []

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.all = list(values)

    train(tmp_path, 1, Each())
    callback = Each()
    train(tmp_path, 1, callback)
    assert callback.all == values
    assert [type(a) is type(b) for a, b in itertools.zip_longest(callback.all, values)] == [True] * len(values)
    assert lamina.open(tmp_path / "t").snapshots()
