"""Averages of weights: their numbers, their files, what they refuse, and the memory that they take."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
from keras import layers

import lamina
from lamina.errors import InvalidInputError
from lamina.keras import ModelCheckpoint
from peak_memory import PEAK

pytestmark = [pytest.mark.fit, pytest.mark.keras, pytest.mark.backend, pytest.mark.filterwarnings("ignore")]

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")


def network(width: int = 3) -> keras.Model:
    given = keras.Input((4,))
    hidden = layers.Dropout(0.5, seed=1)(
        layers.BatchNormalization(name="norm")(layers.Dense(width, name="encoder")(given))
    )
    model = keras.Model(given, layers.Dense(1, name="head")(hidden))
    model.compile("adam", "mse")
    return model


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Three epochs of a training."""
    checkpoint = ModelCheckpoint(tmp_path / "{epoch}.keras", "loss", repository=tmp_path / "repo")
    network().fit(X, X[:, :1], batch_size=8, epochs=3, verbose=0, callbacks=[checkpoint])
    return tmp_path / "repo"


def expected(sources: list[Any], weights: list[float]) -> dict[str, np.ndarray]:
    read = [lamina.read_tensors(source) for source in sources]
    floats = [name for name, array in read[-1].items() if "optimizer" not in name and array.dtype.kind == "f"]
    sums = {name: sum(one[name].astype("f8") * w for one, w in zip(read, weights, strict=True)) for name in floats}
    return read[-1] | {name: (total / sum(weights)).astype("f4") for name, total in sums.items()}


@pytest.mark.parametrize("weights", [None, [1, 2, 5], [0, 0, 1]])
def test_an_average_is_a_source(repo: Path, weights: Any, tmp_path: Path) -> None:
    sources = [f"{repo}@{number}" for number in (1, 2, 3)]
    wanted = expected(sources, weights or [1, 1, 1])
    averaged = lamina.average(sources, weights)
    found = lamina.read_tensors(averaged)
    assert set(found) == set(wanted)
    assert {"encoder/kernel", "norm/moving_mean", "optimizer/encoder/kernel/momentum"} < set(found)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    model = network()
    lamina.restore(averaged, model)
    for variable in model.trainable_variables:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), wanted[variable.path])
    (path,) = lamina.export(averaged, tmp_path / "out")
    loaded = keras.models.load_model(path)
    np.testing.assert_array_equal(loaded.get_layer("head").get_weights()[0], wanted["head/kernel"])
    assert zipfile.ZipFile(path).testzip() is None
    saved = lamina.save(averaged, repo, series="averages", metadata={"why": "swa"})
    assert saved.metadata["why"] == "swa"
    assert saved.metadata["average_weights"] == [float(w) for w in weights or [1, 1, 1]]
    assert saved.metadata["average_of"] == [lamina.open(repo).snapshot(n).id for n in (1, 2, 3)]
    np.testing.assert_array_equal(lamina.read_tensors(saved)["head/kernel"], wanted["head/kernel"])


def test_the_parts_may_come_from_files_and_snapshots(repo: Path, tmp_path: Path) -> None:
    sources = [tmp_path / "1.keras", f"{repo}@2", lamina.open(repo).snapshot(3)]
    wanted = expected([f"{repo}@{n}" for n in (1, 2, 3)], [1, 1, 1])
    found = lamina.read_tensors(lamina.average(sources))
    np.testing.assert_array_equal(found["encoder/kernel"], wanted["encoder/kernel"])


def test_weights_files_are_averaged_too(tmp_path: Path) -> None:
    models = [network(), network()]
    for number, model in enumerate(models):
        model.save_weights(tmp_path / f"{number}.weights.h5")
    averaged = lamina.average([tmp_path / "0.weights.h5", tmp_path / "1.weights.h5"])
    (path,) = lamina.export(averaged, tmp_path / "out")
    again = network()
    again.load_weights(path)
    for mean, one, other in zip(again.trainable_variables, *(m.trainable_variables for m in models), strict=True):
        numbers = [keras.ops.convert_to_numpy(v).astype("f8") for v in (one, other)]
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(mean), ((numbers[0] + numbers[1]) / 2).astype("f4"))


def write_h5(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """A file as Keras writes it, which marks bfloat16."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            brain = array.dtype.name == "bfloat16"
            dataset = file.create_dataset(f"layers/{name}/vars/0", data=array.view("V2") if brain else array)
            if brain:
                dataset.attrs["dtype"] = "bfloat16"
    return path


def test_what_is_no_float_is_the_last_one_s(tmp_path: Path) -> None:
    kinds = {"int64": np.int64, "uint8": np.uint8, "bool": np.bool_}
    floats = {"half": np.float16, "float": np.float32, "double": np.float64, "brain": ml_dtypes.bfloat16}
    sources = []
    for value in (1, 0, 6):
        arrays = {name: np.full(5, value, dtype) for name, dtype in (kinds | floats).items()}
        sources.append(write_h5(tmp_path / f"{value}.weights.h5", arrays))
    found = lamina.read_tensors(lamina.average(sources, [1, 1, 2]))
    for name, dtype in (kinds | floats).items():
        array = found[f"layers/{name}/vars/0"]
        assert array.dtype == dtype
        assert array.tolist() == np.full(5, (1 + 0 + 12) / 4 if name in floats else 6, dtype).tolist()


def test_what_counts_nothing_is_not_looked_at(tmp_path: Path) -> None:
    values = (np.full(5, np.inf, np.float32), np.full(5, 2, np.float32))
    sources = [write_h5(tmp_path / f"{i}.h5", {"a": array}) for i, array in enumerate(values)]
    found = lamina.read_tensors(lamina.average(sources, [0, 1]))
    assert found["layers/a/vars/0"].tolist() == [2.0] * 5


def test_what_does_not_match_is_named(repo: Path, tmp_path: Path) -> None:
    other = lamina.save(network(5), tmp_path / "other")
    with pytest.raises(
        InvalidInputError, match=r"the tensor encoder/kernel is \(4, 5\) in .*, and \(4, 3\) in snapshot 3"
    ):
        lamina.average([other, f"{repo}@3"])
    given = keras.Input((4,))
    less = lamina.save(keras.Model(given, layers.Dense(3, name="encoder")(given)), tmp_path / "less")
    with pytest.raises(InvalidInputError, match=r"only snapshot 3 of .* has the tensor norm/\w+, .* has not"):
        lamina.average([less, f"{repo}@3"])
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(InvalidInputError, match="holds no weights that can be averaged"):
        lamina.average([f"{repo}@3", tmp_path / "notes.txt"])


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [1, float("nan")], ["a", "b"], "12", 3])
def test_weights_must_be_weights(repo: Path, weights: Any) -> None:
    with pytest.raises(InvalidInputError, match="expected a weight of 0 or more for each of the 2 sources"):
        lamina.average([f"{repo}@1", f"{repo}@2"], weights)


@pytest.mark.parametrize("sources", [[], ["x"], "runs/a@1", 3])
def test_two_sources_are_the_least(sources: Any) -> None:
    with pytest.raises(InvalidInputError, match="expected a list of sources|two sources or more"):
        lamina.average(sources)


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "lamina", *map(str, arguments)], capture_output=True, text=True)


def test_the_command_writes_a_file_or_a_snapshot(repo: Path, tmp_path: Path) -> None:
    parts = [f"{repo}@1", f"{repo}@2"]
    wanted = expected(parts, [1, 3])["head/kernel"]
    out = tmp_path / "out" / "averaged.keras"
    done = command("average", *parts, "-o", out, "--weights", "1,3", "--json")
    assert json.loads(done.stdout)["file"] == {"path": str(out), "bytes": out.stat().st_size}
    assert [path.name for path in out.parent.iterdir()] == ["averaged.keras"]
    np.testing.assert_array_equal(keras.models.load_model(out).get_layer("head").get_weights()[0], wanted)
    refused = command("average", *parts, "-o", out)
    assert (refused.returncode, "pass --force" in refused.stderr) == (2, True)
    refused = command("average", *parts, "-o", tmp_path / "a.weights.h5")
    assert (refused.returncode, "give it that ending" in refused.stderr) == (2, True)
    done = command("average", *parts, "-o", tmp_path / "kept", "--alias", "swa", "--weights", "1,3")
    assert done.stdout.startswith("saved the average as")
    np.testing.assert_array_equal(lamina.read_tensors(f"{tmp_path}/kept@swa", "head")["head/kernel"], wanted)


LARGE = (
    PEAK
    + """
import sys
from pathlib import Path
import lamina
averaged = lamina.average([sys.argv[1] + "@1", sys.argv[1] + "@2"])
import lamina.files.h5
before = peak()
Path(sys.argv[2]).mkdir()
averaged.write(Path(sys.argv[2]))
print(peak() - before)
"""
)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(48 << 20) // 4).astype("<f4")
    for factor in (1, 2):
        lamina.save(write_h5(tmp_path / "m.weights.h5", {"a": array * np.float32(factor)}), tmp_path / "repo")
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(tmp_path / "repo"), str(tmp_path / "out")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) < 40  # MiB; each tensor has 48
