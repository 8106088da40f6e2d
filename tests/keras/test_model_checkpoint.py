"""`ModelCheckpoint` besides its files: decisions, backlog, failures, copies, reports."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import shutil
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import lamina
from keras_training import fit_on
from lamina.errors import InvalidInputError, UnsupportedFormatError
from lamina.keras import ModelCheckpoint
from lamina.keras.capture.arena import Arena
from lamina.keras.capture.model_identity import ModelIdentity
from lamina.keras.capture.planned_file import PlannedFile
from lamina.keras.capture.planner import Planner
from lamina.keras.saving import job, saver
from lamina.keras.saving.commit import Commit
from lamina.keras.saving.pipeline import Pipeline

pytestmark = [pytest.mark.fit, pytest.mark.keras, pytest.mark.backend]

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")


def network(**arguments: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8), layers.Dense(4)])
    model.compile("adam", "mse", **arguments)
    return model


fit = fit_on(X, X)


def drive(callback: ModelCheckpoint, values: list[Any], monitor: str = "val_loss") -> None:
    """Call the hooks of epochs with these values of the metric, without training."""
    callback.on_train_begin()
    for epoch, value in enumerate(values):
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, {} if value is None else {monitor: value})
    callback.on_train_end()


def attached(folder: Path, name: str = "m.weights.h5", **arguments: Any) -> tuple[ModelCheckpoint, list[Commit]]:
    commits: list[Commit] = []
    arguments.setdefault("save_weights_only", True)
    callback = ModelCheckpoint(folder / name, on_commit=commits.append, **arguments)
    callback.set_model(network())
    return callback, commits


class Gate:
    """Blocks the writing of each plain file until it is released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes = threading.Semaphore(0)
        self.entered = threading.Event()
        write = PlannedFile.write

        def gated(content: PlannedFile, path: str) -> None:
            self.entered.set()
            assert self.passes.acquire(timeout=30)
            write(content, path)

        monkeypatch.setattr(PlannedFile, "write", gated)


# Arguments.


def test_it_is_a_keras_callback_with_keras_arguments_in_their_order(tmp_path: Path) -> None:
    callback = ModelCheckpoint(tmp_path / "m.weights.h5", "loss", 1, True, True, "min", 3, 0.5)
    assert isinstance(callback, keras.callbacks.ModelCheckpoint)
    assert callback.filepath == str(tmp_path / "m.weights.h5")
    assert (callback.monitor, callback.verbose, callback.save_best_only, callback.save_weights_only) == (
        "loss",
        1,
        True,
        True,
    )
    assert (callback.mode, callback.save_freq, callback.best) == ("min", 3, 0.5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"codec": "lzma"},
        {"on_backlog": "drop"},
        {"keep": 3},
        {"keep": lamina.Keep(last=1)},
        {"resume": True},
        {"keep_file": False},
        {"threads": 0},
        {"blocking": "yes"},
        {"on_commit": 3},
        {"track": "EarlyStopping"},
        {"track": ["EarlyStopping"]},
        {"repository": 3},
        {"repository": ""},
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        ModelCheckpoint("m.keras", **arguments)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"filepath": "m.txt"}, "must end in `.keras`"),
        ({"filepath": "m.keras", "save_weights_only": True}, "must end in `.weights.h5`"),
        ({"filepath": "m.keras", "save_freq": "batch"}, "Unrecognized save_freq"),
    ],
)
def test_errors_of_keras_are_those_of_keras(arguments: dict[str, Any], text: str) -> None:
    for kind in (ModelCheckpoint, keras.callbacks.ModelCheckpoint):
        with pytest.raises(ValueError, match=text):
            kind(**arguments)


def test_a_placeholder_that_no_metric_fills_is_keras_error(tmp_path: Path) -> None:
    callback, _ = attached(tmp_path, "{val_top}.weights.h5")
    with pytest.raises(KeyError, match="Failed to format this callback filepath"):
        drive(callback, [1.0])


def test_a_directory_in_the_place_of_the_file_is_keras_error(tmp_path: Path) -> None:
    (tmp_path / "m.weights.h5").mkdir()
    callback, _ = attached(tmp_path)
    with pytest.raises(OSError, match="Please specify a non-directory filepath"):
        drive(callback, [1.0])


# Decisions.


def test_messages_are_those_of_keras(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for kind in (keras.callbacks.ModelCheckpoint, ModelCheckpoint):
        callback = kind(tmp_path / "{epoch}.weights.h5", verbose=1, save_best_only=True, save_weights_only=True)
        callback.set_model(network())
        callback.on_train_begin()
        for epoch, value in enumerate([3.0, 4.0, 2.0]):
            callback.on_epoch_begin(epoch)
            callback.on_epoch_end(epoch, {"val_loss": value})
            if kind is ModelCheckpoint:
                callback.wait()
        callback.on_train_end()
        told.append([line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch")])
    if not any("finished saving" in line for line in told[0]):  # Keras before 3.13 does not print it
        told[1] = [line for line in told[1] if "finished saving" not in line]
    assert told[0] == told[1]
    assert any("did not improve from" in line for line in told[1])


def test_finished_is_told_at_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = Gate(monkeypatch)
    callback, _ = attached(tmp_path, verbose=1)
    callback.on_train_begin()
    callback.on_epoch_end(0, {"val_loss": 1.0})
    assert "finished saving" not in capsys.readouterr().out
    gate.passes.release()
    callback.wait()
    assert "finished saving model to" in capsys.readouterr().out


@pytest.mark.parametrize("spe", [1, 4])
def test_saves_happen_at_the_batches_of_keras(spe: int, tmp_path: Path) -> None:
    if spe > 1 and keras.backend.backend() == "torch":
        pytest.skip("Keras on torch takes one step at a time")
    x = np.zeros((64, 4), "float32")
    names = []
    for kind in (keras.callbacks.ModelCheckpoint, ModelCheckpoint):
        folder = tmp_path / kind.__module__
        callback = kind(folder / "{epoch}-{batch}.weights.h5", save_weights_only=True, save_freq=6)
        model = network(steps_per_execution=spe)
        model.fit(x, x, batch_size=4, epochs=2, verbose=0, callbacks=[callback])
        names.append(sorted(path.name for path in folder.iterdir()))
    assert names[0] == names[1]
    assert names[0]


def test_best_only_with_batches_needs_no_first_epoch(tmp_path: Path) -> None:
    callback, commits = attached(tmp_path, save_best_only=True, save_freq=1, monitor="loss")
    fit(network(), callback)
    assert commits
    assert all(commit.best and commit.mode == "min" for commit in commits)


def test_nan_is_never_the_best(tmp_path: Path) -> None:
    callback, commits = attached(tmp_path, save_best_only=True)
    drive(callback, [float("nan"), 5.0, float("nan"), 4.0])
    assert [commit.epoch for commit in commits] == [1, 3]
    callback, commits = attached(tmp_path, initial_value_threshold=float("nan"))
    drive(callback, [float("nan"), 5.0, float("nan"), 6.0])
    assert [commit.best for commit in commits] == [False, True, False, False]


def test_values_are_compared_as_keras_compares_them(tmp_path: Path) -> None:
    made = []
    for kind in (ModelCheckpoint, keras.callbacks.ModelCheckpoint):
        folder = tmp_path / kind.__module__
        callback = kind(folder / "{epoch}.weights.h5", save_weights_only=True, save_best_only=True, mode="min")
        callback.set_model(network())
        drive(callback, [0.1 + 0.2, 0.3, 0.3 - 1e-10, 0.2])
        made.append(sorted(path.name for path in folder.iterdir()))
    # From 3.11 on, values are tensors of 32 bits.
    few = keras.__version__ != "3.10.0"
    assert made == [[f"{epoch}.weights.h5" for epoch in ((1, 4) if few else (1, 2, 3, 4))]] * 2


@pytest.mark.parametrize("best_only", [False, True])
def test_an_unknown_direction_stops_nothing(best_only: bool, tmp_path: Path) -> None:
    callback, commits = attached(tmp_path, monitor="fancy", save_best_only=best_only)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        drive(callback, [1.0, 2.0, 0.5], monitor="fancy")
    assert [(commit.best, commit.mode, commit.value) for commit in commits] == [
        (False, None, 1.0),
        (False, None, 2.0),
        (False, None, 0.5),
    ]
    assert sum("cannot tell whether" in str(w.message) for w in caught) == 1


@pytest.mark.parametrize("monitor", ["loss", "val_loss", "val_head_loss"])
def test_less_of_a_loss_is_better(monitor: str, tmp_path: Path) -> None:
    callback, commits = attached(tmp_path, monitor=monitor)
    drive(callback, [1.0, 2.0, 0.5], monitor=monitor)
    assert [(commit.best, commit.mode) for commit in commits] == [(True, "min"), (False, "min"), (True, "min")]


@pytest.mark.backend
@pytest.mark.parametrize("best_only", [False, True])
def test_the_metric_itself_knows_its_direction(best_only: bool, tmp_path: Path) -> None:
    """The metric knows its direction, its name does not: Keras 3.10 would minimize it."""
    commits: list[Commit] = []
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=[keras.metrics.R2Score(name="fit")])
    model.fit(np.eye(2), np.ones((2, 1)), verbose=0)
    arguments: dict[str, Any] = {"monitor": "fit", "save_best_only": best_only, "save_weights_only": True}
    callback = ModelCheckpoint(tmp_path / "m.weights.h5", verbose=1, on_commit=commits.append, **arguments)
    callback.set_model(model)
    drive(callback, [0.5, 0.25, 0.75], monitor="fit")
    assert [commit.value for commit in commits if commit.best] == [0.5, 0.75]
    assert {commit.mode for commit in commits} == {"max"}
    assert len(commits) == (2 if best_only else 3)


def test_a_monitor_that_is_never_logged_stops_nothing(tmp_path: Path) -> None:
    callback, commits = attached(tmp_path, monitor="nothing")
    with pytest.warns(UserWarning, match="cannot tell whether a higher"):
        fit(callback.model, callback)
    assert [(commit.value, commit.best) for commit in commits] == [(None, False), (None, False)]
    callback, commits = attached(tmp_path, monitor="nothing", save_best_only=True)
    with pytest.warns(UserWarning, match="Can save best model only with nothing available"):
        fit(callback.model, callback)
    assert len(commits) == 2


def test_an_array_is_saved_with_keras_warning(tmp_path: Path) -> None:
    callback, commits = attached(tmp_path, save_best_only=True)
    with pytest.warns(UserWarning, match="a scalar value"):
        drive(callback, [np.array([1.0, 2.0])])
    assert [commit.best for commit in commits] == [False]


def test_a_validation_metric_at_batches_warns_at_once(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="validation metrics only at the end of an epoch"):
        ModelCheckpoint("m.keras", monitor="val_accuracy", save_freq=10)
    with pytest.warns(UserWarning, match="validation metrics"):
        ModelCheckpoint("m.keras", save_best_only=True, save_freq=10)
    with pytest.warns(UserWarning, match="uses 'val_loss'"):
        ModelCheckpoint("m-{val_loss:.2f}.keras", save_freq=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ModelCheckpoint("m.keras", save_freq=10)


def test_a_validation_metric_in_a_batch_s_file_name_is_the_last_one(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="validation metrics"):
        callback, commits = attached(tmp_path, "{epoch}-{batch}-{val_loss:.1f}.weights.h5", save_freq=2)
    fit(callback.model, callback, validation_data=(X, X), batch_size=len(X) // 4)
    names = [str(commit.path.name) for commit in commits]
    assert names[:2] == ["1-2-nan.weights.h5", "1-4-nan.weights.h5"]
    assert [name[:4] for name in names[2:]] == ["2-2-", "2-4-"]
    assert "nan" not in "".join(names[2:])


def test_the_threshold_also_holds_for_the_best_mark(tmp_path: Path) -> None:
    callback, commits = attached(tmp_path, repository=tmp_path / "r", initial_value_threshold=2.0)
    drive(callback, [3.0, 1.5, 1.7, 1.0])
    assert [commit.best for commit in commits] == [False, True, False, True]
    assert lamina.open(tmp_path / "r").snapshot("best").epoch == 3
    assert callback.best_snapshot is not None
    assert callback.best_snapshot.epoch == 3
    callback, commits = attached(tmp_path, monitor="val_acc", mode="max")
    drive(callback, [0.1, 0.3, 0.2], monitor="val_acc")
    assert [(commit.best, commit.mode) for commit in commits] == [(True, "max"), (True, "max"), (False, "max")]


@pytest.mark.parametrize("bare", [True, False])
def test_a_bare_callback_saves_each_step_as_it_was(bare: bool, tmp_path: Path) -> None:
    seen: dict[int, Any] = {}

    class Noting(ModelCheckpoint):
        def _save(self, path: str, weights_only: bool, **arguments: Any) -> None:
            kernel = keras.ops.convert_to_numpy(self._model.layers[0].kernel.value)
            seen[int(Path(path).name.split(".")[0])] = np.array(kernel)
            super()._save(path, weights_only, **arguments)

    callback = Noting(tmp_path / "{batch}.weights.h5", save_weights_only=True, save_freq=1)
    model = network()
    model.fit(X, X, batch_size=4, epochs=1, verbose=0, callbacks=callback if bare else [callback])
    assert sorted(seen) == list(range(1, 9))
    found = [lamina.read_tensors(tmp_path / f"{batch}.weights.h5")["layers/dense/vars/0"] for batch in seen]
    steps = [int(lamina.read_tensors(tmp_path / f"{batch}.weights.h5")["optimizer/vars/0"]) for batch in sorted(seen)]
    assert steps == list(range(1, 9))
    assert all(np.array_equal(a, b) for a, b in zip(found, seen.values(), strict=True))


# Backlog.


def test_wait_keeps_every_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.keras.saving.pipeline.SMALL_BYTES", 0)
    gate = Gate(monkeypatch)
    callback, commits = attached(tmp_path, "{epoch}.weights.h5")
    callback.on_train_begin()
    callback.on_epoch_end(0, {"val_loss": 1.0})
    assert gate.entered.wait(30)
    late = threading.Thread(target=callback.on_epoch_end, args=(1, {"val_loss": 0.5}))
    late.start()
    late.join(0.3)
    assert late.is_alive()  # the first one uses the memory
    gate.passes.release(2)
    late.join(30)
    callback.wait()
    assert [commit.epoch for commit in commits] == [0, 1]


def test_replace_lets_the_waiting_save_give_way_but_never_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lamina.keras.saving.pipeline.SMALL_BYTES", 0)
    gate = Gate(monkeypatch)
    callback, commits = attached(tmp_path, "{epoch}.weights.h5", on_backlog="replace", repository=tmp_path / "r")
    callback.on_train_begin()
    for epoch, value in enumerate([5.0, 6.0, 7.0, 8.0]):  # 0 runs, 1 and 2 are skipped
        callback.on_epoch_end(epoch, {"val_loss": value})
        if epoch == 0:
            assert gate.entered.wait(30)
    gate.passes.release(10)
    callback.wait()
    assert [(commit.epoch, commit.replaced) for commit in commits] == [(0, 0), (3, 1)]
    assert callback.last_snapshot is not None
    assert callback.last_snapshot.metadata == {"replaced": 1}
    assert capsys.readouterr().out.count("skipped ") == 2


def test_replace_waits_for_a_best_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.keras.saving.pipeline.SMALL_BYTES", 0)
    gate = Gate(monkeypatch)
    callback, commits = attached(tmp_path, "{epoch}.weights.h5", on_backlog="replace")
    callback.on_train_begin()
    callback.on_epoch_end(0, {"val_loss": 5.0})
    assert gate.entered.wait(30)
    callback.on_epoch_end(1, {"val_loss": 1.0})  # the best one: it must not be skipped
    late = threading.Thread(target=callback.on_epoch_end, args=(2, {"val_loss": 3.0}))
    late.start()
    late.join(0.3)
    assert late.is_alive()
    gate.passes.release(10)
    late.join(30)
    callback.wait()
    assert [commit.epoch for commit in commits] == [0, 1, 2]


def test_small_saves_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    callback, commits = attached(tmp_path, "{epoch}.weights.h5")
    callback.on_train_begin()
    for epoch in range(10):
        callback.on_epoch_end(epoch, {"val_loss": 1.0})
    assert not callback.wait(0.01)
    gate.passes.release(10)
    assert callback.wait()
    assert [commit.epoch for commit in commits] == list(range(10))


def test_blocking_returns_when_it_is_committed(tmp_path: Path) -> None:
    callback, commits = attached(tmp_path, blocking=True)
    callback.on_train_begin()
    callback.on_epoch_end(0, {"val_loss": 1.0})
    assert len(commits) == 1
    assert (tmp_path / "m.weights.h5").exists()


# Reports and paths.


def test_a_commit_tells_what_was_saved(tmp_path: Path) -> None:
    callback, commits = attached(tmp_path, "{epoch}.weights.h5", repository=tmp_path / "r")
    fit(callback.model, callback, validation_data=(X, X))
    first, second = commits
    assert (first.path, first.epoch, first.batch, first.step) == (tmp_path / "1.weights.h5", 0, None, 4)
    assert second.snapshot == callback.last_snapshot
    assert first.logs.keys() == {"loss", "val_loss"}
    assert first.bytes == (tmp_path / "1.weights.h5").stat().st_size
    assert 0 < first.blocked_seconds < 10
    snapshot = second.snapshot
    assert snapshot is not None
    assert (snapshot.epoch, snapshot.batch, snapshot.step, snapshot.next_epoch) == (1, None, 8, 2)
    assert (snapshot.series, snapshot.kind, snapshot.mode) == ("{epoch}.weights.h5", "weights", "min")
    assert snapshot.value == pytest.approx(second.value)
    assert snapshot.blocked_seconds == pytest.approx(second.blocked_seconds)
    assert snapshot.capture_seconds is not None
    assert snapshot.wait_seconds is not None
    assert snapshot.capture_seconds + snapshot.wait_seconds == pytest.approx(snapshot.blocked_seconds)


def test_blocked_time_is_a_wait_for_an_earlier_save_and_a_capture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def taking(seconds: float, function: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal now
            now += seconds
            return function(*arguments, **more)

        return call

    callback, _ = attached(tmp_path, "{epoch}.weights.h5", repository=tmp_path / "r")
    monkeypatch.setattr(saver, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(Pipeline, "admit", taking(5.0, Pipeline.admit))
    monkeypatch.setattr(Planner, "capture", taking(2.0, Planner.capture))
    drive(callback, [1.0])
    snapshot = callback.last_snapshot
    assert snapshot is not None
    assert (snapshot.wait_seconds, snapshot.capture_seconds, snapshot.blocked_seconds) == (5.0, 2.0, 7.0)


def test_a_snapshot_without_the_parts_of_blocked_time_has_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    snapshot = lamina.save(tmp_path / "a.txt", tmp_path / "r")
    assert (snapshot.capture_seconds, snapshot.wait_seconds) == (None, None)


def test_without_the_plain_file_there_is_only_the_snapshot(tmp_path: Path) -> None:
    callback, commits = attached(tmp_path / "files", keep_file=False, repository=tmp_path / "r")
    fit(callback.model, callback)
    assert not list((tmp_path / "files").iterdir())
    assert [commit.path for commit in commits] == [None, None]
    assert len(lamina.open(tmp_path / "r").snapshots()) == 2


def test_copy_to_writes_the_file_again(tmp_path: Path) -> None:
    copied = []

    def copies(commit: Commit) -> None:
        commit.copy_to(tmp_path / "copy")
        assert commit.path is not None
        copied.append((tmp_path / "copy").read_bytes() == commit.path.read_bytes())

    for name in ("m.weights.h5", "m.h5"):
        callback = ModelCheckpoint(tmp_path / name, save_weights_only=name != "m.h5", on_commit=copies)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit(network(), callback)
    assert copied == [True] * 4


def test_where_locks_do_not_work_saves_go_on_and_say_what_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file system here lacks locks; the engine's own tests cover that error."""

    def refuse(*_: Any, **__: Any) -> None:
        raise UnsupportedFormatError("file locks do not work here")

    monkeypatch.setattr(lamina.repository.repository.Repository, "prune", refuse)
    callback, _ = attached(tmp_path, repository=tmp_path / "r", keep=lamina.Keep(last=1))
    with pytest.warns(UserWarning, match="keep= cannot delete old snapshots here: file locks do not work"):
        drive(callback, [3.0, 2.0])
    assert len(lamina.open(tmp_path / "r").snapshots()) == 2


def test_retention_holds_what_it_says(tmp_path: Path) -> None:
    callback, _ = attached(tmp_path, repository=tmp_path / "r", keep=lamina.Keep(last=2))
    fit(callback.model, callback, epochs=5)
    assert [snapshot.epoch for snapshot in lamina.open(tmp_path / "r").snapshots()] == [3, 4]


def test_below_the_reserve_only_the_plain_file_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "RESERVE_BYTES", shutil.disk_usage(tmp_path).total * 2)
    callback, commits = attached(tmp_path, repository=tmp_path / "r", keep_file=False)
    with pytest.warns(UserWarning, match="saved only the plain file"):
        fit(callback.model, callback, epochs=1)
    assert commits[0].snapshot is None
    assert (tmp_path / "m.weights.h5").exists()


def test_files_have_the_mode_that_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for name in ("m.weights.h5", "m.keras", "m.h5"):
            callback = ModelCheckpoint(tmp_path / name, save_weights_only="weights" in name)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fit(network(), callback, epochs=1)
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_only_the_first_of_several_processes_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.keras.callbacks.model_checkpoint.saves_here", lambda: False)
    callback, commits = attached(tmp_path, repository=tmp_path / "r")
    fit(callback.model, callback)
    assert not commits
    assert not list(tmp_path.iterdir())


# Failures.


class Refusing:
    """Raises "disk full" for some saves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, full: set[int]) -> None:
        self.count = 0
        write = PlannedFile.write

        def refuse(content: PlannedFile, path: str) -> None:
            self.count += 1
            if self.count in full:
                raise OSError(28, "No space left on device")
            write(content, path)

        monkeypatch.setattr(PlannedFile, "write", refuse)


def test_a_failure_raises_at_the_next_hook_and_gives_the_best_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Refusing(monkeypatch, {2})
    callback, commits = attached(tmp_path, save_best_only=True)
    callback.on_train_begin()
    callback.on_epoch_end(0, {"val_loss": 3.0})
    callback.on_epoch_end(1, {"val_loss": 2.0})
    callback._saver.wait()  # private: `callback.wait` itself would raise the failure
    with pytest.raises(OSError, match="No space left"):
        callback.on_train_batch_begin(0)
    assert callback.best == 3.0
    callback.on_epoch_end(2, {"val_loss": 2.5})  # better than what is on disk
    callback.on_train_end()
    assert [(commit.epoch, commit.best) for commit in commits] == [(0, True), (2, True)]


def test_a_failure_raises_at_the_end_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Refusing(monkeypatch, {1})
    callback, commits = attached(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        fit(callback.model, callback, epochs=1)
    fit(callback.model, callback, epochs=1)
    assert len(commits) == 1


def test_what_on_commit_raises_is_raised_too(tmp_path: Path) -> None:
    def refuse(commit: Commit) -> None:
        raise ArithmeticError("no")

    callback = ModelCheckpoint(tmp_path / "m.keras", on_commit=refuse)
    with pytest.raises(ArithmeticError):
        fit(network(), callback, epochs=1)


def test_an_error_in_fit_loses_no_save(tmp_path: Path) -> None:
    class Stops(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            raise KeyboardInterrupt

    callback, commits = attached(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(callback.model, callback, Stops())
    assert callback.wait(30)
    assert (tmp_path / "m.weights.h5").exists()
    fit(callback.model, callback)
    assert len(commits) == 3


def test_nothing_is_left_beside_the_file(tmp_path: Path) -> None:
    for name in ("m.weights.h5", "m.keras", "m.h5"):
        callback = ModelCheckpoint(tmp_path / name, save_weights_only="weights" in name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit(network(), callback, epochs=1)
    assert sorted(os.listdir(tmp_path)) == ["m.h5", "m.keras", "m.weights.h5"]


# Copies, several callbacks, several fits.


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_copy_works_on_its_own(duplicate: Any, tmp_path: Path) -> None:
    original = ModelCheckpoint(
        tmp_path / "m.weights.h5", save_weights_only=True, repository=tmp_path / "r", keep=lamina.Keep(last=9)
    )
    fit(network(), original, epochs=1)
    original.set_model(None)
    other = duplicate(original)
    first = original.last_snapshot
    fit(network(), other, epochs=1)
    assert original.last_snapshot is first  # only its own saves
    assert other.last_snapshot.id != first.id
    fit(network(), original, epochs=1)
    assert len(lamina.open(tmp_path / "r").snapshots()) == 3


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_copy_resumes_for_itself(duplicate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = {"save_weights_only": True, "repository": tmp_path / "r", "series": "s"}
    fit(network(), ModelCheckpoint(tmp_path / "m.weights.h5", **arguments), epochs=1)
    original = ModelCheckpoint(tmp_path / "m.weights.h5", resume=True, **arguments)
    other = duplicate(original)
    for callback in (original, other):
        fit(network(), callback, epochs=1)
    assert capsys.readouterr().out.count("Resuming from the end of epoch 1") == 2


def test_several_callbacks_share_a_repository(tmp_path: Path) -> None:
    model = network()
    first, _ = attached(tmp_path, "a-{epoch}.weights.h5", repository=tmp_path / "r")
    second, _ = attached(
        tmp_path, "b.keras", save_weights_only=False, repository=tmp_path / "r", save_best_only=True, monitor="loss"
    )
    fit(model, first, second, epochs=3)
    fit(model, first, second, epochs=3)
    repository = lamina.open(tmp_path / "r")
    assert repository.series == ["a-{epoch}.weights.h5", "b.keras"]
    assert len(repository.snapshots("a-{epoch}.weights.h5")) == 6
    assert not repository.verify(full=True).problems


def test_it_trains_beside_other_callbacks(tmp_path: Path) -> None:
    callback, commits = attached(tmp_path, "{epoch}.keras", save_weights_only=False, monitor="loss")
    model = network()
    fit(
        model,
        keras.callbacks.EarlyStopping("loss", patience=1, restore_best_weights=True),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        callback,
        epochs=4,
    )
    assert len(commits) == 4
    best = min(commits, key=lambda commit: commit.value or 0)
    loaded = keras.models.load_model(best.path)
    for ours, now in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, now)


def test_averaged_weights_are_saved_where_they_are_swapped_in(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9), "mse")
    callback, _ = attached(tmp_path)
    stock = keras.callbacks.ModelCheckpoint(tmp_path / "stock.weights.h5", save_weights_only=True)
    fit(model, keras.callbacks.SwapEMAWeights(swap_on_epoch=True), callback, stock)
    assert (tmp_path / "m.weights.h5").read_bytes() == (tmp_path / "stock.weights.h5").read_bytes()


def test_a_subclass_of_the_users_keeps_its_hooks(tmp_path: Path) -> None:
    class Mine(ModelCheckpoint):
        def _get_file_path(self, epoch: int, batch: Any, logs: Any) -> str:
            return str(tmp_path / f"mine-{epoch}.weights.h5")

        def _should_save_model(self, epoch: int, batch: Any, logs: Any, filepath: str) -> bool:
            return epoch == 1

    fit(network(), Mine(tmp_path / "m.weights.h5", save_weights_only=True), epochs=3)
    assert [path.name for path in tmp_path.iterdir()] == ["mine-1.weights.h5"]


def _held() -> set[int]:
    gc.collect()
    return {id(one) for one in gc.get_objects() if type(one) in (Arena, ModelIdentity)}


def test_the_memory_is_given_back_after_fit(tmp_path: Path) -> None:
    before, held = set(threading.enumerate()), _held()
    callback, _ = attached(tmp_path)
    fit(callback.model, callback)
    assert _held() == held  # memory for captures, and what keeps a model's variables known
    started = [t for t in threading.enumerate() if t not in before and t.name.startswith("lamina-save")]
    for thread in started:
        thread.join(30)
        assert not thread.is_alive()


# Resume.


class Follows(keras.callbacks.Callback):
    """Sets the metric ``x`` of each epoch."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["x"] = [5.0, 4.0, 4.5, 4.6, 4.7, 4.8, 4.9, 5.0][epoch]


class Dies(keras.callbacks.Callback):
    """Ends training like a kill: no later hook runs."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == 2:
            raise KeyboardInterrupt


def seeded_network(dropout_seed: int | None = None) -> keras.Model:
    keras.backend.clear_session()
    keras.utils.set_random_seed(7)
    dropout = layers.Dropout(0.5, seed=dropout_seed)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8), dropout, layers.Dense(4)])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def assert_equal(left: keras.Model, right: keras.Model) -> None:
    pairs = zip([*left.weights, *left.optimizer.variables], [*right.weights, *right.optimizer.variables], strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))


@pytest.mark.parametrize("place", ["in front", "between"])
def test_tracked_callbacks_may_stand_anywhere(place: str, tmp_path: Path) -> None:
    def callbacks(*more: Any, resume: bool = False) -> list[Any]:
        stop = keras.callbacks.EarlyStopping("x", patience=5, mode="min")
        reduce = keras.callbacks.ReduceLROnPlateau("x", factor=0.5, patience=1, mode="min")
        ours = ModelCheckpoint(
            tmp_path / "m.weights.h5",
            "x",
            save_weights_only=True,
            mode="min",
            repository=tmp_path / "r",
            track=[stop, reduce],
            resume=resume,
        )
        order = {"in front": [ours, stop, reduce], "between": [stop, ours, reduce]}  # after it: see test_resume.py
        return [Follows(), *order[place], *more]

    straight = seeded_network()
    kept = callbacks()
    trained = fit(straight, *kept, epochs=8, shuffle=False)
    shutil.rmtree(tmp_path / "r")
    interrupted = callbacks(Dies())
    with pytest.raises(KeyboardInterrupt):
        fit(seeded_network(), *interrupted, epochs=8, shuffle=False)
    next(one for one in interrupted if isinstance(one, ModelCheckpoint)).wait()
    resumed, again = seeded_network(), callbacks(resume=True)
    went_on = fit(resumed, *again, epochs=8, shuffle=False)
    assert went_on.epoch == [epoch for epoch in trained.epoch if epoch > 2]
    assert trained.epoch[-1] == 6  # stopped by EarlyStopping
    for before, after in zip(kept, again, strict=True):
        for name in ("wait", "best", "best_epoch", "stopped_epoch", "cooldown_counter"):
            if not isinstance(before, ModelCheckpoint):
                assert getattr(before, name, None) == getattr(after, name, None), name
    assert_equal(straight, resumed)


@pytest.mark.parametrize("weights_only", [True, False])
def test_going_on_by_hand_ends_with_the_same_bits(weights_only: bool, tmp_path: Path) -> None:
    # On torch, `fit` itself draws from the generator of unseeded dropout before the first epoch.
    seed = 5 if keras.backend.backend() == "torch" else None
    straight = seeded_network(seed)
    fit(straight, epochs=4, shuffle=False)
    name = "m.weights.h5" if weights_only else "m.keras"
    callback = ModelCheckpoint(tmp_path / name, repository=tmp_path / "r", save_weights_only=weights_only)
    fit(seeded_network(seed), callback, epochs=2, shuffle=False)
    model = seeded_network(seed)
    snapshot = lamina.restore(tmp_path / "r", model)
    fit(model, initial_epoch=snapshot.next_epoch, epochs=4, shuffle=False)
    assert_equal(straight, model)


def test_weights_alone_bring_no_seeds(tmp_path: Path) -> None:
    """A restore for inference does not change the program's random numbers."""
    callback = ModelCheckpoint(tmp_path / "m.weights.h5", repository=tmp_path / "r", save_weights_only=True)
    fit(seeded_network(5), callback, epochs=2)
    model = seeded_network(5)
    before = keras.ops.convert_to_numpy(model.layers[1].seed_generator.state)
    lamina.restore(tmp_path / "r", model, optimizer=False)
    np.testing.assert_array_equal(before, keras.ops.convert_to_numpy(model.layers[1].seed_generator.state))
    lamina.restore(tmp_path / "r", model)
    assert (before != keras.ops.convert_to_numpy(model.layers[1].seed_generator.state)).any()


def test_the_generator_of_everything_without_a_seed_goes_on_too(tmp_path: Path) -> None:
    model = seeded_network()
    keras.random.normal((2,))
    fit(model, ModelCheckpoint(tmp_path / "m.keras", repository=tmp_path / "r"), epochs=1)
    expected = keras.ops.convert_to_numpy(keras.random.normal((2,)))
    keras.backend.clear_session()  # as in a new process, where it does not exist yet
    lamina.restore(tmp_path / "r", seeded_network())
    np.testing.assert_array_equal(expected, keras.ops.convert_to_numpy(keras.random.normal((2,))))


# Many saves, many models.


def test_a_save_at_every_step_of_a_small_model_stays_small(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(320), layers.Dense(4)])
    model.compile("sgd", "mse")
    arguments = {"save_weights_only": True, "save_freq": 1, "repository": tmp_path / "r", "keep_file": False}
    callback = ModelCheckpoint(tmp_path / "m.weights.h5", keep=lamina.Keep(last=2), **arguments)
    fit(model, callback, batch_size=2, epochs=10)
    snapshot = callback.last_snapshot
    assert snapshot is not None
    assert snapshot.number == 160
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) < 15, sorted(map(str, files))
    assert sum(path.stat().st_size for path in files) < 5 * snapshot.bytes_total


def test_one_callback_for_all_folds(tmp_path: Path) -> None:
    """Each fold's file has that fold's weights, although names and shapes repeat."""
    callback = ModelCheckpoint(tmp_path / "fold.weights.h5", save_weights_only=True, repository=tmp_path / "r")
    for fold in range(3):
        keras.backend.clear_session()
        keras.utils.set_random_seed(fold)
        model = network()
        fit(model, callback, epochs=2)
        saved = network()
        lamina.restore(tmp_path / "fold.weights.h5", saved)
        assert_equal(model, saved)
    assert len(lamina.open(tmp_path / "r").snapshots()) == 6


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")  # keras-tuner's use of threads
def test_keras_tuner_copies_it_for_each_trial(tmp_path: Path) -> None:
    tuner_package = pytest.importorskip("keras_tuner")
    if keras.backend.backend() == "tensorflow":
        pytest.importorskip("tensorboard", reason="keras-tuner imports tensorboard on TensorFlow")

    def build(choices: Any) -> keras.Model:
        model = keras.Sequential([keras.Input((4,)), layers.Dense(choices.Choice("units", [4, 8])), layers.Dense(4)])
        model.compile("adam", "mse")
        return model

    tuner = tuner_package.GridSearch(build, "val_loss", max_trials=2, directory=tmp_path / "tuner", project_name="p")
    callback = ModelCheckpoint(tmp_path / "m-{epoch}.keras", repository=tmp_path / "r", keep=lamina.Keep(last=9))
    tuner.search(X, X, epochs=2, validation_data=(X, X), verbose=0, callbacks=[callback])
    snapshots = lamina.open(tmp_path / "r").snapshots()
    assert [snapshot.epoch for snapshot in snapshots] == [0, 1, 0, 1]
    assert all("val_loss" in snapshot.logs for snapshot in snapshots)
    widths = {lamina.load_model(f"{tmp_path / 'r'}@{s.number}").layers[0].units for s in snapshots}
    assert widths == {4, 8}
    assert callback.last_snapshot is None  # the copies saved
