"""An address such as s3://bucket/run is refused or understood by every path argument; as a path it would make a folder
``s3:``. What reads from a bucket is in `READS` and `READ_VERBS`; tests/remote lets all of them read from one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

import lamina
from lamina.errors import InvalidInputError
from lamina.files import h5
from lamina.keras import ModelCheckpoint
from lamina.wandb import log_checkpoint, open_artifact, pull, push

AWAY = ["s3://bucket/run", "gs://bucket/run", "az://bucket/run", "file:///tmp/run", Path("s3://bucket/run")]

Away = str | Path
CALLS: dict[str, Callable[[Away, keras.Model], object]] = {
    "save": lambda away, model: lamina.save(model, away),
    "save from": lambda away, model: lamina.save(away, "new"),
    "export": lambda away, model: lamina.export("repo", away),
    "Checkpointer": lambda away, model: lamina.Checkpointer(model, away),
    "ModelCheckpoint": lambda away, model: ModelCheckpoint("m.keras", repository=away),
    "log_checkpoint": lambda away, model: log_checkpoint(away, run=_Run()),
    "log_checkpoint to": lambda away, model: log_checkpoint("m.weights.h5", run=_Run(), repository=away),
    "push": lambda away, model: push(away),
    "open_artifact": lambda away, model: open_artifact(_Logged(), repository=away),
    "pull": lambda away, model: pull(_Logged(), away),
    "push to a bucket": lambda away, model: lamina.push(away, "file:///tmp/never"),
}
READS: dict[str, Callable[[Away, keras.Model], object]] = {
    "restore": lambda away, model: lamina.restore(away, model),
    "load_model": lambda away, model: lamina.load_model(away),
    "export from": lambda away, model: lamina.export(away, "out"),
    "read_tensors": lambda away, model: lamina.read_tensors(away),
    "open": lambda away, model: lamina.open(away),
    "repair": lambda away, model: lamina.open("repo").repair(away),
    "pull": lambda away, model: lamina.pull(away, "pulled"),  # type: ignore[arg-type]
}
VERBS = [
    ["save", "m.weights.h5", "{}"],
    ["save", "{}", "new"],
    ["export", "repo", "{}"],
    ["restore", "repo@latest", "{}"],
    ["verify", "{}", "--repair"],
    ["prune", "{}", "--yes"],
    ["report", "repo", "-o", "{}/r.html"],
    ["bench", "{}"],
    ["bench", "--folder", "{}"],
    ["doctor", "{}"],
    ["push", "{}"],
    ["push", "{}", "file:///tmp/never"],
    ["pull", "file:///tmp", "{}"],
]
READ_VERBS = [
    ["ls", "{}"],
    ["show", "{}"],
    ["diff", "repo", "{}"],
    ["verify", "{}"],
    ["verify", "repo", "--repair", "--from", "{}"],
    ["stats", "{}"],
    ["report", "{}"],
    ["export", "{}", "exported"],
    ["pull", "{}", "pulled"],
]


class _Run:
    """An active run that is not used before the path is checked."""

    id, disabled = "a", False


class _Logged:
    name = "a:v0"

    def wait(self) -> _Logged:
        return self

    def files(self) -> list[object]:
        return []

    @property
    def manifest(self) -> object:
        entry = type("Entry", (), {"ref": None, "size": 0, "digest": "", "extra": {}})()
        return type("Manifest", (), {"entries": {"lamina.json": entry, "lamina.placement": entry}})()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path / "cache"))
    h5.write_vectors(Path("m.weights.h5"), [np.ones(10, np.float32)])
    lamina.save("m.weights.h5", "repo")
    return _tree()


def _tree() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.parts[0] != "cache")


@pytest.mark.parametrize("away", AWAY, ids=repr)
def test_every_path_argument_refuses_it(away: str | Path, here: list[str]) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    for name, call in CALLS.items():
        with pytest.raises(InvalidInputError) as caught:
            call(away, model)
        assert os.fspath(away) in str(caught.value), name
    assert _tree() == here


@pytest.mark.parametrize("away", ["hdfs://bucket/run", Path("s3://bucket/run")], ids=repr)
def test_what_reads_refuses_what_is_no_bucket(away: str | Path, here: list[str]) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    for name, call in READS.items():
        with pytest.raises(InvalidInputError) as caught:
            call(away, model)
        assert os.fspath(away) in str(caught.value), name
    assert _tree() == here


@pytest.mark.parametrize(
    ("verbs", "away"), [(VERBS, "s3://bucket/run"), (READ_VERBS, "hdfs://bucket/run")], ids=["written", "read"]
)
def test_every_verb_refuses_it(verbs: list[list[str]], away: str, here: list[str]) -> None:
    code = (
        "import json, sys\n"
        "from lamina.cli import app\n"
        "codes = []\n"
        f"for verb in json.loads({json.dumps(json.dumps(verbs))}):\n"
        "    try:\n"
        f"        app([part.replace('{{}}', {away!r}) for part in verb], standalone_mode=True)\n"
        "    except SystemExit as end:\n"
        "        codes.append(end.code)\n"
        "print(json.dumps(codes))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = [line for line in done.stderr.splitlines() if line.strip()]
    assert json.loads(done.stdout.splitlines()[-1]) == [InvalidInputError.exit_code] * len(verbs), done.stderr
    assert len(told) == len(verbs)
    assert all(f"Received: {away!r}"[:-1] in line for line in told), told
    assert _tree() == here


def test_names_with_a_colon_stay_paths(here: list[str]) -> None:
    lamina.save("m.weights.h5", "./s3:/run")
    assert [snapshot.number for snapshot in lamina.open("./s3:/run").snapshots()] == [1]
    assert lamina.open(Path("s3:").absolute() / "run").verify().snapshots == 1
