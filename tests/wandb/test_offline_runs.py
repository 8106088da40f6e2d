"""Offline runs that are sent from another directory, after a kill, or from an untrusted source."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb

import lamina.wandb
from lamina import _core
from lamina.errors import CorruptDataError
from lamina.keras import WandbModelCheckpoint
from places import HELPERS, ROOT
from wandb_server import Server
from wandb_training import Follow, Remember, fit, restored, run_python, same_weights, small_model

SYNC = "import sys, subprocess; subprocess.run([sys.executable, '-m', 'wandb', 'sync', sys.argv[1]], check=True)"
#: A training whose process is killed in its third epoch. By then wandb's service has not flushed its log.
KILLED = """
import os, signal, sys, keras, numpy as np, wandb
from lamina.keras import WandbModelCheckpoint
from wandb_training import data, small_model

class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            checkpoint.wait()
            publisher_of(run).drain(None)
            print(run.dir, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

from lamina.wandb.upload.publisher import publisher_of
run = wandb.init(mode="offline", project="p", id="killed")
model = small_model()
checkpoint = WandbModelCheckpoint("m.weights.h5", "loss", save_weights_only=True, layout=sys.argv[1])
model.fit(*data(model), epochs=4, batch_size=8, verbose=0, callbacks=[checkpoint, Kill()])
"""


def offline_run(folder: Path, layout: str) -> tuple[Path, str, Remember]:
    folder.mkdir()
    remember = Remember()
    with wandb.init(mode="offline", dir=str(folder), project="p") as run:
        directory = Path(run.dir).parent
        file = str(folder / "m.weights.h5")
        fit(small_model(), remember, WandbModelCheckpoint(file, "loss", save_weights_only=True, layout=layout))
    import offline_run as log

    log.read(directory)
    return directory, f"run_{run.id}_model", remember


def all_there(server: Server, name: str, remember: Remember) -> bool:
    assert len(server.store.artifacts(f"p/{name}")) == 3
    assert "latest" in server.store.artifact(f"p/{name}:epoch_2").aliases
    return all(same_weights(restored(f"p/{name}:epoch_{n}", small_model), remember.weights[n]) for n in range(3))


@pytest.mark.parametrize("layout", ["packs", "file"])
def test_wandb_sync_sends_every_version_from_any_directory(wandb_online: Server, tmp_path: Path, layout: str) -> None:
    directory, name, remember = offline_run(tmp_path / "train", layout)
    (tmp_path / "elsewhere").mkdir()
    run_python(SYNC, {}, tmp_path / "elsewhere", directory)
    assert all_there(wandb_online, name, remember)
    assert len(lamina.wandb.push(directory)) == 3  # finds them there
    assert len(wandb_online.store.artifacts(f"p/{name}")) == 3


@pytest.mark.parametrize("layout", ["packs", "file"])
def test_the_directory_of_a_run_says_how_it_is_sent(wandb_online: Server, tmp_path: Path, layout: str) -> None:
    directory, name, remember = offline_run(tmp_path / "train", layout)
    text = (directory / "SEND-WITH-LAMINA-PUSH.txt").read_text()
    assert "lamina push" in text
    shutil.move(directory, tmp_path / "moved")
    run_python(SYNC, {}, tmp_path, tmp_path / "moved")
    assert wandb_online.store.collections == []  # wandb names files by their absolute paths
    assert len(lamina.wandb.push(tmp_path / "moved")) == 3
    assert all_there(wandb_online, name, remember)
    assert lamina.wandb.push(tmp_path / "moved") == []


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("layout", ["packs", "file"])
def test_an_offline_run_that_was_killed_is_pushed(wandb_online: Server, tmp_path: Path, layout: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "python"), str(HELPERS)])
    with (tmp_path / "output").open("w+") as output:
        command = [sys.executable, "-c", KILLED, layout]
        status = subprocess.call(command, cwd=tmp_path, env=environment, stdout=output, stderr=subprocess.STDOUT)
        output.seek(0)
        said = output.read()
    assert status == -signal.SIGKILL, said
    directory = Path(said.strip().splitlines()[-1]).parent
    with pytest.warns(UserWarning, match="ends early"):
        assert len(lamina.wandb.push(directory)) == 2
    versions = wandb_online.store.artifacts("p/run_killed_model")
    assert [version.version for version in versions] == ["v0", "v1"]
    assert "latest" in wandb_online.store.artifact("p/run_killed_model:epoch_1").aliases
    restored("p/run_killed_model:epoch_0", small_model)
    assert lamina.wandb.push(directory) == []


def record(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "required": [], "optional": [], "snapshots": [], "packs": [], "number": 1, "digest": None,
        "references": [], "entries": [],
        "run": {"id": "abcd1234", "entity": None, "project": "p", "offline": True},
        "artifact": {"name": "m", "type": "model", "aliases": ["latest"], "metadata": {}, "description": None,
                     "tags": [], "ttl": None},
    }  # fmt: skip
    for path, value in changes.items():
        *parents, key = path.split("__")
        target = fields
        for parent in parents:
            target = target[parent]
        target[key] = value
    return fields


WRONG: dict[str, Any] = {
    "run__id": "../x", "run__entity": "a/b", "run__project": 3, "run__offline": 1, "run__more": 1,
    "artifact__name": "../m", "artifact__type": "", "artifact__aliases": "latest", "artifact__tags": ["/"],
    "artifact__metadata": [], "artifact__description": 1, "artifact__ttl": 1e300, "artifact__more": 1,
    "number": "1", "digest": 1, "snapshots": [1], "references": [{"path": "/x"}],
    "entries": [["x", "", -1, None, None]],
    "entries_at": [["x", "", 1, "../x", None]], "entries_path": [["../x", "", 1, None, None]],
}  # fmt: skip


@pytest.mark.parametrize("field", list(WRONG))
def test_a_foreign_record_is_checked_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    root = foreign(tmp_path, record(**{field.split("_at")[0].split("_path")[0]: WRONG[field]}))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CorruptDataError):
        lamina.wandb.push(root)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_a_foreign_record_makes_nothing_outside(tmp_path: Path) -> None:
    victim = tmp_path / "home"
    root = foreign(tmp_path, record(run__shown=str(victim)))
    with pytest.raises(lamina.errors.LaminaError):
        run_push(root)
    assert not os.path.lexists(victim)
    victim.mkdir()
    (root / "lamina" / ("0" * 32)).symlink_to(victim)
    with pytest.raises(CorruptDataError, match="is a link"):
        run_push(root)
    (root / "lamina").rename(victim / "lamina")
    (root / "lamina").symlink_to(victim / "lamina")
    before = sorted(victim.rglob("*"))
    with pytest.raises(CorruptDataError, match="is a link"):
        run_push(root)
    assert sorted(victim.rglob("*")) == before


def run_push(root: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        patch.setenv("WANDB_API_KEY", "a" * 40)
        lamina.wandb.push(root)


def foreign(folder: Path, fields: dict[str, Any]) -> Path:
    root = folder / "wandb" / "offline-run-20250101_000000-abcd1234"
    (root / "lamina").mkdir(parents=True)
    (root / "run-abcd1234.wandb").write_bytes(b"no log")
    (root / "lamina" / ("0" * 32 + ".json")).write_bytes(_core.seal("journal", json.dumps(fields)))
    return root


@pytest.mark.parametrize("id", ["lr=0.1 bs=32", "lr=0.1_bs=32", "größe", "x" * 120])
def test_a_run_id_that_is_no_artifact_name(id: str) -> None:
    from lamina.keras.media.best_model import artifact_name
    from lamina.wandb.description import default_name, name_of_run

    class Run:
        name = None

    Run.id = id  # type: ignore[attr-defined]
    names = [default_name(Run), name_of_run(Run, "pred"), artifact_name(Run)]
    for name in names:
        assert wandb.Artifact(name, "model").name == name
    Run.id = "lr_0.1_bs_32"  # type: ignore[attr-defined]
    assert len({*names, default_name(Run), name_of_run(Run, "pred"), artifact_name(Run)}) == 6


def test_a_push_of_a_file_leaves_nothing_behind(wandb_online: Server, tmp_path: Path) -> None:
    folder = tmp_path / "ck"
    folder.mkdir()
    file = str(folder / "m.weights.h5")
    with wandb.init(mode="offline"):
        checkpoint = WandbModelCheckpoint(file, "loss", save_weights_only=True, layout="packs", name="mine")
        fit(small_model(), checkpoint)
    before = sorted(tmp_path.rglob("*"))
    ours = [path for path in before if tmp_path / "wandb-client" not in path.parents]
    (name,) = lamina.wandb.push(file, name="pushed")
    restored(name, small_model)
    server = tmp_path / "wandb-server"
    after = [path for path in tmp_path.rglob("*") if tmp_path / "wandb-client" not in path.parents]
    assert sorted(p for p in after if server not in p.parents) == [p for p in ours if server not in p.parents]
    lamina.restore(f"{folder / '.lamina'}@best", small_model())


@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize("layout", ["packs", "file"])
def test_best_stays_with_the_best_of_the_series(wandb_online: Server, tmp_path: Path, layout: str, mode: Any) -> None:
    """A second callback, which does not know the best value so far, starts with worse ones."""
    with wandb.init(project="p", mode=mode) as run:
        for values in ([3.0, 1.0], [5.0, 4.0, 0.5] if layout == "packs" else [5.0, 4.0]):
            checkpoint = WandbModelCheckpoint(
                "ck/m.weights.h5", "score", mode="min", save_weights_only=True, layout=layout, name="two"
            )
            fit(small_model(), Follow(values), checkpoint, epochs=len(values))
        directory = Path(run.dir).parent
    if mode == "offline":
        import offline_run as log

        log.read(directory)
        lamina.wandb.push(directory)
    best = wandb_online.store.artifact("p/two:best")
    assert best.metadata["value"] == (0.5 if layout == "packs" else 1.0)


@pytest.mark.parametrize("layout", ["packs", "file"])
def test_best_stays_with_the_best_of_offline_runs(wandb_online: Server, tmp_path: Path, layout: str) -> None:
    """A second run knows the versions of the first by its directory alone."""
    import offline_run as log

    directories = []
    for values in ([3.0, 1.0], [5.0, 4.0]):
        with wandb.init(project="p", mode="offline", dir=str(tmp_path)) as run:
            file = "ck/m.weights.h5"
            checkpoint = WandbModelCheckpoint(
                file, "score", mode="min", save_weights_only=True, layout=layout, name="two"
            )
            fit(small_model(), Follow(values), checkpoint, epochs=2)
        directories.append(Path(run.dir).parent)
        log.read(directories[-1])
    for directory in directories:  # one after the other: `wandb sync` of several has no order
        run_python(SYNC, {}, tmp_path, directory)
    assert len(wandb_online.store.artifacts("p/two")) == 4
    assert wandb_online.store.artifact("p/two:best").metadata["value"] == 1.0


def test_a_logged_file_leaves_the_repository_of_a_training(wandb_online: Server, tmp_path: Path) -> None:
    with wandb.init(project="p"):
        checkpoint = WandbModelCheckpoint(
            "ck/m.weights.h5", "loss", save_weights_only=True, layout="packs", name="mine"
        )
        fit(small_model(), checkpoint, epochs=1)
        artifact = lamina.wandb.log_checkpoint("ck/m.weights.h5", name="logged").wait()
    assert lamina.open("ck/.lamina").series == ["mine"]
    lamina.restore("ck/.lamina@best", small_model())
    restored(artifact.qualified_name, small_model)


def test_one_of_several_jax_processes_sends(wandb_online: Server, tmp_path: Path) -> None:
    """The processes do not know each other; the launcher sets an environment variable that tells which is the first."""
    code = """
import wandb
from lamina.keras import WandbModelCheckpoint
from wandb_training import fit, small_model
with wandb.init(project="p", id="both", resume="allow"):
    fit(small_model(), WandbModelCheckpoint("m.weights.h5", "loss", save_weights_only=True), epochs=2)
"""
    for rank in ("1", "0"):
        (tmp_path / rank).mkdir()
        environment = wandb_online.environment(tmp_path / f"client-{rank}")
        run_python(code, environment | {"RANK": rank, "KERAS_BACKEND": "jax"}, tmp_path / rank)
        assert len(wandb_online.store.collections) == (rank == "0")
    assert len(wandb_online.store.artifacts("p/run_both_model")) == 2
