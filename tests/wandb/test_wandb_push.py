"""Pushing what did not reach W&B: offline runs, dead processes, failing servers; and retention on the server."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import wandb

import lamina
import lamina.wandb
import offline_run as offline_log
from lamina import _core
from lamina.errors import ArtifactError, InvalidInputError
from lamina.keras import WandbModelCheckpoint
from lamina.sources import resolve
from lamina.wandb.pull import bring
from lamina.wandb.upload.alias_order import is_newer
from lamina.wandb.upload.publisher import publisher_of
from lamina.wandb.upload.retention import LoggedVersion, held_numbers
from lamina.wandb.upload.staging import Staging
from wandb_server import Server
from wandb_training import (
    Follow,
    Remember,
    fit,
    frozen_model,
    restored,
    run_python,
    same_weights,
    small_model,
)

pytestmark = pytest.mark.wandb

PUSH = "import sys, lamina.wandb; print(lamina.wandb.push(sys.argv[1]))"


def offline_run(folder: Path, *, layout: str = "packs", epochs: int = 5, **more: Any) -> tuple[Path, str, Remember]:
    folder.mkdir()
    remember = Remember()
    with wandb.init(mode="offline", dir=str(folder), project="p") as run:
        directory = Path(run.dir).parent
        checkpoint = WandbModelCheckpoint(
            str(folder / "m.weights.h5"), "loss", save_weights_only=True, layout=layout, **more
        )
        fit(small_model(), remember, checkpoint, epochs=epochs)
    offline_log.read(directory)  # waits until the log is complete, some time after the run has ended
    return directory, f"run_{run.id}_model", remember


# --- Offline.


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("layout", ["packs", "file"])
def test_an_offline_run_is_pushed_from_elsewhere(
    wandb_online: Server, tmp_path: Path, layout: str, renamed: bool
) -> None:
    directory, name, remember = offline_run(tmp_path / "train", layout=layout)
    here = tmp_path / "carried" / "over" / ("other" if renamed else f"wandb/{directory.name}")
    shutil.copytree(directory, here)
    shutil.rmtree(tmp_path / "train")
    (tmp_path / "cwd").mkdir()
    run_python(PUSH, wandb_online.environment(tmp_path / "second"), tmp_path / "cwd", here)
    versions = wandb_online.store.artifacts(f"p/{name}")
    assert len(versions) == 5
    for epoch in range(5):
        assert same_weights(restored(f"p/{name}:epoch_{epoch}", small_model), remember.weights[epoch])
    assert run_python(PUSH, wandb_online.environment(tmp_path / "third"), tmp_path, here).strip().endswith("[]")
    assert len(wandb_online.store.artifacts(f"p/{name}")) == 5


def test_what_was_pushed_takes_no_name_back(wandb_online: Server, tmp_path: Path) -> None:
    """A second push of an offline run that was continued online; an online run has nothing to push."""
    directory, name, _ = offline_run(tmp_path / "train", epochs=2)
    assert len(lamina.wandb.push(directory)) == 2
    with wandb.init(project="p", id=name.split("_")[1], resume="must") as run:
        online = Path(run.dir).parent
        file = str(tmp_path / "train" / "m.weights.h5")
        fit(small_model(), WandbModelCheckpoint(file, "loss", save_weights_only=True, layout="packs"), epochs=3)
    before = [(version.name, version.aliases) for version in wandb_online.store.artifacts(f"p/{name}")]
    assert [lamina.wandb.push(folder) for folder in (directory, online)] == [[], []]
    assert [(version.name, version.aliases) for version in wandb_online.store.artifacts(f"p/{name}")] == before
    assert "latest" in before[-1][1]


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_missing_or_damaged_pack_is_named_and_nothing_is_done(
    wandb_online: Server, tmp_path: Path, harm: str
) -> None:
    directory, name, _ = offline_run(tmp_path / "train")
    pack = sorted((directory / "lamina" / "packs").iterdir())[0]
    data = bytearray(pack.read_bytes())
    pack.unlink()
    if harm == "damaged":
        data[20] ^= 1
        pack.write_bytes(data)
    with pytest.raises(ArtifactError, match=pack.name):
        lamina.wandb.push(directory)
    assert wandb_online.store.runs == []
    assert not list(directory.glob("*.synced"))
    data[20] ^= harm == "damaged"
    pack.unlink(missing_ok=True)
    pack.write_bytes(data)
    assert len(lamina.wandb.push(directory)) == 5
    assert len(wandb_online.store.artifacts(f"p/{name}")) == 5


def test_plain_wandb_sync_works_in_the_original_place(wandb_online: Server, tmp_path: Path) -> None:
    directory, name, _ = offline_run(tmp_path / "train")
    code = "import sys, subprocess; subprocess.run([sys.executable, '-m', 'wandb', 'sync', sys.argv[1]], check=True)"
    run_python(code, {}, tmp_path / "train", f"wandb/{directory.name}")
    assert len(wandb_online.store.artifacts(f"p/{name}")) == 5


def test_the_packs_of_an_offline_run_outlive_the_repository(wandb_online: Server, tmp_path: Path) -> None:
    directory, name, remember = offline_run(tmp_path / "train", keep=lamina.Keep(last=1))
    shutil.rmtree(tmp_path / "train" / ".lamina")
    lamina.wandb.push(directory)
    assert same_weights(restored(f"p/{name}:epoch_0", small_model), remember.weights[0])


# --- A server in trouble.


def trained(remember: Remember, *, epochs: int) -> str:
    with wandb.init() as run:
        checkpoint = WandbModelCheckpoint("m.weights.h5", "loss", save_weights_only=True, layout="packs")
        fit(small_model(), remember, checkpoint, epochs=epochs)
    return f"run_{run.id}_model"


@pytest.mark.parametrize(
    "fault",
    [
        {"method": "PUT", "path": "*.pack", "reset_after": 1000, "times": 3},
        {"method": "PUT", "path": "*.pack", "status": 500, "times": 2},
        {"method": "PUT", "path": "*.pack", "status": 429, "times": 2},
        {"operation": "CreateArtifactFiles", "status": 500, "times": 2},
        {"operation": "CommitArtifact", "reset_after": 0, "times": 1},
    ],
)
def test_trouble_on_the_way_loses_nothing(wandb_online: Server, fault: dict[str, Any]) -> None:
    wandb_online.inject(**fault)
    remember = Remember()
    with wandb.init() as run:
        checkpoint = WandbModelCheckpoint("m.weights.h5", "loss", save_weights_only=True, layout="packs")
        fit(small_model(), remember, checkpoint, epochs=3)
    name = f"run_{run.id}_model"
    assert [v.aliases[-1] if "latest" not in v.aliases else "latest" for v in wandb_online.store.artifacts(name)] == [
        "epoch_0", "epoch_1", "latest",
    ]  # fmt: skip
    for epoch in range(3):
        assert same_weights(restored(f"{name}:epoch_{epoch}", small_model), remember.weights[epoch])
    assert not list(Path(".lamina/journal").glob("*.json"))


def test_a_server_that_is_down_for_a_while(wandb_online: Server) -> None:
    remember = Remember()
    with wandb.init() as run:
        wandb_online.down = True
        back = threading.Timer(4, lambda: setattr(wandb_online, "down", False))
        back.start()
        checkpoint = WandbModelCheckpoint("m.weights.h5", "loss", save_weights_only=True, layout="packs")
        fit(small_model(), remember, checkpoint, epochs=3)
    back.join()
    name = f"run_{run.id}_model"
    assert len(wandb_online.store.artifacts(name)) == 3
    assert same_weights(restored(f"{name}:epoch_1", small_model), remember.weights[1])


def test_a_refused_version_is_sent_later(wandb_online: Server) -> None:
    wandb_online.inject(operation="CreateArtifact", error="no room", times=None)
    with pytest.warns(UserWarning, match="lamina push"):
        name = trained(Remember(), epochs=2)
    wandb_online.clear_faults()
    meter = _core.Progress()
    _core.watch(meter)
    pushed = lamina.wandb.push(".lamina")
    _core.watch(None)
    what, done, total, _ = meter.read()
    assert (what, done > 0, done) == ("sending", True, total)
    assert [name.rpartition("/")[2] for name in pushed] == [f"{name}:v{n}" for n in (0, 1)]
    assert "latest" in wandb_online.store.artifacts(name)[1].aliases


def test_a_late_version_of_an_older_training_takes_no_names_of_a_newer_one(wandb_online: Server) -> None:
    """The newer training started again without `resume`, so its epochs and steps are lower than the older one's."""
    wandb_online.inject(operation="CreateArtifact", error="no room", times=None)
    with pytest.warns(UserWarning, match="no room"), wandb.init(id="again", resume="allow"):
        fit(small_model(), WandbModelCheckpoint("m.weights.h5", "loss", layout="packs", save_weights_only=True))
    wandb_online.clear_faults()
    with wandb.init(id="again", resume="allow"):
        checkpoint = WandbModelCheckpoint("m.weights.h5", "loss", layout="packs", save_weights_only=True)
        fit(frozen_model((8, 8), 5), checkpoint, epochs=2)
    before = {version.version: version.aliases for version in wandb_online.store.artifacts("run_again_model")}
    newer = {alias: version for version, aliases in before.items() for alias in aliases if alias != "best"}
    assert newer == {"epoch_0": "v0", "epoch_1": "v1", "latest": "v1"}
    assert len(lamina.wandb.push(".lamina")) == 3
    versions = {version.version: version.aliases for version in wandb_online.store.artifacts("run_again_model")}
    assert {alias: v for v, aliases in versions.items() for alias in aliases if alias in newer} == newer
    assert [v for v, aliases in versions.items() if "epoch_2" in aliases] == ["v4"]  # the newer one has none


@pytest.mark.parametrize(
    ("holder", "late", "newer"),
    [
        (({"repository": "r", "number": 2, "at": "2026-01-01T00:00:00Z"}, 1),
         ({"repository": "r", "number": 1, "at": "2026-01-02T00:00:00Z"}, 9), True),
        (({"repository": "r", "number": 1}, 9), ({"repository": "r", "number": 2}, 1), False),
        (({"repository": "r", "number": 1, "at": "2026-01-02T00:00:00.5Z"}, 1),
         ({"repository": "s", "number": 9, "at": "2026-01-02T00:00:00.400+00:00"}, 9), True),
        (({"at": "yesterday"}, 9), ({"at": "2026-01-02T00:00:00Z"}, 1), True),
        (({"at": "2026-01-02T00:00:00"}, 1), ({"at": "2026-01-01T00:00:00Z"}, 9), False),
        (("nonsense", 9), (None, 1), True),
        ((None, None), (None, 1), False),
    ],
)  # fmt: skip
def test_which_of_two_versions_is_newer(holder: Any, late: Any, newer: bool) -> None:
    """First by numbers of one repository, then by times, then by steps."""
    had, has = ({"saved": saved, "step": step} for saved, step in (holder, late))
    assert is_newer(had, has) is newer


def refused_version(server: Server, seed: int) -> None:
    """Log a version that the server refuses; it stays pending in ``repo``."""
    keras.utils.set_random_seed(seed)
    keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)]).save_weights("a.weights.h5")
    server.inject(operation="CreateArtifact", error="refused")
    logged = lamina.wandb.log_checkpoint("a.weights.h5", name="a", repository="repo")
    with pytest.raises(ValueError, match="refused"):
        logged.wait()
    assert publisher_of(wandb.run).settle(30)


@pytest.mark.filterwarnings("ignore:upload of a version")
@pytest.mark.parametrize("layout", ["packs", "file"])
def test_what_a_subclass_has_added_is_sent_later(wandb_online: Server, layout: str) -> None:
    class Mine(WandbModelCheckpoint):
        def make_artifact(self, commit: Any) -> Any:
            artifact = super().make_artifact(commit)
            artifact.add_reference("https://example.com/data.bin", "data.bin", checksum=False)
            artifact.add(wandb.Table(columns=["a"], data=[[1]]), "table")
            artifact.metadata["rate"] = np.float32(0.5)
            return artifact

    wandb_online.inject(operation="CreateArtifact", error="refused")
    with wandb.init() as run:
        fit(small_model(), Mine("m.weights.h5", "loss", save_weights_only=True, layout=layout), epochs=1)
        place = ".lamina" if layout == "packs" else Path(run.dir).parent
    (name,) = lamina.wandb.push(place)
    version = wandb_online.store.artifact(name)
    assert version.entries["data.bin"].ref == "https://example.com/data.bin"
    assert "table.table.json" in version.entries
    assert version.metadata["rate"] == 0.5
    restored(name, small_model)


def test_two_pushes_at_once_send_nothing_twice(wandb_online: Server, tmp_path: Path) -> None:
    with wandb.init():
        for seed in range(2):
            refused_version(wandb_online, seed)
    wandb_online.inject(operation="CommitArtifact", status=500, times=None)
    sent: list[str] = []
    environment = wandb_online.environment(tmp_path / "second")
    other = threading.Thread(target=lambda: sent.append(run_python(PUSH, environment, tmp_path, "repo")))
    other.start()
    begun = wandb_online.count("CreateArtifact")
    # Until the run has started and the first version is being sent.
    while other.is_alive() and wandb_online.count("CreateArtifact") == begun:
        time.sleep(0.01)
    with pytest.warns(UserWarning, match="skipped 2 versions in .*repo: another process"):
        assert lamina.wandb.push("repo") == []
    wandb_online.clear_faults()
    other.join()
    assert len(wandb_online.store.artifacts("a")) == 2
    assert "a:v1" in sent[0]
    assert lamina.wandb.push(lamina.open("repo")) == []


def test_a_push_leaves_alone_what_is_on_its_way(wandb_online: Server) -> None:
    small_model().save_weights("a.weights.h5")
    for layout in ("packs", "file"):
        with wandb.init() as run:
            wandb_online.inject(operation="CreateArtifact", status=500, times=None)
            logged = lamina.wandb.log_checkpoint("a.weights.h5", name=layout, repository="repo", layout=layout)
            with pytest.warns(UserWarning, match="skipped 1 version in"):
                assert lamina.wandb.push("repo" if layout == "packs" else Path(run.dir).parent) == []
            wandb_online.clear_faults()
            logged.wait()
        assert len(wandb_online.store.artifacts(layout)) == 1


def test_what_did_not_come_about_is_free(wandb_online: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the caller keeps the error, and with it every object of its traceback."""
    small_model().save_weights("a.weights.h5")
    snapshot = lamina.save("a.weights.h5", "repo")
    with wandb.init():
        with monkeypatch.context() as broken:
            broken.setattr(Staging, "stage_packs", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                lamina.wandb.log_checkpoint(snapshot, name="a")
        assert len(lamina.wandb.push("repo")) == 1


def test_a_push_beside_the_run_that_made_the_version(wandb_online: Server) -> None:
    with wandb.init() as run:
        refused_version(wandb_online, 0)
        assert len(lamina.wandb.push("repo")) == 1
        run.log({"goes": "on"})
    assert wandb_online.store.artifact("a:latest").created_by == run.id
    assert [row["goes"] for row in wandb_online.store.history(run.id)] == ["on"]


def test_a_relative_wandb_dir_and_another_working_directory(
    wandb_online: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("WANDB_DIR", "wandb-client")
    wandb.teardown()
    model = small_model()
    with wandb.init(mode="offline", project="p") as run:
        assert not Path(run.dir).is_absolute()
        directory = Path(run.dir).parent.absolute()
        file = str(tmp_path / "m.weights.h5")
        away = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: monkeypatch.chdir(tmp_path / "elsewhere"))
        fit(model, away, WandbModelCheckpoint(file, "loss", save_weights_only=True, layout="packs"), epochs=2)
    offline_log.read(directory)
    assert len(lamina.wandb.push(directory)) == 2
    assert same_weights(restored(f"p/run_{run.id}_model:latest", small_model), model.get_weights())


@pytest.mark.parametrize("source", [None, 5, b"repo"])
def test_what_is_no_source(source: Any) -> None:
    with pytest.raises(InvalidInputError, match="expected a path, a repository or a snapshot"):
        lamina.wandb.push(source)


def test_prune_leaves_alone_what_is_journaled(wandb_online: Server) -> None:
    wandb_online.inject(operation="CreateArtifact", error="no room", times=None)
    remember = Remember()
    with pytest.warns(UserWarning, match="no room"):
        name = trained(remember, epochs=3)
    lamina.open(".lamina").prune(lamina.Keep(last=1))
    wandb_online.clear_faults()
    lamina.wandb.push(".lamina")
    assert same_weights(restored(f"{name}:epoch_0", small_model), remember.weights[0])


# --- Files and snapshots, pushed and pulled.


def test_push_of_a_file_and_of_a_snapshot(wandb_online: Server) -> None:
    small_model().save_weights("a.weights.h5")
    lamina.save("a.weights.h5", "repo", aliases=["good"])
    (first,) = lamina.wandb.push("a.weights.h5", name="a", layout="file")
    (second,) = lamina.wandb.push("repo@good", name="a")
    assert [name.rpartition("/")[2] for name in (first, second)] == ["a:v0", "a:v1"]
    assert "wandb_manifest" not in os.listdir(".")


def test_pull_brings_versions_into_a_repository(wandb_online: Server) -> None:
    remember = Remember()
    with wandb.init() as run:
        checkpoint = WandbModelCheckpoint("m.keras", "loss", layout="packs")
        fit(frozen_model(), remember, checkpoint, epochs=2)
    name = f"run_{run.id}_model"
    source = lamina.open(".lamina").snapshot("epoch_1")
    first = lamina.wandb.pull(f"{name}:epoch_1", "here", aliases=["theirs"])
    assert (first.epoch, first.monitor, first.logs) == (1, "loss", source.logs)
    assert {"epoch_1", "theirs"} <= set(first.aliases)
    assert same_weights(lamina.load_model("here@theirs"), remember.weights[1])
    wandb_online.reset_counters()
    second = lamina.wandb.pull(f"{name}:epoch_0", "here")
    assert (first.number, second.number) == (1, 2)
    ours, theirs = lamina.read_tensors(source), lamina.read_tensors(first)
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    assert set(resolve(source).content.training) == set(resolve(first).content.training)


def test_promote_links_the_plain_file(wandb_online: Server, tmp_path: Path) -> None:
    with wandb.init() as run:
        checkpoint = WandbModelCheckpoint("m.keras", "loss", layout="packs")
        fit(small_model(), checkpoint, epochs=2)
    lamina.wandb.promote(f"wandb:run_{run.id}_model:best", "lamina-tests/models", ["production"], name="plain")
    folder = Path(wandb.Api().artifact("models:production").download(str(tmp_path / "d")))
    assert (folder / "m.keras").read_bytes() == Path("m.keras").read_bytes()
    linked = lamina.wandb.promote(f"wandb:run_{run.id}_model:epoch_0", "wandb-registry-model/digits", "staging")
    assert linked.is_link
    entries = wandb_online.store.artifact("wandb-registry-model/digits:staging").entries
    assert list(entries) == ["m.keras"]
    assert wandb_online.errors == []
    with pytest.raises(InvalidInputError, match="registry"):
        lamina.wandb.promote(f"wandb:run_{run.id}_model:best", "models")


def test_pull_brings_the_very_snapshot_once(wandb_online: Server) -> None:
    remember = Remember()
    with wandb.init():
        checkpoint = WandbModelCheckpoint("m.keras", "loss", layout="packs", name="digits")
        fit(small_model(), remember, checkpoint, epochs=3)
    ours = lamina.open(".lamina")
    (newest,) = [s for s in ours.snapshots() if s.epoch == 2]
    pulled = lamina.wandb.pull("digits:latest", "here")
    assert (pulled.id, pulled.number, pulled._core.body()) == (newest.id, 1, newest._core.body())
    here = lamina.open("here")
    assert here._core.snapshot_bytes(1) == ours._core.snapshot_bytes(newest.number)
    assert here.verify(full=True).snapshots == 1
    packs = {path.name: path.read_bytes() for path in Path("here/packs").iterdir()}
    assert packs.keys() <= {path.name for path in Path(".lamina/packs").iterdir()}
    wandb_online.reset_counters()
    again = lamina.wandb.pull("digits:latest", "here", aliases="twice")
    assert (again.id, again.number, again.aliases) == (pulled.id, 1, ["latest", "best", "epoch_2", "twice"])
    assert {path.name: path.read_bytes() for path in Path("here/packs").iterdir()} == packs
    assert len(here.snapshots()) == 1
    assert bring("digits:latest", "here").new is False
    # In another series it is another snapshot with the same chunks.
    other = bring("digits:latest", "here", series="theirs")
    assert (other.new, other.bytes, other.snapshot.series) == (True, 0, "theirs")
    assert other.snapshot.id != pulled.id
    assert bring("digits:latest", "here", series="theirs").new is False
    assert same_weights(lamina.load_model("here@digits:latest"), remember.weights[2])


def test_the_series_goes_on_after_a_pull(wandb_online: Server) -> None:
    with wandb.init():
        fit(frozen_model(), WandbModelCheckpoint("m.keras", "loss", layout="packs", name="digits"), epochs=2)
    lamina.wandb.pull("digits:latest", "here")
    model = lamina.load_model("here@latest")
    fit(model, epochs=1)
    model.save("next.keras")
    saved = lamina.save("next.keras", "here", series="digits")
    assert saved.bytes_new < 0.5 * saved.bytes_total  # the frozen part is shared with the pulled snapshot
    with wandb.init():
        lamina.wandb.log_checkpoint(saved, name="digits", layout="packs").wait()
    assert same_weights(restored("digits:latest", frozen_model), model.get_weights())
    assert lamina.open("here").verify(full=True).snapshots == 2
    assert wandb_online.errors == []


# --- Retention on the server.


def versions_left(server: Server, name: str) -> list[int]:
    return [version.metadata["epoch"] for version in server.store.artifacts(name)]


@pytest.mark.parametrize("layout", ["packs", "file"])
def test_keep_deletes_older_versions(wandb_online: Server, layout: str) -> None:
    remember = Remember()
    with wandb.init() as run:
        checkpoint = WandbModelCheckpoint(
            "m.weights.h5", "score", 0, False, True, "max", layout=layout, keep=lamina.Keep(last=2, best=1)
        )
        fit(small_model(), remember, Follow([0.1, 0.9, 0.2, 0.3, 0.4, 0.5]), checkpoint, epochs=6)
    name = f"run_{run.id}_model"
    assert versions_left(wandb_online, name) == [1, 4, 5]
    for epoch in (1, 4, 5):
        assert same_weights(restored(f"{name}:epoch_{epoch}", small_model), remember.weights[epoch])


def test_keep_spares_what_somebody_else_uses(wandb_online: Server) -> None:
    remember = Remember()
    with wandb.init(id="mine", resume="allow"):
        checkpoint = WandbModelCheckpoint("m.weights.h5", "loss", save_weights_only=True, layout="packs")
        fit(small_model(), remember, checkpoint, epochs=4)
    named = wandb.Api().artifact("run_mine_model:v0")
    named.aliases.append("production")
    named.save()
    with wandb.init() as other:
        other.link_artifact(wandb.Api().artifact("run_mine_model:v1"), "lamina-tests/models")
    with wandb.init(id="mine", resume="allow"):
        checkpoint = WandbModelCheckpoint(
            "m.weights.h5", "loss", save_weights_only=True, layout="packs", keep=lamina.Keep(last=1)
        )
        fit(small_model(), checkpoint, epochs=1)
    assert [v.version for v in wandb_online.store.artifacts("run_mine_model")] == ["v0", "v1", "v4"]


def test_keep_deletes_nothing_when_the_server_is_unsure(wandb_online: Server) -> None:
    wandb_online.inject(operation="FetchLinkedArtifacts", error="?", times=None)
    with wandb.init() as run:
        checkpoint = WandbModelCheckpoint("m.weights.h5", "loss", save_weights_only=True, keep=lamina.Keep(last=1))
        fit(small_model(), checkpoint, epochs=3)
    assert versions_left(wandb_online, f"run_{run.id}_model") == [0, 1, 2]


@pytest.mark.parametrize(
    ("keep", "held"),
    [
        (lamina.Keep(last=2), {4, 5}),
        (lamina.Keep(best=2), {1, 3, 5}),
        (lamina.Keep(every=3), {2, 5}),
        (lamina.Keep(last=1, best=1, every=2), {1, 3, 5}),
    ],
)
def test_the_rules_are_those_of_repositories(keep: lamina.Keep, held: set[int], tmp_path: Path) -> None:
    values = [0.5, 0.1, 0.4, 0.2, float("nan"), 0.3]
    metadata = [
        {"epoch": n, "batch": None, "monitor": "loss", "mode": "min", "value": v, "best": False}
        for n, v in enumerate(values)
    ]
    assert held_numbers(keep, [LoggedVersion(n, None, m) for n, m in enumerate(metadata)]) == held
    from lamina.writing import save_path

    repository = lamina.repository.repository.open_or_create(tmp_path / "r")
    (tmp_path / "f").write_bytes(b"x")
    for fields in metadata:
        save_path(repository, tmp_path / "f", {"series": "s", "logs": {"loss": fields["value"]}, **fields})
    repository.prune(keep)
    assert {s.epoch for s in repository.snapshots()} - {5} == held - {5}


def test_the_end_of_a_run_is_bounded(wandb_online: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server needs 30 s for each request; the end of training does not wait that long."""
    monkeypatch.setattr(WandbModelCheckpoint, "accept_seconds", 0.5)
    with wandb.init() as run:
        checkpoint = WandbModelCheckpoint("m.weights.h5", "loss", save_weights_only=True, layout="packs")
        wandb_online.inject(operation="ArtifactType", delay=4, times=2)
        started = time.monotonic()
        with pytest.warns(UserWarning, match="lamina push"):
            fit(small_model(), checkpoint, epochs=2)
        assert time.monotonic() - started < 4
    assert len(wandb_online.store.artifacts(f"run_{run.id}_model")) == 2
