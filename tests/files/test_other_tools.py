"""Exports for other tools, read back by these: names, types and every bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file

import lamina
from engine_repositories import File, Saved, Tensor, save_memory
from lamina.repository.repository import open_or_create
from travel_writer import sample

ARRAYS = {
    "bool": np.array([True, False, True]),
    "uint8": np.arange(250, dtype="u1"),
    "int64": np.arange(-3, 3, dtype="<i8").reshape(2, 3),
    "big": np.arange(5, dtype=">i4"),
    "half": np.linspace(-1, 1, 7, dtype="<f2"),
    "brain": np.linspace(-3, 3, 11).astype(ml_dtypes.bfloat16),
    "float": np.random.default_rng(0).normal(size=(3, 5)).astype("<f4"),
    "double": np.array(1.5),
    "none": np.empty((0, 4), "<f4"),
    "large": np.random.default_rng(1).normal(size=3 << 20).astype("<f4"),  # several blocks
}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    names = {name: "bfloat16" if array.dtype.name == "bfloat16" else array.dtype.str for name, array in ARRAYS.items()}
    parts = tuple((b"x", Tensor(f"layers/{name}/vars/0", names[name], array)) for name, array in ARRAYS.items())
    save_memory(open_or_create(tmp_path / "repo"), Saved([File("m.weights.h5", parts)]))
    return tmp_path / "repo"


def export(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lamina", "export", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_safetensors_reads_what_was_saved(repo: Path, tmp_path: Path) -> None:
    done = export(repo, tmp_path / "m.safetensors", "--as", "safetensors")
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "m.safetensors")
    assert set(found) == {f"layers/{name}/vars/0" for name in ARRAYS}
    for name, array in ARRAYS.items():
        own = found[f"layers/{name}/vars/0"]
        assert own.dtype == array.dtype.newbyteorder("<"), name
        np.testing.assert_array_equal(own, array, err_msg=name)


def test_a_tensor_of_safetensors_begins_where_its_elements_may(repo: Path, tmp_path: Path) -> None:
    export(repo, tmp_path, "--as", "safetensors", "--json")
    data = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    for name, array in ARRAYS.items():
        assert header[f"layers/{name}/vars/0"]["data_offsets"][0] % array.itemsize == 0


def test_numpy_reads_an_npz(repo: Path, tmp_path: Path) -> None:
    done = export(repo, tmp_path / "out", "--as", "npz", "--json")
    (file,) = json.loads(done.stdout)["files"]
    assert file["path"] == str(tmp_path / "out" / "model.npz")
    with np.load(file["path"], allow_pickle=False) as found:
        assert set(found) == {f"layers/{name}/vars/0" for name in ARRAYS}
        for name, array in ARRAYS.items():
            own = found[f"layers/{name}/vars/0"]
            assert own.dtype == (np.float32 if name == "brain" else array.dtype)
            np.testing.assert_array_equal(own, array.astype(own.dtype), err_msg=name)


def test_own_names_are_those_of_the_variables(tmp_path: Path) -> None:
    made = sample()
    made.structure["files"][0]["variables"] = ["encoder/kernel", "optimizer/encoder/kernel/momentum", None]
    made.write_artifact(tmp_path / "a")
    assert export(tmp_path / "a", tmp_path / "m.safetensors", "--as", "safetensors").returncode == 0
    with safetensors.safe_open(tmp_path / "m.safetensors", "np") as file:
        assert set(file.keys()) == {"encoder/kernel", "optimizer/encoder/kernel/momentum", "dense/2"}


def test_what_exists_is_not_replaced_unasked(repo: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.npz"
    target.write_text("mine")
    refused = export(repo, target, "--as", "npz")
    assert (refused.returncode, target.read_text()) == (2, "mine")
    assert "pass --force" in refused.stderr
    assert export(repo, target, "--as", "npz", "--force").returncode == 0
    assert len(np.load(target)) == len(ARRAYS)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("npz", "../../out", "cannot be called '../../out'"),
        ("npz", "/etc/out", "cannot be called '/etc/out'"),
        ("safetensors", "__metadata__", "keeps the name __metadata__ for itself"),
    ],
)
def test_a_name_of_somebody_else_s_does_no_harm(kind: str, name: str, said: str, tmp_path: Path) -> None:
    made = sample()
    made.structure["files"][0]["variables"] = [name, None, None]
    made.write_artifact(tmp_path / "a")
    done = export(tmp_path / "a", tmp_path / "out" / f"m.{kind}", "--as", kind)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_a_format_lacks_is_said(tmp_path: Path) -> None:
    array = np.zeros(3, "<c16")
    parts = ((b"", Tensor("layers/c/vars/0", "<c16", array)),)
    save_memory(open_or_create(tmp_path / "repo"), Saved([File("m.weights.h5", parts)]))
    done = export(tmp_path / "repo", tmp_path / "m.safetensors", "--as", "safetensors")
    assert done.returncode == 5
    assert "no dtype for the tensor 'layers/c/vars/0', which is <c16" in done.stderr
    file = tmp_path / "notes.txt"
    file.write_text("no tensors")
    lamina.save(file, tmp_path / "notes")
    done = export(tmp_path / "notes", tmp_path / "m.npz", "--as", "npz")
    assert (done.returncode, "the source holds no tensors, only notes.txt" in done.stderr) == (2, True)
