"""Names of variables in a snapshot: what they cost, and what somebody else may have written there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lamina
from lamina.errors import CorruptDataError
from lamina.repository.repository import open_or_create
from lamina.repository.snapshot import Snapshot
from lamina.writing import body
from places import ROOT
from travel_writer import restored, sample


def named(path: Path, variables: Any) -> Path:
    """An artifact whose three tensors have these names."""
    made = sample()
    made.structure["files"][0]["variables"] = variables
    return made.write_artifact(path)


def test_names_of_variables_are_shown(tmp_path: Path) -> None:
    artifact = named(tmp_path / "a", ["encoder/kernel", None, "optimizer/iteration"])
    found = lamina.read_tensors(artifact)
    assert list(found) == ["encoder/kernel", "dense/1", "optimizer/iteration"]
    assert found["dense/0"] is found["encoder/kernel"]


def test_a_reader_that_knows_no_names_gives_the_same_files(tmp_path: Path) -> None:
    folders = [named(tmp_path / "with", ["a/kernel", None, None]), sample().write_artifact(tmp_path / "without")]
    exported = [restored_by_script(folder) for folder in folders]
    assert exported[0] == exported[1] == sample().files


def restored_by_script(folder: Path) -> dict[str, bytes]:
    script = ROOT / "python" / "lamina" / "wandb" / "travel" / "restore.py"
    subprocess.run([sys.executable, str(script), ".", "--output", "out"], cwd=folder, check=True, capture_output=True)
    return restored(folder / "out")


@pytest.mark.parametrize(
    "variables", [["a"], ["a", "b", "c", "d"], [1, 2, 3], "abc", {"dense/0": "a"}, [["a"], None, None]]
)
def test_names_that_are_none_are_damage(variables: Any, tmp_path: Path) -> None:
    with pytest.raises(CorruptDataError, match="the structure is damaged"):
        lamina.read_tensors(named(tmp_path / "a", variables))


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        (["a", "a", "b"], ["dense/0", "dense/1", "b"]),  # equal twice
        (["dense/1", "dense/0", None], ["dense/0", "dense/1", "dense/2"]),  # another tensor's path
        (["dense/0", "", None], ["dense/0", "dense/1", "dense/2"]),
    ],
)
def test_a_name_leads_to_one_tensor(variables: Any, shown: list[str], tmp_path: Path) -> None:
    found = lamina.read_tensors(named(tmp_path / "a", variables))
    assert list(found) == shown
    for path, tensor in sample().tensors.items():
        if not path.startswith(":"):
            np.testing.assert_array_equal(found[path].view(tensor.dtype), tensor)


def test_odd_letters_do_nothing_to_a_terminal(tmp_path: Path) -> None:
    artifact = named(tmp_path / "a", ["\x1b[2Jx\n", "\u202etxet", "<script>"])
    shown = subprocess.run(
        [sys.executable, "-m", "lamina", "show", str(artifact), "--tensors"], capture_output=True, text=True, check=True
    ).stdout
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert r"\x1b[2Jx\n" in shown


def test_ten_thousand_names_cost_nothing_in_an_unchanged_save(tmp_path: Path) -> None:
    repository = open_or_create(tmp_path / "repo")
    count = 10_000
    arrays = [np.full(4, i % 251, np.uint8) for i in range(count)]
    tensors = [(f"layers/dense_{i}/vars/0", "|u1", (4,), "weights", 4 * i) for i in range(count)]
    names: list[str | None] = [f"encoder/block_{i}/attention/kernel" for i in range(count)]

    def save(variables: list[list[str | None]]) -> Snapshot:
        fields = body({"series": "s", "kind": "weights"})
        file = ("m.weights.h5", 4 * count, tensors)
        none = np.empty(0, np.uint8)
        core = repository._core.save_memory(fields, [file], [], [arrays, []], [none], "auto", 0, variables)
        return Snapshot(core, repository=repository)

    first, second, bare = save([names]), save([names]), save([])
    assert list(first.tensors) == names
    assert first._body["optional"] == ["variables"]
    assert bare._body["optional"] == []
    assert second.bytes_new == 0
    assert second.bytes_stored < 5_000
    assert first.bytes_stored - bare.bytes_stored < 300_000
