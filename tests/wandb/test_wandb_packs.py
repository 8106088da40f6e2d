"""``layout="packs"``: a version uploads only new data, and is restored bit for bit, or an error names the damage."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import wandb

import lamina
import lamina.wandb
from lamina.errors import ArtifactError, CorruptDataError, InvalidInputError, NotFoundError
from lamina.keras import WandbModelCheckpoint
from lamina.wandb.upload.publisher import publisher_of
from travel_writer import make_envelope, sample
from wandb_server import Server
from wandb_training import Remember, clean_machine, fit, frozen_model, restored, same_weights, small_model

pytestmark = pytest.mark.wandb

EPOCHS = 10


def logged_run(*, epochs: int = 3, model: Any = None, **more: Any) -> tuple[str, Remember]:
    """Train with a checkpoint per epoch; returns the artifact's name and the weights of each epoch."""
    remember = Remember()
    with wandb.init() as run:
        checkpoint = WandbModelCheckpoint("ck/m-{epoch}.weights.h5", monitor="loss", save_weights_only=True,
                                          **{"layout": "packs", **more})  # fmt: skip
        fit(model or small_model(), remember, checkpoint, epochs=epochs)
        return f"run_{run.id}_model", remember


class Costs(keras.callbacks.Callback):
    """The cost of each version alone: uploaded bytes and files, and GraphQL requests."""

    def __init__(self, server: Server, arrived: Callable[[], object]) -> None:
        super().__init__()
        self.server, self.arrived = server, arrived
        self.sizes: list[int] = []
        self.files: list[int] = []
        self.requests: list[int] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.server.reset_counters()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.arrived()
        total = self.server.counters.total("artifacts/*")
        self.sizes.append(total.put_bytes)
        self.files.append(total.puts)
        # The run itself also sends requests, at its own times.
        self.requests.append(sum("Artifact" in operation.name for operation in self.server.operations))
        self.server.reset_counters()


def stock_costs(server: Server) -> Costs:
    """wandb's own callback, with the same model."""
    from wandb.integration.keras import WandbModelCheckpoint as Stock

    def arrived() -> None:
        until = time.monotonic() + 60
        while not any(item.name == "CommitArtifact" and item.seconds > 0 for item in server.operations):
            assert time.monotonic() < until
            time.sleep(0.02)

    with wandb.init():
        costs = Costs(server, arrived)
        fit(frozen_model(), Stock("stock/m.weights.h5", "loss", 0, False, True), costs, epochs=3)
    return costs


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="wandb's own callback imports TensorFlow")
def test_a_version_uploads_what_changed(wandb_online: Server) -> None:
    """wandb's own callback uploads the whole file each time, but with three requests less."""
    server = wandb_online

    def arrived() -> None:
        assert checkpoint.wait(60)
        assert publisher_of(run).settle(60)

    with wandb.init() as run:
        checkpoint = WandbModelCheckpoint("ck/m.weights.h5", "loss", 0, False, True, layout="packs")
        costs = Costs(server, arrived)
        fit(frozen_model(), checkpoint, costs, epochs=EPOCHS)
    sizes, files, requests = costs.sizes, costs.files, costs.requests
    assert sizes[0] > 6e6
    assert max(sizes[1:]) <= 0.06 * sizes[0]
    # Constant, with one exception: a version with deltas has one more pack for them.
    assert max(files[1:]) - min(files[1:]) <= 1
    assert len(set(requests[2:])) == 1
    assert server.errors == []
    assert len(server.store.artifacts(f"run_{run.id}_model")) == EPOCHS
    stock = stock_costs(server)
    assert sizes[0] <= stock.sizes[0]
    assert max(sizes[1:]) <= 0.06 * min(stock.sizes)
    assert set(stock.files) == {1}
    assert max(files[1:]) <= 4
    assert requests[2] <= max(stock.requests) + 3  # one for the base's state, one for its files, and one for the answer


def test_nothing_is_copied_into_wandbs_folders(wandb_online: Server, tmp_path: Path) -> None:
    logged_run(model=frozen_model((200, 400)))
    client = tmp_path / "wandb-client"
    kept = [path for name in ("cache", "data", "artifacts") for path in (client / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept) < 20_000
    assert not list((tmp_path / "ck" / ".lamina" / "journal").glob("*.json"))


def test_versions_restore_from_a_clean_machine_one_by_one_and_after_deletions(
    wandb_online: Server, tmp_path: Path
) -> None:
    name, remember = logged_run(epochs=5, keep=None)
    (tmp_path / "ck").rename(tmp_path / "gone")
    order = list(range(5))
    random.Random(7).shuffle(order)
    for left, epoch in enumerate(order):
        with clean_machine(tmp_path / f"machine-{epoch}"):
            assert same_weights(restored(f"{name}:epoch_{epoch}", small_model), remember.weights[epoch])
            assert not list((tmp_path / f"machine-{epoch}" / "w").rglob("*.pack"))
        if left < 4:
            wandb.Api().artifact(f"{name}:epoch_{epoch}").delete(delete_aliases=True)
    with clean_machine(tmp_path / "last"):
        assert same_weights(restored(f"{name}:epoch_{order[-1]}", small_model), remember.weights[order[-1]])


class Touch(keras.callbacks.Callback):
    """Changes one row of a large table, like a training step on few embeddings."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        variable = self.model.layers[0].kernel
        table = np.array(variable)
        table[epoch] += 0.01
        variable.assign(table)


def test_differences_outlive_the_versions_they_build_on(wandb_online: Server, tmp_path: Path) -> None:
    def model() -> Any:
        return frozen_model((300, 400), 4)

    remember = Remember()
    with wandb.init() as run:
        checkpoint = WandbModelCheckpoint(
            "ck/m-{epoch}.weights.h5", monitor="loss", save_weights_only=True, layout="packs"
        )
        fit(model(), Touch(), remember, checkpoint, epochs=4)
        name = f"run_{run.id}_model"
    (tmp_path / "ck").rename(tmp_path / "gone")
    assert [
        json.loads(wandb_online.store.file_bytes(f"{name}:epoch_{epoch}", "lamina.json").split(b"\n")[1][7:])[
            "required"
        ]
        for epoch in range(4)
    ] == [[], ["delta"], ["delta"], ["delta"]]
    for epoch in range(4):
        with clean_machine(tmp_path / f"machine-{epoch}"):
            assert same_weights(restored(f"{name}:epoch_{epoch}", model), remember.weights[epoch])
        folder = Path(wandb.Api().artifact(f"{name}:epoch_{epoch}").download(str(tmp_path / f"download-{epoch}")))
        subprocess.run([sys.executable, "-I", str(folder / "restore.py")], cwd=folder, check=True, capture_output=True)
        file = f"m-{epoch + 1}.weights.h5"
        assert (folder / "restored" / file).read_bytes() == (tmp_path / "gone" / file).read_bytes()
        if epoch < 3:
            wandb.Api().artifact(f"{name}:epoch_{epoch}").delete(delete_aliases=True)


def test_it_comes_back_without_lamina(wandb_online: Server, tmp_path: Path) -> None:
    name, _ = logged_run()
    folder = Path(wandb.Api().artifact(f"{name}:epoch_1").download(str(tmp_path / "download")))
    subprocess.run([sys.executable, "-I", str(folder / "restore.py")], cwd=folder, check=True, capture_output=True)
    assert (folder / "restored" / "m-2.weights.h5").read_bytes() == Path("ck/m-2.weights.h5").read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "lamina.json", "lamina.placement", "packs", "restore.py", "restored",
    ]  # fmt: skip


def test_the_reader_that_travels_is_the_installed_one(
    wandb_online: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository of an older lamina has an older reader, and its pending versions name it."""
    from lamina.wandb.upload import staging

    installed = staging.TRAVEL
    older = tmp_path / "older"
    older.mkdir()
    for name in staging.TRAVELLING:
        (older / name).write_text(f"# older {name}")
    small_model().save_weights("a.weights.h5")
    with wandb.init() as run:
        monkeypatch.setattr(staging, "TRAVEL", older)
        wandb_online.inject(operation="CreateArtifact", error="no room", times=1)
        waits = lamina.wandb.log_checkpoint("a.weights.h5", name="weights")
        with pytest.raises(ValueError, match="no room"):
            waits.wait()
        lamina.wandb.log_checkpoint("a.weights.h5", name="weights").wait()
        monkeypatch.setattr(staging, "TRAVEL", installed)
        lamina.wandb.log_checkpoint("a.weights.h5", name="weights").wait()
        assert publisher_of(run).settle(30)
    read = wandb_online.store.file_bytes
    assert read("weights:v0", "restore.py") == b"# older restore.py"
    assert read("weights:v1", "restore.py") == (installed / "restore.py").read_bytes()
    assert read("weights:v1", "README.md") == (installed / "README.md").read_bytes()
    (late,) = lamina.wandb.push(".lamina-logged")
    assert read(late, "restore.py") == b"# older restore.py"


def test_no_path_of_this_machine_is_uploaded_in_our_files(wandb_online: Server, tmp_path: Path) -> None:
    name, _ = logged_run()
    version = wandb_online.store.artifact(f"{name}:latest")
    texts = [wandb_online.store.file_bytes(f"{name}:latest", path) for path in version.entries]
    assert not any(str(tmp_path).encode() in text for text in texts)
    assert str(tmp_path) not in json.dumps(version.metadata)


def test_export_gives_the_file_that_keras_wrote(wandb_online: Server, tmp_path: Path) -> None:
    name, _ = logged_run()
    (path,) = lamina.export(f"wandb:{name}:epoch_2", tmp_path / "out")
    assert path.read_bytes() == Path("ck/m-3.weights.h5").read_bytes()


def test_a_partial_read_fetches_only_what_it_needs(wandb_online: Server) -> None:
    name, _ = logged_run(epochs=2, model=frozen_model())
    opened = lamina.wandb.open_artifact(f"{name}:latest")
    tensor = min(opened.content.tensors.values(), key=lambda t: int(np.prod(t.shape)))
    wandb_online.reset_counters()
    opened.content.read_named([tensor.name])
    assert wandb_online.counters.total("artifacts/*").get_bytes < 1 << 20


def test_a_whole_read_fetches_each_byte_once(wandb_online: Server, tmp_path: Path) -> None:
    name, _ = logged_run(epochs=2, model=frozen_model())
    stored = sum(e.size for e in wandb_online.store.artifact(f"{name}:latest").entries.values())
    wandb_online.reset_counters()
    lamina.export(f"wandb:{name}:latest", tmp_path / "out")
    assert wandb_online.counters.total("artifacts/*").get_bytes <= 1.02 * stored


def test_a_local_repository_saves_the_download(wandb_online: Server) -> None:
    name, _ = logged_run(epochs=2, model=frozen_model())
    wandb_online.reset_counters()
    opened = lamina.wandb.open_artifact(f"{name}:latest", repository="ck/.lamina")
    opened.content.read_named()
    assert wandb_online.counters.total("artifacts/*").get_bytes < 50_000


@pytest.mark.parametrize("apart", [64, 10**9])
def test_a_damaged_local_repository_is_no_harm(wandb_online: Server, apart: int) -> None:
    """Damage one byte in the middle, or so many that structure and nodes are damaged, too."""
    name, remember = logged_run(epochs=2, model=frozen_model())
    for pack in Path("ck/.lamina/packs").glob("*.pack"):
        data = bytearray(pack.read_bytes())
        for at in range(len(data) // 2 if apart > len(data) else 8, len(data), apart):
            data[at] ^= 1
        pack.write_bytes(data)
    opened = lamina.wandb.open_artifact(f"{name}:latest", repository="ck/.lamina")
    values = list(opened.content.read_named().values())
    assert all(any(np.array_equal(v, w) for v in values) for w in remember.weights[1])


@pytest.mark.parametrize("file", ["*.pack", "*lamina.json", "*lamina.placement"])
def test_a_damaged_transfer_is_named_and_reaches_no_model(wandb_online: Server, file: str) -> None:
    name, _ = logged_run()
    model = small_model()
    before = model.get_weights()
    wandb_online.inject(method="GET", path=f"/storage/artifacts/{file}", corrupt=True, times=None)
    with pytest.raises(CorruptDataError, match=r"pack|lamina\.json|lamina\.placement"):
        lamina.restore(f"wandb:{name}:latest", model)
    assert same_weights(model, before)


def test_a_damaged_pack_on_the_server_is_named(wandb_online: Server) -> None:
    wandb_online.store.policy.check_md5 = False
    wandb_online.inject(method="PUT", path="*.pack", corrupt=True, times=None)
    name, _ = logged_run(epochs=1)
    with pytest.raises(CorruptDataError, match="pack"):
        lamina.restore(f"wandb:{name}:latest", small_model())


def test_a_snapshot_that_describes_no_state(wandb_online: Server, tmp_path: Path) -> None:
    """A hostile artifact is refused by name, like a directory with the same files."""
    body, _ = sample().body_and_chunks()
    state = body.pop("state")
    for number, wrong in enumerate([{}, {"state": 5}, {"state": {**state, "structure": [[5, 5]]}}]):
        folder = sample().write_artifact(tmp_path / str(number))
        (folder / "lamina.json").write_bytes(make_envelope("snapshot", body | wrong))
        with wandb.init() as run:
            artifact = wandb.Artifact("evil", "model")
            artifact.add_dir(str(folder))
            run.log_artifact(artifact).wait()
        with pytest.raises(CorruptDataError, match="lamina.json of evil:latest is damaged"):
            lamina.read_tensors("wandb:evil:latest")


def test_broken_downloads_go_on_where_they_stopped(wandb_online: Server) -> None:
    name, remember = logged_run(epochs=1, model=frozen_model())
    wandb_online.reset_counters()
    wandb_online.inject(method="GET", path="*.pack", reset_after=100_000, times=5)
    wandb_online.inject(method="GET", path="*.pack", status=503, times=2)
    model = frozen_model()
    lamina.restore(f"wandb:{name}:latest", model)
    assert same_weights(model, remember.weights[0])
    stored = sum(e.size for e in wandb_online.store.artifact(f"{name}:latest").entries.values())
    assert wandb_online.counters.total("artifacts/*").get_bytes <= 1.1 * stored


def test_lineage_is_noted_in_an_active_run(wandb_online: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _ = logged_run(epochs=1)
    with wandb.init() as reader:
        monkeypatch.setenv("LAMINA_LINEAGE", "0")
        restored(f"{name}:latest", small_model)
        assert wandb_online.store.artifact(f"{name}:latest").used_by == []
        monkeypatch.delenv("LAMINA_LINEAGE")
        restored(f"{name}:latest", small_model)
    assert wandb_online.store.artifact(f"{name}:latest").used_by == [reader.id]


def test_what_is_not_there_is_said(wandb_online: Server) -> None:
    logged_run(epochs=1)
    with pytest.raises(NotFoundError, match="no_such"):
        lamina.wandb.open_artifact("no_such:latest")


def test_log_checkpoint_of_a_snapshot_and_of_a_file(wandb_online: Server, tmp_path: Path) -> None:
    model = small_model()
    model.save_weights("a.weights.h5")
    snapshot = lamina.save("a.weights.h5", "repo", metadata={"note": "hello"})
    with wandb.init() as run:
        first = lamina.wandb.log_checkpoint(snapshot, name="weights", aliases=["chosen"], tags=["x"]).wait()
        second = lamina.wandb.log_checkpoint("a.weights.h5", name="weights", description="again").wait()
        plain = lamina.wandb.log_checkpoint("a.weights.h5", layout="file").wait()
        assert publisher_of(run).settle(30)
    versions = wandb_online.store.artifacts("weights")
    assert [v.aliases for v in versions] == [["chosen"], ["latest"]]
    assert versions[0].metadata["note"] == "hello"
    assert versions[0].tags == ["x"]
    assert [first.version, second.version, plain.name] == ["v0", "v1", f"run_{run.id}_model:v0"]
    for name in ("weights:v0", "weights:v1", plain.name):
        assert same_weights(restored(name, small_model), model.get_weights())
    assert not list(Path("repo/journal").glob("*.json"))
    with pytest.raises(ArtifactError, match="no active"):
        lamina.wandb.log_checkpoint(snapshot)


@pytest.mark.parametrize("layout", ["file", "packs"])
def test_metadata_that_json_does_not_have(wandb_online: Server, layout: str) -> None:
    """Values that W&B gets as text must also fit into the journal, or the upload would fail there."""
    given = {"rate": np.float32(0.5), "worst": float("nan"), "when": date(2026, 1, 2), "deep": {"all": [np.arange(2)]}}
    small_model().save_weights("a.weights.h5")
    with wandb.init():
        lamina.wandb.log_checkpoint("a.weights.h5", name="a", layout=layout, metadata=given).wait()
    stored = wandb_online.store.artifact("a:latest").metadata
    wanted = {"rate": 0.5, "worst": "nan", "when": "2026-01-02", "deep": {"all": [[0, 1]]}}
    assert {name: stored[name] for name in given} == wanted


def test_a_diverged_snapshot_is_logged_and_promoted(wandb_online: Server) -> None:
    with lamina.Checkpointer(small_model(), "repo", weights_only=True, monitor="loss") as checkpointer:
        snapshot = checkpointer.save(epoch=0, logs={"loss": float("nan"), "top": float("inf")}, blocking=True)
    with wandb.init():
        lamina.wandb.log_checkpoint(snapshot, name="a").wait()
        lamina.wandb.promote(snapshot, "lamina-tests/models")
    for name in ("a:latest", "models:latest"):
        assert wandb_online.store.artifact(name).metadata["logs"] == {"loss": "nan", "top": "inf"}


def test_best_is_what_is_best_now(wandb_online: Server) -> None:
    """In whatever order snapshots are logged, each of which was the best when it was saved."""
    with lamina.Checkpointer(small_model(), "repo", weights_only=True, monitor="loss") as checkpointer:
        for epoch, loss in enumerate([3.0, 1.0, 2.0]):
            checkpointer.save(epoch=epoch, logs={"loss": loss}, blocking=True)
    first, second, third = lamina.open("repo").snapshots()
    with wandb.init():
        for snapshot in (third, second, first):
            lamina.wandb.log_checkpoint(snapshot, name="a").wait()
    assert wandb_online.store.artifact("a:best").metadata["epoch"] == 1


def test_a_repository_is_no_checkpoint(wandb_online: Server) -> None:
    small_model().save_weights("a.weights.h5")
    lamina.save("a.weights.h5", "repo")
    with wandb.init():
        for wrong in ("repo", Path("repo"), lamina.open("repo"), None, 5):
            for layout in ("packs", "file"):
                with pytest.raises(InvalidInputError, match="takes a checkpoint file, or a snapshot"):
                    lamina.wandb.log_checkpoint(wrong, layout=layout)
    assert not Path(".lamina").exists()


def test_a_short_name_means_the_project_of_the_active_run(wandb_online: Server) -> None:
    """As with `run.use_artifact`; the user's settings name another project."""
    model = small_model()
    model.save_weights("a.weights.h5")
    with wandb.init(project="elsewhere"):
        lamina.wandb.log_checkpoint("a.weights.h5", name="a").wait()
        assert same_weights(restored("a:latest", small_model), model.get_weights())
        assert lamina.wandb.pull("wandb:a", "repo").files == ["a.weights.h5"]
    with pytest.raises(NotFoundError, match="no artifact a:latest"):
        lamina.wandb.open_artifact("wandb:a")


@pytest.mark.parametrize("layout", ["file", "packs"])
def test_names_of_files_in_any_script(wandb_online: Server, layout: str) -> None:
    names = ["モデル\u3000最終.weights.h5", "e\u0301t\u00e9 #1%20?.weights.h5", "👩\u200d🔬.weights.h5"]
    model = small_model()
    with wandb.init():
        for number, name in enumerate(names):
            model.save_weights(name)
            logged = lamina.wandb.log_checkpoint(name, name=f"a{number}", layout=layout).wait()
            (path,) = lamina.export(logged, f"exported-{number}")
            assert (path.name, path.read_bytes()) == (name, Path(name).read_bytes())


def test_packs_survive_retention_while_they_are_on_their_way(wandb_online: Server) -> None:
    """The server is slow, and meanwhile retention keeps only one snapshot."""
    wandb_online.inject(operation="CreateArtifactFiles", delay=0.5, times=None)
    name, remember = logged_run(epochs=4, keep=lamina.Keep(last=1))
    assert wandb_online.store.pending(name) == []
    assert same_weights(restored(f"{name}:latest", small_model), remember.weights[-1])


def test_a_server_that_finds_no_duplicates_gets_no_more(wandb_online: Server) -> None:
    wandb_online.store.policy.dedup = "none"
    logged_run(epochs=4, model=frozen_model((300, 400)))
    packs = [path for path in wandb_online.counters.files if path.endswith(".pack")]
    stored = [path.rpartition("/")[2] for path in packs]
    assert len(stored) == len(set(stored))
    assert wandb_online.errors == []
