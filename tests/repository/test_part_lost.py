"""A repository with a missing part is a damaged repository for every call, and never a directory of files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lamina
from lamina.errors import CorruptDataError, LaminaError, NotFoundError
from lamina.files import h5
from lamina.report import gather, history
from lamina.sources import resolve

LOST = {"packs": CorruptDataError, "snapshots": CorruptDataError, "config.json": NotFoundError}


@pytest.fixture(params=LOST)
def lost(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, type[LaminaError]]:
    file, repo = tmp_path / "m.weights.h5", tmp_path / "repo"
    h5.write_vectors(file, [np.arange(300_000, dtype=np.float32)])
    lamina.save(file, repo)
    part = repo / str(request.param)
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    return repo, LOST[request.param]


def test_python_says_so(lost: tuple[Path, type[LaminaError]], tmp_path: Path) -> None:
    repo, error = lost
    with pytest.raises(error):
        lamina.read_tensors(repo)
    with pytest.raises(error):
        lamina.export(repo, tmp_path / "out")
    with pytest.raises(error):
        resolve(repo).content.tensors  # noqa: B018
    with pytest.raises(error):
        lamina.open(repo).stats()
    with pytest.raises(error):
        gather(history(repo))
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("verb", [["export", "out"], ["show"], ["verify"], ["stats"], ["report"]])
def test_the_command_says_so(lost: tuple[Path, type[LaminaError]], verb: list[str], tmp_path: Path) -> None:
    repo, error = lost
    command = [sys.executable, "-m", "lamina", verb[0], str(repo), *verb[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == error.exit_code, done.stdout + done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.weights.h5", "repo"]


def test_one_changed_element_is_told_alike(tmp_path: Path) -> None:
    """``changed_bytes`` of `Repository.diff` and ``lamina diff`` means the same: bytes of the differing elements."""
    file, repo = tmp_path / "m.weights.h5", tmp_path / "repo"
    values, small = np.arange(300_000, dtype=np.float32), np.arange(10, dtype=np.float32)
    for step in range(2):
        values[123_456], small[3] = step, -step
        file.unlink(missing_ok=True)
        h5.write_vectors(file, [values, small, np.ones(300_000, np.float32)])
        lamina.save(file, repo)
    told = {d.name: (d.status, d.changed_bytes) for d in lamina.open(repo).diff(1, 2)}
    command = [sys.executable, "-m", "lamina", "diff", "--all", "--json", f"{repo}@1", f"{repo}@2"]
    printed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["tensors"]
    assert told == {t["name"]: (t["status"], t["changed_bytes"]) for t in printed}
    assert sorted(told.values()) == [("changed", 4), ("changed", 4), ("same", 0)]
