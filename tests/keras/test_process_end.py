"""Saves when the process ends: signals, kills, interpreter exit, forks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import lamina
from lamina.keras import ModelCheckpoint
from lamina.keras.capture.planned_file import PlannedFile
from places import HELPERS

pytestmark = [pytest.mark.keras, pytest.mark.backend, pytest.mark.filterwarnings("ignore:os.fork")]

_PRELUDE = """
import os, signal, sys, threading, time
from pathlib import Path
import keras
import numpy as np
from keras import layers
import lamina
from lamina.keras import ModelCheckpoint
from lamina.keras.capture.planned_file import PlannedFile

folder = Path(sys.argv[1])
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background is told to ignore it
x = np.zeros((64, 4), "float32")
model = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
model.compile("sgd", "mse")

class At(keras.callbacks.Callback):
    def __init__(self, batch, do):
        super().__init__()
        self.batch, self.do, self.seen = batch, do, 0

    def on_train_batch_begin(self, batch, logs=None):
        if self.seen == self.batch:
            self.do()
        self.seen += 1

def term():
    os.kill(os.getpid(), signal.SIGTERM)

def slow_disk(seconds):
    write = PlannedFile.write
    def slow(content, path):
        time.sleep(seconds)
        write(content, path)
    PlannedFile.write = slow

def weights(**arguments):
    return ModelCheckpoint(folder / "m.weights.h5", save_weights_only=True, **arguments)

def fit(*callbacks, **arguments):
    return model.fit(x, x, batch_size=4, callbacks=list(callbacks), verbose=0, **arguments)
"""


def script(tmp_path: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run a script with a model, in a new process."""
    file = tmp_path / "script.py"
    file.write_text(_PRELUDE + textwrap.dedent(code))
    return subprocess.run([sys.executable, str(file), str(tmp_path)], capture_output=True, text=True, timeout=200)


def steps(folder: Path) -> list[int | None]:
    return [snapshot.step for snapshot in lamina.open(folder / "r").snapshots()]


def test_sigterm_commits_what_is_captured(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        slow_disk(0.3)
        callback = weights(save_freq=3, repository=folder / "r")
        fit(callback, At(6, term), epochs=1)
        print("not reached")
        """,
    )
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert "not reached" not in done.stdout
    assert "received SIGTERM; all pending saves were written" in done.stdout
    assert steps(tmp_path) == [3, 6]
    assert (tmp_path / "m.weights.h5").exists()


def test_preemption_saves_the_next_step(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        callbacks = [
            ModelCheckpoint(
                folder / f"{name}-{{val_loss}}.weights.h5", save_weights_only=True, repository=folder / "r",
                save_on_preempt=True, monitor="loss", save_best_only=name == "best",
            )
            for name in ("best", "each")
        ]
        fit(*callbacks, At(6, term), epochs=2)
        print("not reached")
        """,
    )
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert "not reached" not in done.stdout
    found = lamina.open(tmp_path / "r").snapshots()
    assert [(s.step, s.epoch, s.batch, s.next_epoch) for s in found] == [(7, 0, 6, 0)] * 2
    assert len({s.series for s in found}) == 2
    assert not list(tmp_path.glob("*.weights.h5"))  # the placeholders have no values before the end of an epoch


def test_sigterm_after_an_aborted_fit_ends_the_process(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        def stop():
            raise KeyboardInterrupt
        callback = weights(save_freq=3, save_on_preempt=True)
        try:
            fit(callback, At(6, stop), epochs=1)
        except KeyboardInterrupt:
            term()
        time.sleep(1)
        print("not reached")
        """,
    )
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert "not reached" not in done.stdout


def test_the_users_handler_is_called_and_comes_back(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        heard = []
        def mine(signum, frame):
            heard.append(signum)
            model.stop_training = True
        signal.signal(signal.SIGTERM, mine)
        callback = weights(save_on_preempt=True, repository=folder / "r")
        fit(callback, At(6, term), epochs=5)
        assert heard == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is mine
        print("reached", model.stop_training)
        """,
    )
    assert done.returncode == 0, done.stderr
    assert "reached True" in done.stdout
    assert steps(tmp_path)[0] == 7


def test_an_interrupted_script_loses_no_save(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        slow_disk(0.5)
        def stop():
            os.kill(os.getpid(), signal.SIGINT)
        callback = ModelCheckpoint(folder / "{batch}.weights.h5", save_weights_only=True, save_freq=3, verbose=1)
        fit(callback, At(6, stop), epochs=1)
        """,
    )
    assert done.returncode != 0
    assert "KeyboardInterrupt" in done.stderr
    assert done.stdout.count("finished saving") == 2
    assert {path.name for path in tmp_path.glob("*.weights.h5")} == {"3.weights.h5", "6.weights.h5"}


def test_a_failure_after_the_end_is_told(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        def full(content, path):
            time.sleep(0.5)
            raise OSError(28, "No space left on device")
        PlannedFile.write = full
        def stop():
            raise KeyboardInterrupt
        fit(weights(save_freq=3), At(3, stop), epochs=1)
        """,
    )
    assert "a save failed after training" in done.stderr
    assert "No space left on device" in done.stderr


def test_workers_of_a_dataset_never_touch_the_pipeline(tmp_path: Path) -> None:
    for method in ("fork", "spawn"):
        code = f"""
        import multiprocessing

        def locks():  # a pack that was being written may be open, too: nobody waits for that
            names = []
            for entry in os.listdir("/proc/self/fd"):
                try:
                    names.append(os.readlink("/proc/self/fd/" + entry))
                except OSError:
                    pass
            return [name for name in names if name.endswith("lock")]

        class Data(keras.utils.PyDataset):
            def __len__(self):
                return 8

            def __getitem__(self, index):
                threads = [t.name for t in threading.enumerate() if t.name.startswith("lamina-save")]
                with open(folder / f"{method}-{{os.getpid()}}", "a") as file:
                    print(threads, locks(), file=file)
                return np.zeros((4, 4), "float32"), np.zeros((4, 4), "float32")

        if __name__ == "__main__":
            multiprocessing.set_start_method("{method}", force=True)
            callback = weights(save_freq=2, repository=folder / "{method}")
            data = Data(workers=2, use_multiprocessing=True, max_queue_size=2)
            model.fit(data, epochs=3, callbacks=[callback], verbose=0)
            assert callback.last_snapshot.step == 24, callback.last_snapshot.step
            repository = lamina.open(folder / "{method}")
            assert len(repository.snapshots()) == 12
            assert not repository.verify(full=True).problems
            print("done", os.getpid())
        """
        done = script(tmp_path, code)
        assert done.returncode == 0, done.stderr[-3000:]
        parent = done.stdout.split()[-1]
        seen = {path.name.removeprefix(method + "-"): path.read_text() for path in tmp_path.glob(f"{method}-*")}
        workers = {pid: text for pid, text in seen.items() if pid != parent}
        assert workers
        assert {line for text in workers.values() for line in text.splitlines()} == {"[] []"}


@pytest.mark.parametrize("backend", ["numpy", keras.backend.backend()])
def test_kills_at_any_moment_leave_what_was_reported(backend: str, tmp_path: Path) -> None:
    """Many kills with Keras's numpy backend, which starts fast; a few during `fit` with the backend of this run."""
    if backend == "numpy":
        pytest.importorskip("jax")  # which it needs
    kills = 200 if os.environ.get("LAMINA_SOAK") else 40 if backend == "numpy" else 3
    done = subprocess.run(
        [sys.executable, str(HELPERS / "killed_saver.py"), str(tmp_path), str(kills), "1"],
        capture_output=True,
        text=True,
        timeout=1800 if kills > 40 else 300,
        env=os.environ | {"KERAS_BACKEND": backend},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["saves"] >= 2 * kills
    assert found["left_in_the_end"] == 0


def test_a_forked_child_has_no_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave = threading.Event()
    write = PlannedFile.write
    entered = threading.Event()

    def held(content: PlannedFile, path: str) -> None:
        entered.set()
        assert leave.wait(30)
        write(content, path)

    monkeypatch.setattr(PlannedFile, "write", held)
    callback = ModelCheckpoint(tmp_path / "m.weights.h5", save_weights_only=True, repository=tmp_path / "r")
    callback.set_model(keras.Sequential([keras.Input((4,)), layers.Dense(4)]))
    callback.on_train_begin()
    callback.on_epoch_end(0, {"val_loss": 1.0})
    assert entered.wait(30)
    child = os.fork()
    if child == 0:
        if callback.wait(0.1):
            os.kill(os.getpid(), signal.SIGTERM)  # it has no handler in the child, which is killed
        os._exit(1)
    _, status = os.waitpid(child, 0)
    leave.set()
    callback.on_train_end()
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert callback.last_snapshot is not None


def test_handlers_are_restored_after_fit(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    model.compile("sgd", "mse")
    seen: list[Any] = []

    class Looks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seen.append(signal.getsignal(signal.SIGTERM))

    callbacks = [ModelCheckpoint(tmp_path / f"{n}.keras") for n in range(2)]
    x = np.zeros((4, 4), "float32")
    model.fit(x, x, callbacks=[*callbacks, Looks()], verbose=0)
    assert seen[0] is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_training_in_another_thread_installs_nothing(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    model.compile("sgd", "mse")
    x = np.zeros((4, 4), "float32")
    seen: list[Any] = []
    callback = ModelCheckpoint(
        tmp_path / "m.keras", on_commit=lambda commit: seen.append(signal.getsignal(signal.SIGTERM))
    )
    thread = threading.Thread(target=lambda: model.fit(x, x, callbacks=[callback], verbose=0))
    thread.start()
    thread.join(120)
    assert (tmp_path / "m.keras").exists()
    assert seen == [before]


def test_a_forked_worker_dies_of_sigterm_however_early(tmp_path: Path) -> None:
    """Pools end their workers this way and wait for them, so a lost signal would block training for ever."""
    done = script(
        tmp_path,
        """
        def forks():
            for _ in range(100):
                worker = os.fork()
                if not worker:
                    time.sleep(60)
                    os._exit(0)
                os.kill(worker, signal.SIGTERM)
                assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == -signal.SIGTERM
        fit(weights(), At(3, forks), epochs=1)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, set())
        print("done")
        """,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("done\n")


def test_the_step_that_preemption_saves_makes_its_folder(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        callback = ModelCheckpoint(folder / "out" / "c.keras", save_on_preempt=True)
        fit(callback, At(6, term), epochs=2)
        """,
    )
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert "received SIGTERM; all pending saves were written" in done.stdout
    assert (tmp_path / "out" / "c.keras").exists()


def test_a_failed_save_is_told_at_sigterm(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        def full(content, path):
            raise OSError(28, "No space left on device")
        PlannedFile.write = full
        fit(weights(save_on_preempt=True), At(6, term), epochs=2)
        """,
    )
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert "a save failed: OSError(28" in done.stdout
    assert "all pending saves" not in done.stdout


@pytest.mark.parametrize("save_on_preempt", [False, True])
def test_sigterm_ends_a_training_whose_output_nobody_reads(save_on_preempt: bool, tmp_path: Path) -> None:
    code = f"""
    from lamina.keras.saving import sigterm
    sigterm.BUDGET_SECONDS = 2.0

    def fill():
        flags = fcntl.fcntl(1, fcntl.F_GETFL)
        fcntl.fcntl(1, fcntl.F_SETFL, flags | os.O_NONBLOCK)
        try:
            while os.write(1, bytes(4096)):
                pass
        except BlockingIOError:
            fcntl.fcntl(1, fcntl.F_SETFL, flags)
        (folder / "full").touch()

    callback = weights(save_freq=2, save_on_preempt={save_on_preempt}, repository=folder / "r")
    callback.verbose = 1
    model.fit(x, x, batch_size=4, epochs=10**6, callbacks=[callback, At(5, fill)], verbose=0)
    """
    file = tmp_path / "script.py"
    file.write_text("import fcntl\n" + _PRELUDE + textwrap.dedent(code))
    with subprocess.Popen([sys.executable, str(file), str(tmp_path)], stdout=subprocess.PIPE) as process:
        try:
            while not (tmp_path / "full").exists():
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:  # it came just before the write that blocks
                process.send_signal(signal.SIGTERM)
            assert process.wait(30) == -signal.SIGTERM
        finally:
            process.kill()
