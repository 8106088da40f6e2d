"""A real `fit` while the disk gets full, read-only or lost, memory runs out, or the clock goes back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import lamina
import small_memory
from lamina import writing
from lamina.errors import StorageError
from lamina.keras import ModelCheckpoint
from lamina.keras.saving import job
from small_disk import REASON, remount, small_disk

pytestmark = pytest.mark.keras

_BATCH = np.zeros((4, 100), "float32")


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(job, "RESERVE_BYTES", 0)
    with small_disk(tmp_path / "disk", 4) as place:
        if place is None:
            pytest.skip(REASON)
        yield place


@pytest.fixture(scope="module")
def model() -> Any:
    model = keras.Sequential([keras.Input((100,)), layers.Dense(1000), layers.Dense(100)])
    model.compile("sgd", "mse")
    return model


class Before(keras.callbacks.Callback):
    """Changes the disk before an epoch, after all saves so far are committed."""

    def __init__(self, epoch: int, callback: ModelCheckpoint, do: Callable[[], object]) -> None:
        super().__init__()
        self.epoch, self.callback, self.do = epoch, callback, do

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == self.epoch:
            self.callback.wait()
            self.do()


def fit(model: Any, *callbacks: keras.callbacks.Callback, epochs: int = 4) -> None:
    model.fit(_BATCH, _BATCH, epochs=epochs, callbacks=list(callbacks), verbose=0)


def checkpoint(folder: Path, name: str = "m.weights.h5", **arguments: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder / name, save_weights_only=True, repository=folder / "r", **arguments)


def intact(folder: Path) -> list[lamina.Snapshot]:
    opened = lamina.open(folder / "r")
    assert not opened.verify(full=True).problems
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    return opened.snapshots()


@pytest.mark.filterwarnings("ignore:.* MiB free")
def test_a_disk_gets_full(disk: Path, model: Any) -> None:
    """First snapshots stop, then a file does not fit: `fit` raises, and all that was saved is whole."""
    committed: list[str] = []
    callback = checkpoint(disk, "{epoch}.weights.h5", on_commit=lambda commit: committed.append(str(commit.path)))
    with pytest.raises(StorageError, match="space"):
        fit(model, callback, epochs=20)
    found = intact(disk)
    assert 1 <= len(found) < len(committed) < 20
    for path in committed:
        assert lamina.read_tensors(path)
    for path in committed[1:]:
        os.unlink(path)
    callback = checkpoint(disk)
    fit(model, callback, epochs=1)
    assert callback.last_snapshot is not None
    assert len(intact(disk)) == len(found) + 1


def test_the_reserve_is_reached(tmp_path: Path, model: Any) -> None:
    """With the real reserve: below 1 GiB of free space only plain files are saved, until there is space again."""
    with small_disk(tmp_path / "disk", (job.RESERVE_BYTES >> 20) + 8) as disk:
        if disk is None:
            pytest.skip(REASON)
        stored: list[bool] = []
        free: list[int] = []

        def committed(commit: Any) -> None:
            stored.append(commit.snapshot is not None)
            free.append(shutil.disk_usage(disk).free)

        callback = checkpoint(disk, "{epoch}.weights.h5", on_commit=committed)
        with pytest.warns(UserWarning, match=r"has 102\d MiB free, .* saved only the plain file"):
            fit(model, callback, epochs=20)
        kept = stored.index(False)
        assert stored == [True] * kept + [False] * (20 - kept)
        assert 1 <= kept < 12
        assert free[kept - 1] > job.RESERVE_BYTES - (1 << 20), "one plain file goes into the reserve, no snapshot does"
        assert [snapshot.epoch for snapshot in intact(disk)] == list(range(kept))
        for epoch in range(1, 21):
            path = disk / f"{epoch}.weights.h5"
            assert lamina.read_tensors(path)
            path.unlink()
        fit(model, checkpoint(disk), epochs=1)
        assert len(intact(disk)) == kept + 1


def test_a_disk_becomes_read_only(disk: Path, model: Any) -> None:
    callback = checkpoint(disk)
    with pytest.raises(StorageError, match="[Rr]ead-only"):
        fit(model, callback, Before(2, callback, lambda: remount(disk, "ro")))
    lamina.restore(lamina.open(disk / "r").snapshot(), model)
    remount(disk, "rw")
    assert [snapshot.epoch for snapshot in intact(disk)] == [0, 1]
    fit(model, checkpoint(disk, resume=True))
    assert [snapshot.epoch for snapshot in intact(disk)] == [0, 1, 2, 3]


def test_the_directory_is_removed(tmp_path: Path, model: Any) -> None:
    """If the disk is lost, training ends with a typed error, or all later saves are whole."""
    folder = tmp_path / "runs"
    callback = checkpoint(folder)
    with pytest.raises(StorageError):
        fit(model, callback, Before(2, callback, lambda: shutil.rmtree(folder)))
    fit(model, checkpoint(folder))
    assert len(intact(folder)) == 4


def test_the_repository_is_removed(tmp_path: Path, model: Any) -> None:
    """The plain file stays as reported, and all later saves are whole."""
    folder = tmp_path / "runs"
    reported: list[int] = []
    callback = checkpoint(folder, "{epoch}.weights.h5", on_commit=lambda commit: reported.append(commit.epoch))
    with pytest.raises(StorageError):
        fit(model, callback, Before(2, callback, lambda: shutil.rmtree(folder / "r")))
    assert reported == [0, 1]
    for epoch in reported:
        assert lamina.read_tensors(folder / f"{epoch + 1}.weights.h5")
    fit(model, checkpoint(folder))
    assert len(intact(folder)) == 4


def test_a_clock_that_goes_back(tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of saves, what is kept and what is deleted do not depend on the clock or on file times."""
    folder, year = tmp_path / "runs", 2100

    def earlier() -> str:
        nonlocal year
        year -= 10
        for number, path in enumerate((folder / "r").glob("**/*")):
            os.utime(path, (0, 0) if number % 2 else (5e9, 5e9))
        return f"{year}-01-01T00:00:00.000Z"

    monkeypatch.setattr(writing, "now", earlier)
    fit(model, checkpoint(folder, keep=lamina.Keep(last=2)))
    fit(model, checkpoint(folder, resume=True, keep=lamina.Keep(last=2)), epochs=6)
    found = intact(folder)
    assert [snapshot.epoch for snapshot in found] == [4, 5]
    assert found[0].created_at > found[1].created_at
    assert lamina.open(folder / "r").snapshot().epoch == 5


_STARVED = """
import resource, sys
from pathlib import Path
import keras
import numpy as np
from keras import layers
from lamina.keras import ModelCheckpoint

folder = Path(sys.argv[1])
model = keras.Sequential([keras.Input((100,)), layers.Dense(1000), layers.Dense(100)])
model.compile("sgd", "mse")

class Starve(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            callback.wait()
            print("committed", callback.last_snapshot.id, flush=True)
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used // 2, used // 2))

callback = ModelCheckpoint(folder / "m.weights.h5", save_weights_only=True, repository=folder / "r", codec="auto")
batch = np.zeros((4, 100), "float32")
model.fit(batch, batch, epochs=8, callbacks=[Starve(), callback], verbose=0)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux limits the address space so")
def test_memory_runs_out(tmp_path: Path) -> None:
    """If memory runs out, the process may raise or be killed, but all that it reported exists."""
    done = subprocess.run([sys.executable, "-c", _STARVED, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert "panicked" not in done.stderr
    opened = lamina.open(tmp_path / "r")
    assert not opened.verify(full=True).problems
    reported = done.stdout.split("committed ")[1].split()[0]
    assert reported in {snapshot.id for snapshot in opened.snapshots()}, done.stderr[-2000:]


_GREEDY = """
import sys
from pathlib import Path
import keras
import numpy as np
from keras import layers
from lamina.keras import ModelCheckpoint

folder, join = Path(sys.argv[1]), sys.argv[2]
model = keras.Sequential([keras.Input((100,)), layers.Dense(1000), layers.Dense(100)])
model.compile("sgd", "mse")
eaten = []

class Eat(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            callback.wait()
            exec(join)

    def on_train_batch_end(self, batch, logs=None):
        if callback.last_snapshot is not None and callback.last_snapshot.epoch > 0 and len(eaten) < 512:
            eaten.append(b"x" * (1 << 20))

callback = ModelCheckpoint(
    folder / "m.weights.h5",
    save_weights_only=True,
    repository=folder / "r",
    on_commit=lambda commit: print("committed", commit.snapshot.id, flush=True),
)
batch = np.random.default_rng(0).standard_normal((64, 100)).astype("float32")
model.fit(batch, batch, batch_size=16, epochs=1000, callbacks=[Eat(), callback], verbose=0)
"""


def test_the_system_kills_for_want_of_memory(tmp_path: Path) -> None:
    """A SIGKILL in the middle of saves."""
    with small_memory.small_memory(64) as group:
        if group is None:
            pytest.skip(f"{small_memory.REASON}; test_memory_runs_out limits the address space instead")
        command = [sys.executable, "-c", _GREEDY, str(tmp_path), group.join_code()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
        assert group.kills() >= 1
    reported = [line.split()[1] for line in done.stdout.splitlines(keepends=True) if line.endswith("\n")]
    assert len(reported) >= 2
    opened = lamina.open(tmp_path / "r")
    assert not opened.verify(full=True).problems
    assert set(reported) <= {snapshot.id for snapshot in opened.snapshots()}
    for snapshot in opened.snapshots():
        lamina.read_tensors(snapshot)
    assert lamina.read_tensors(tmp_path / "m.weights.h5")
