"""`WandbModelCheckpoint`: the same versions, aliases and files as the stock callback, without blocking training."""

from __future__ import annotations

import copy
import inspect
import pickle
import time
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import keras
import pytest
import wandb
from hypothesis import given, settings
from hypothesis import strategies as st

import lamina
import offline_run
from lamina.errors import ArtifactError, InvalidInputError
from lamina.keras import WandbModelCheckpoint
from lamina.keras.callbacks.wandb_model_checkpoint import default_repository
from lamina.wandb.description import aliases_of
from lamina.wandb.upload.publisher import publisher_of
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

pytestmark = [pytest.mark.fit, pytest.mark.wandb]

FILE = "ck/m-{epoch}.keras"


class Offline:
    """A run without a server."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.run = wandb.init(mode="offline", dir=str(folder), project="p", **more)
        self.directory = Path(self.run.dir).parent

    def end(self) -> offline_run.OfflineRun:
        self.run.finish()
        return offline_run.read(self.directory)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    run = Offline(tmp_path)
    yield run
    run.run.finish()


# --- The constructor.


def test_it_needs_a_run() -> None:
    assert wandb.run is None
    with pytest.raises(wandb.Error, match=r"wandb\.init\(\)"):
        WandbModelCheckpoint(FILE)


def test_both_documented_orders_of_arguments(offline: Offline) -> None:
    def threshold(*more: Any, **named: Any) -> Any:
        return WandbModelCheckpoint(FILE, "loss", 0, True, False, "min", "epoch", *more, **named).best

    assert threshold(0.5) == 0.5
    assert threshold(None, 0.5) == 0.5
    assert threshold(initial_value_threshold=0.5) == 0.5
    assert threshold() in (None, float("inf"))  # Keras 3.10 compares with infinity
    with pytest.warns(UserWarning, match="options"):
        assert threshold(object(), 0.5) == 0.5
    with pytest.raises(TypeError, match="9 positional"):
        threshold(None, 0.5, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"layout": "zip"}, "layout"),
        ({"on_error": "panic"}, "on_error"),
        ({"artifact": {"colour": 1}}, "colour"),
        ({"name": "a/b"}, "a/b"),
        ({"artifact": {"type": "job"}}, "job"),
        ({"artifact": {"ttl": "soon"}}, "soon"),
        ({"artifact": {"aliases": ["a:b"]}}, "a:b"),
        ({"artifact": {"ttl": timedelta(seconds=-1)}}, "ttl must be .* at least one second"),
        ({"artifact": {"aliases": [5]}}, "5"),
        ({"artifact": {"tags": [None]}}, "None"),
        ({"artifact": {"metadata": {str(n): n for n in range(101)}}}, "101"),
        ({"artifact": {"metadata": {str(n): n for n in range(83)}}}, "83"),
        ({"artifact": {"metadata": "big"}}, "big"),
        ({"artifact": "tags"}, "tags"),
        ({"keep": 3}, "Keep"),
    ],
)
def test_wrong_arguments_are_refused_at_once(offline: Offline, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        WandbModelCheckpoint(FILE, **arguments)


@pytest.mark.parametrize(
    ("filepath", "repository"),
    [
        ("m.keras", ".lamina"),
        ("ck/m-{epoch}.keras", "ck/.lamina"),
        ("ck/{epoch}/m.keras", "ck/.lamina"),
        ("/a/b/{epoch}-{loss}/c/m.keras", "/a/b/.lamina"),
    ],
)
def test_where_packs_go_by_default(filepath: str, repository: str) -> None:
    assert default_repository(filepath) == Path(repository)


def test_it_pickles_and_copies(offline: Offline) -> None:
    checkpoint = WandbModelCheckpoint(FILE, monitor="loss", layout="packs", name="n")
    for twin in (pickle.loads(pickle.dumps(checkpoint)), copy.deepcopy(checkpoint)):
        fit(small_model(), twin, epochs=1)
    assert len(offline.end().artifacts) == 2


# --- Aliases.


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.5, float("nan")]), min_size=1, max_size=12))
def test_aliases_follow_the_rules(values: list[float]) -> None:
    """`best` names the newest version that was better than all before it, `latest` the last, `epoch_N` each epoch."""
    from lamina.keras.schedule.monitoring import BestValue, improves

    so_far = BestValue()
    where: dict[str, int] = {}
    for epoch, value in enumerate(values):
        best = so_far.judge(value, partial(improves, direction="max"))
        for alias in aliases_of(epoch, None, best=best):
            where[alias] = epoch
    numbers = [value for value in values if value == value]
    expected = {"latest": len(values) - 1, **{f"epoch_{n}": n for n in range(len(values))}}
    if numbers:
        expected["best"] = values.index(max(numbers))
    assert where == expected


@pytest.mark.parametrize(
    ("layout", "scores", "best"),
    [
        ("packs", [0.5, 0.4, 0.9, 0.9, 0.1], 2),
        ("file", [0.5, 0.4, 0.9, 0.9, 0.1], 2),
        ("packs", [0.5, float("nan"), 0.4], 0),
    ],
)
def test_aliases_on_the_server(wandb_online: Server, layout: str, scores: list[float], best: int) -> None:
    with wandb.init() as run:
        checkpoint = WandbModelCheckpoint(FILE, monitor="score", mode="max", layout=layout)
        fit(small_model(), Follow(scores), checkpoint, epochs=len(scores))
    versions = wandb_online.store.artifacts(f"run_{run.id}_model")
    assert [f"epoch_{n}" in version.aliases for n, version in enumerate(versions)] == [True] * len(scores)
    assert ["best" in version.aliases for version in versions].index(True) == best
    assert sum("best" in version.aliases for version in versions) == 1
    assert "latest" in versions[-1].aliases


def test_aliases_of_batches_are_those_of_the_stock_callback(offline: Offline) -> None:
    fit(small_model(), WandbModelCheckpoint(FILE, "loss", save_freq=2, layout="packs"), epochs=2)
    found = [set(artifact.aliases) - {"latest", "best"} for artifact in offline.end().artifacts]
    assert found == [{"epoch_0_batch_1"}, {"epoch_1_batch_1"}]


@pytest.mark.parametrize("path", ["ck/m.keras", FILE])
def test_with_save_best_only_nothing_is_logged_that_was_not_saved(offline: Offline, path: str) -> None:
    checkpoint = WandbModelCheckpoint(path, monitor="score", mode="max", save_best_only=True, layout="file")
    fit(small_model(), Follow([0.5, 0.4, 0.9, 0.1]), checkpoint, epochs=4)
    logged = offline.end().artifacts
    found = [set(artifact.aliases) for artifact in logged]
    assert found == [{"latest", "epoch_0", "best"}, {"latest", "epoch_2", "best"}]


# --- layout="file".


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="wandb's own callback imports TensorFlow")
def test_the_file_layout_is_what_the_stock_callback_makes(wandb_online: Server) -> None:
    from wandb.integration.keras import WandbModelCheckpoint as Stock

    found = []
    for kind in (Stock, WandbModelCheckpoint):
        keras.backend.clear_session()
        with wandb.init() as run:
            fit(small_model(), kind("ck/m-{epoch}.weights.h5", monitor="loss", save_weights_only=True), epochs=3)
        found.append((run.id, wandb_online.store.artifacts(f"run_{run.id}_model")))
    (stock_id, stock), (ours_id, ours) = found
    assert [v.name.replace(stock_id, "") for v in stock] == [v.name.replace(ours_id, "") for v in ours]
    assert [v.type for v in stock] == [v.type for v in ours]
    assert [set(v.aliases) for v in stock] == [set(v.aliases) - {"best"} for v in ours]
    entries = [[(e.path, e.digest, e.size) for v in side for e in v.entries.values()] for side in (stock, ours)]
    assert entries[0] == entries[1]


def test_the_file_layout_serves_those_without_lamina(wandb_online: Server, tmp_path: Path) -> None:
    remember = Remember()
    with wandb.init() as run:
        fit(small_model(), remember, WandbModelCheckpoint(FILE, monitor="loss"), epochs=2)
    name = f"run_{run.id}_model"
    folder = Path(wandb.Api().artifact(f"{name}:latest").download(str(tmp_path / "d")))
    assert [path.name for path in folder.iterdir()] == ["m-2.keras"]
    assert same_weights(keras.models.load_model(folder / "m-2.keras"), remember.weights[1])
    with wandb.init() as run:
        assert same_weights(keras.models.load_model(run.use_model(f"{name}:epoch_0")), remember.weights[0])
    assert same_weights(lamina.load_model(f"wandb:{name}:latest"), remember.weights[1])


USE_MODEL = """
import sys, shutil, wandb
with wandb.init() as run:
    shutil.copy(run.use_model(sys.argv[1]), "one.keras")
    shutil.copy(wandb.use_model(sys.argv[1]), "two.keras")
assert not [name for name in sys.modules if name.split(".")[0] == "lamina"]
"""


def test_use_model_without_lamina(wandb_online: Server, tmp_path: Path) -> None:
    remember = Remember()
    with wandb.init() as run:
        fit(small_model(), remember, WandbModelCheckpoint(FILE, monitor="loss"), epochs=2)
    name = f"run_{run.id}_model:epoch_0"
    run_python(USE_MODEL, wandb_online.environment(tmp_path / "theirs"), tmp_path, name)
    for file in ("one.keras", "two.keras"):
        assert same_weights(keras.models.load_model(file), remember.weights[0])
    assert len(wandb_online.store.artifact(name).used_by) == 1


@pytest.mark.parametrize("how", ["in place", "save_weights"])
def test_what_overwrites_the_file_later_is_not_uploaded(wandb_online: Server, how: str) -> None:
    held = wandb_online.inject(method="PUT", path="*.weights.h5", delay=3600)
    remember = Remember()
    with wandb.init() as run:
        model = small_model()
        fit(model, remember, WandbModelCheckpoint("m.weights.h5", "loss", save_weights_only=True), epochs=1)
        until = time.monotonic() + 60
        while not held.hits:
            assert time.monotonic() < until
            time.sleep(0.02)
        if how == "in place":
            with Path("m.weights.h5").open("r+b") as file:  # the same inode
                file.write(b"\0" * Path("m.weights.h5").stat().st_size)
        else:
            model.set_weights([value + 1 for value in model.get_weights()])
            model.save_weights("m.weights.h5", overwrite=True)
        assert wandb_online.counters.total("*.weights.h5").puts == 0
        wandb_online.down = True  # interrupts the upload; the client retries, and reads the file again
        wandb_online.down = False
    assert same_weights(restored(f"run_{run.id}_model:latest", small_model), remember.weights[0])


def test_a_damaged_plain_file_is_named(wandb_online: Server) -> None:
    with wandb.init() as run:
        fit(small_model(), WandbModelCheckpoint(FILE, monitor="loss"), epochs=1)
    wandb_online.inject(method="GET", path="*m-1.keras", corrupt=True, times=None)
    with pytest.raises(lamina.errors.CorruptDataError, match=r"m-1\.keras"):
        lamina.load_model(f"wandb:run_{run.id}_model:latest")


def test_uploaded_copies_do_not_stay(wandb_online: Server) -> None:
    with wandb.init() as run:
        folder = Path(run.dir).parent
        fit(small_model(), WandbModelCheckpoint(FILE, monitor="loss"), epochs=3)
    assert [path for path in (folder / "lamina").rglob("*") if path.is_file()] == []


# --- Metadata of a version.


def test_metadata_figures_and_options(wandb_online: Server) -> None:
    options = {"tags": ["t"], "ttl": timedelta(days=3), "description": "d", "metadata": {"note": 1},
               "aliases": ["mine"], "type": "weights-model"}  # fmt: skip
    with wandb.init() as run:
        checkpoint = WandbModelCheckpoint(
            FILE, monitor="loss", layout="packs", name="n", artifact=options, log_stats=True
        )
        fit(small_model(), checkpoint, epochs=2)
    first, second = wandb_online.store.artifacts("n")
    assert second.aliases == ["best", "epoch_1", "latest", "mine"]
    assert (second.tags, second.ttl, second.description) == (["t"], timedelta(days=3), "d")
    assert second.type == "weights-model"
    metadata = second.metadata
    assert metadata["note"] == 1
    assert (metadata["epoch"], metadata["step"], metadata["monitor"], metadata["best"]) == (1, 4, "loss", True)
    assert metadata["logs"]["loss"] == metadata["value"]
    assert metadata["blocked_seconds"] > 0
    assert metadata["bytes_stored"] < first.metadata["bytes_total"]
    summary = wandb_online.store.summary(run.id)
    assert summary["checkpoint/versions"] == 2
    assert summary["checkpoint/blocked_seconds"] > 0
    assert summary["checkpoint/bytes_total"] == first.metadata["bytes_total"] + metadata["bytes_total"]
    (row,) = (row for row in wandb_online.store.history(run.id) if "checkpoint/bytes_total" in row)
    assert row["checkpoint/bytes_stored"] == sum(version.metadata["bytes_stored"] for version in (first, second))


def test_the_history_stays_the_users(offline: Offline) -> None:
    class Log(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            offline.run.log({"mine": epoch}, step=10 * epoch)

    fit(small_model(), WandbModelCheckpoint(FILE, monitor="loss"), Log(), epochs=3)
    recorded = offline.end()
    assert recorded.column("mine") == [0, 1, 2]
    assert not any(key.startswith("checkpoint/") for row in recorded.history for key in row)
    assert (
        recorded.summary["checkpoint"]["versions"] == 3
        if "checkpoint" in recorded.summary
        else (recorded.summary["checkpoint/versions"] == 3)
    )
    assert "keras_model_checkpoint" in recorded.features


def test_figures_in_the_history_replace_none(offline: Offline) -> None:
    """With more saves than rows of the user, a row has the sums of the saves since the previous row."""

    class Log(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch % 3 == 2:
                offline.run.log({"mine": epoch}, step=10 * epoch)

    checkpoint = WandbModelCheckpoint(FILE, monitor="loss", blocking=True, log_stats=True)
    fit(small_model(), checkpoint, Log(), epochs=9)
    offline.run.log({"mine": 9}, step=90)
    del checkpoint
    recorded = offline.end()
    assert recorded.column("mine") == [2, 5, 8, 9]
    assert len(recorded.column("checkpoint/bytes_total")) == 4
    assert recorded.summary["checkpoint/bytes_total"] == sum(recorded.column("checkpoint/bytes_total"))


def test_figures_take_no_step_of_a_run_that_goes_on(wandb_online: Server) -> None:
    """Rows with the user's ``step=`` in a resumed run: W&B drops a row with an earlier step."""
    for first in (0, 4):
        with wandb.init(id="stats", resume="allow") as run:

            class Log(keras.callbacks.Callback):
                def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                    if epoch % 2 == 0:
                        run.log({"mine": epoch}, step=epoch)

            checkpoint = WandbModelCheckpoint(FILE, monitor="loss", log_stats=True)
            fit(small_model(), Log(), checkpoint, initial_epoch=first, epochs=first + 4)
    history = wandb_online.store.history("stats")
    assert [row["mine"] for row in history if "mine" in row] == [0, 2, 4, 6]
    total = sum(row.get("checkpoint/bytes_total", 0) for row in history)
    assert total == sum(version.metadata["bytes_total"] for version in wandb_online.store.artifacts("run_stats_model"))


def test_figures_of_a_fit_that_failed_arrive(wandb_online: Server) -> None:
    class Fail(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            raise RuntimeError("mine")

    with wandb.init(id="failed"):
        checkpoint = WandbModelCheckpoint(FILE, monitor="loss", log_stats=True)
        with pytest.raises(RuntimeError, match="mine"):
            fit(small_model(), checkpoint, Fail(), epochs=2)
    (row,) = (row for row in wandb_online.store.history("failed") if "checkpoint/bytes_total" in row)
    assert row["checkpoint/blocked_seconds"] > 0


def test_a_subclass_changes_the_artifact(wandb_online: Server, tmp_path: Path) -> None:
    class Mine(WandbModelCheckpoint):
        def make_artifact(self, commit: Any) -> Any:
            if commit.epoch == 0:
                return None
            artifact = super().make_artifact(commit)
            artifact.metadata["mine"] = commit.epoch
            notes = tmp_path / "notes.txt"
            notes.write_text(f"epoch {commit.epoch}")
            artifact.add_file(str(notes), "notes/today.txt")
            return artifact

        def make_aliases(self, commit: Any) -> list[str]:
            return ["only-this"]

    with wandb.init() as run:
        fit(small_model(), Mine(FILE, monitor="loss", layout="packs"), epochs=2)
    name = f"run_{run.id}_model"
    (version,) = wandb_online.store.artifacts(name)
    assert (version.aliases, version.metadata["mine"]) == (["latest", "only-this"], 1)
    assert wandb_online.store.file_bytes(f"{name}:latest", "notes/today.txt") == b"epoch 1"
    restored(f"{name}:latest", small_model)


# --- Trouble.


def test_a_slow_server_does_not_slow_training(wandb_online: Server) -> None:
    times = []

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            times.append(time.monotonic())

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            times.append(time.monotonic())

    with wandb.init() as run:
        publisher_of(run)
        model = small_model()
        checkpoint = WandbModelCheckpoint("m.weights.h5", "loss", save_weights_only=True, layout="packs")
        fit(model, checkpoint, epochs=1)
        wandb_online.inject(delay=0.3, operation="*", times=None)
        fit(model, checkpoint, Clock(), epochs=3)
        wandb_online.clear_faults()
    assert times[-1] - times[0] < 1.0
    assert len(wandb_online.store.artifacts(f"run_{run.id}_model")) == 4


def test_trouble_is_a_warning_and_an_alert(wandb_online: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    alerts = []
    with wandb.init() as run:
        monkeypatch.setattr(run, "alert", lambda *args, **named: alerts.append(args))
        monkeypatch.setattr(run, "log_artifact", _refuse)
        with pytest.warns(UserWarning, match="no thanks.*lamina push"):
            fit(small_model(), WandbModelCheckpoint(FILE, monitor="loss", layout="packs"), epochs=3)
    assert len(alerts) == 1
    assert Path("ck/m-3.keras").exists()
    assert len(list(Path("ck/.lamina/journal").glob("*.json"))) == 3


def test_trouble_is_raised_where_that_is_wanted(wandb_online: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with wandb.init() as run:
        monkeypatch.setattr(run, "log_artifact", _refuse)
        checkpoint = WandbModelCheckpoint(FILE, monitor="loss", layout="packs", on_error="raise")
        with pytest.raises(ArtifactError, match="no thanks"):
            fit(small_model(), checkpoint, epochs=3)


def _refuse(*_: Any, **__: Any) -> Any:
    raise ValueError("no thanks")


def test_warnings_as_errors_do_not_end_training(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline.run, "log_artifact", _refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(small_model(), WandbModelCheckpoint(FILE, monitor="loss"), epochs=2)


def test_an_exception_in_fit_loses_nothing(wandb_online: Server) -> None:
    class Fail(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch == 2:
                raise RuntimeError("mine")

    def train() -> None:
        with wandb.init(id="failing"):
            checkpoint = WandbModelCheckpoint(FILE, monitor="loss", layout="packs")
            fit(small_model(), checkpoint, Fail(), epochs=5)

    with pytest.raises(RuntimeError, match="mine"):
        train()
    assert len(wandb_online.store.artifacts("run_failing_model")) == 3
    assert not list(Path("ck/.lamina/journal").glob("*.json"))


def test_a_disabled_run_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with wandb.init(mode="disabled") as run:
        fit(small_model(), WandbModelCheckpoint(FILE, monitor="loss", layout="packs"), epochs=2)
        lamina.wandb.log_checkpoint("ck/m-1.keras")
    assert Path("ck/m-2.keras").exists()
    assert len(lamina.open("ck/.lamina").snapshots()) == 2
    assert not (Path(run.dir).parent / "lamina").exists()


def test_two_callbacks_in_one_fit(wandb_online: Server) -> None:
    with wandb.init() as run:
        both = [
            WandbModelCheckpoint("a.keras", "loss", layout="packs", name="a", repository="repo"),
            WandbModelCheckpoint(
                "b.weights.h5", "loss", save_weights_only=True, layout="packs", name="b", repository="repo"
            ),
        ]
        fit(small_model(), *both, epochs=3)
    assert run is not None
    assert [len(wandb_online.store.artifacts(name)) for name in "ab"] == [3, 3]
    assert wandb_online.store.summary(run.id)["checkpoint/versions"] == 6
    restored("b:latest", small_model)


def test_one_callback_in_several_runs(wandb_online: Server) -> None:
    checkpoint, ids = None, []
    for _ in range(2):
        with wandb.init() as run:
            ids.append(run.id)
            checkpoint = checkpoint or WandbModelCheckpoint("m.weights.h5", "loss", save_weights_only=True)
            fit(small_model(), checkpoint, epochs=2)
    assert [len(wandb_online.store.artifacts(f"run_{name}_model")) for name in ids] == [2, 2]
    assert [wandb_online.store.summary(name)["checkpoint/versions"] for name in ids] == [2, 2]


def test_as_many_keys_of_metadata_as_fit(offline: Offline) -> None:
    given = {str(number): number for number in range(82)}
    checkpoint = WandbModelCheckpoint(FILE, "loss", layout="packs", save_freq=1, artifact={"metadata": given})
    fit(small_model(), checkpoint, epochs=1)
    kept = offline.end().artifacts_of("model")[-1].metadata
    assert len(kept) == 100
    assert given.items() <= kept.items()
    assert {"batch", "bytes_stored", "saved"} <= kept.keys()


def test_runs_one_after_the_other_in_one_process(wandb_online: Server) -> None:
    for _ in range(2):
        with wandb.init() as run:
            fit(small_model(), WandbModelCheckpoint("m.keras", "loss", layout="packs"), epochs=2)
        assert len(wandb_online.store.artifacts(f"run_{run.id}_model")) == 2


def test_a_resumed_run_goes_on_with_its_versions(wandb_online: Server) -> None:
    for _ in range(2):
        with wandb.init(id="spot", resume="allow"):
            checkpoint = WandbModelCheckpoint("m.weights.h5", "loss", save_weights_only=True, layout="packs")
            fit(frozen_model((300, 400)), checkpoint, epochs=2)
    assert wandb_online.store.summary("spot")["checkpoint/versions"] == 4
    first, *rest = wandb_online.store.artifacts("run_spot_model")
    carried = [e for v in rest for e in v.entries.values() if e.birth_artifact_id == first.id]
    assert len(rest) == 3
    assert len([e for e in carried if e.path.endswith(".pack")]) >= 3


def test_a_run_goes_on_on_another_machine(wandb_online: Server) -> None:
    remember = Remember()
    with wandb.init(id="spot", resume="allow"):
        first = WandbModelCheckpoint("one/m.weights.h5", "loss", save_weights_only=True, layout="packs")
        fit(small_model(), remember, first, epochs=2)
    with wandb.init(id="spot", resume="allow"):
        model = small_model()
        begun = []

        class Look(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                begun.append((epoch, same_weights(self.model, remember.weights[1])))

        second = WandbModelCheckpoint("two/m.weights.h5", "loss", save_weights_only=True, layout="packs", resume=True)
        fit(model, second, Look(), epochs=3)
    assert begun[0] == (2, True)
    versions = wandb_online.store.artifacts("run_spot_model")
    assert [version.metadata["epoch"] for version in versions] == [0, 1, 2]


def test_an_old_release_is_warned_of() -> None:
    from lamina.wandb.server import check_release

    check_release()
    with pytest.warns(UserWarning, match=r"0\.29\.0"):
        check_release("0.29.0")


def test_one_can_wait_until_the_server_has_every_version(wandb_online: Server) -> None:
    wandb_online.inject(method="PUT", path="*.keras", delay=1.0)
    with wandb.init() as run:
        checkpoint = WandbModelCheckpoint(FILE, monitor="loss")
        fit(small_model(), checkpoint, epochs=2)
        assert not checkpoint.wait(0.0, uploads=True)
        assert checkpoint.wait(uploads=True)
        versions = wandb_online.store.artifacts(f"run_{run.id}_model")
        assert "latest" in versions[-1].aliases
        assert "epoch_1" in versions[-1].aliases


def test_a_series_may_differ_from_the_artifact(offline: Offline) -> None:
    fit(small_model(), WandbModelCheckpoint(FILE, "loss", layout="packs", name="n", series="mine"), epochs=1)
    assert lamina.open("ck/.lamina").series == ["mine"]
    assert [artifact.name.partition(":")[0] for artifact in offline.end().artifacts] == ["n"]


def test_all_keywords_are_spelled_out() -> None:
    stock = inspect.signature(lamina.keras.ModelCheckpoint).parameters
    ours = inspect.signature(WandbModelCheckpoint).parameters
    assert stock.keys() - ours.keys() == set()
    spelled = {name for name in stock if name not in ("unknown", "initial_value_threshold", "options")}
    assert [name for name in spelled if stock[name].annotation != ours[name].annotation] == []
    assert [name for name in spelled if stock[name].default != ours[name].default] == []
