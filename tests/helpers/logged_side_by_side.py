"""The same for W&B: one training with wandb's callbacks and one with ours, in two projects of a loopback server.

``python logged_side_by_side.py (stock | ours) PROJECT FOLDER SCENARIO`` is the part of a training that is killed.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import wandb
import wandb.integration.keras as stock_callbacks
from wandb.errors import term

import lamina.keras
from places import HELPERS, ROOT
from side_by_side import Differing, Outcome, content, differing, fit_on, fresh_model, inside, lines, tree, warned
from wandb_server import Server
from wandb_training import Follow

_numbers = itertools.count()
#: How long a server may take until it has what a training has sent, before that counts as a difference.
ARRIVES_SECONDS = 60.0
#: The file that tells that a training waits for its end.
READY = "ready"


@dataclass(frozen=True)
class Logging:
    """A training whose callbacks log to W&B."""

    callbacks: tuple[str, ...] = ("score", "metrics", "checkpoint")
    file: str = "m.keras"
    weights_only: bool = False
    best_only: bool = False
    freq: str | int = "epoch"
    verbose: int = 0
    log_freq: str | int = "epoch"
    scores: tuple[float, ...] = (3.0, 1.0, 2.0)
    data: str = "arrays"
    run_id: str = "run"
    mode: str = "online"
    event: str = "nothing"
    #: Of ours alone; what a version holds must be what stock's version holds.
    layout: str = "file"
    #: Of ours alone: go on after a kill with resume=True, where stock loads its file.
    resume: bool = False


@dataclass(frozen=True)
class Side:
    """Who makes the callbacks, and where."""

    name: str
    project: str
    root: Path

    @property
    def is_stock(self) -> bool:
        return self.name == "stock"

    @property
    def callbacks(self) -> Any:
        return stock_callbacks if self.is_stock else lamina.keras


def both_logged(scenario: Logging, folder: Path, server: Server) -> Differing:
    """Run it in two folders below an empty one; the server may have other projects."""
    number = next(_numbers)
    sides = [Side(name, f"{name}-{number}", folder / name) for name in ("stock", "ours")]
    for side in sides:
        (side.root / "work").mkdir(parents=True)
        (side.root / "runs").mkdir()
    if scenario.event == "killed":
        _begin_and_kill(scenario, sides, server)
    return differing(*(_outcome(scenario, side, server) for side in sides))


def _outcome(scenario: Logging, side: Side, server: Server) -> Outcome:
    found: Outcome = {}
    directories: list[Path] = []
    model = fresh_model()
    numbers = {"resumed run": (0, 1), "killed": (1,)}.get(scenario.event, (0,))
    with inside(side.root / "work"), _heard(side) as said:
        if scenario.event == "killed" and not (scenario.resume and not side.is_stock):
            model = _loaded(scenario)
        for number in numbers:
            with _run(scenario, side, number) as run:
                directories.append(Path(run.dir).parent.absolute())
                try:
                    _train(scenario, side, model, number)
                except Exception as error:  # what ends a training is part of what is compared
                    found[f"raised in run {number}"] = type(error).__name__
    found |= said
    if scenario.mode == "offline":
        found |= _synced(directories, side)
    files = {name: what for name, what in tree(side.root / "work").items() if ".lamina" not in name}
    return found | files | _arrived(side, server)


@contextlib.contextmanager
def _run(scenario: Logging, side: Side, number: int) -> Iterator[Any]:
    again = {"resume": "must"} if number else {}
    settings = wandb.Settings(silent=False)
    run = wandb.init(
        project=side.project,
        id=scenario.run_id,
        name="run",
        mode=scenario.mode,
        dir=str(side.root / "runs"),
        settings=settings,
        **again,
    )
    try:
        yield run
    finally:
        run.finish()


def _train(scenario: Logging, side: Side, model: Any, number: int, *more: Any) -> None:
    from_file = scenario.event == "killed" and number and not (scenario.resume and not side.is_stock)
    begins = last_epoch(scenario) if from_file else 0
    made: list[Any] = []
    for turn in range(2 if "again" in scenario.event else 1):
        if turn and scenario.event == "again in another directory":
            Path("elsewhere").mkdir()
            os.chdir("elsewhere")
        if not made or scenario.event != "again":
            made = [_callback(name, scenario, side) for name in scenario.callbacks]
        fit_on(model, scenario.data, [*made, *more], epochs=len(scenario.scores), initial_epoch=begins)


def _loaded(scenario: Logging) -> Any:
    """What a user goes on from."""
    newest = max(Path().glob(re.sub(r"{.*?}", "*", scenario.file)), key=os.path.getmtime)
    if not scenario.weights_only:
        return keras.models.load_model(newest)
    model = fresh_model()
    model.load_weights(newest)
    return model


def _callback(name: str, scenario: Logging, side: Side) -> Any:
    if name == "score":
        return Follow(scenario.scores)
    if name == "metrics":
        return side.callbacks.WandbMetricsLogger(log_freq=scenario.log_freq)
    if name == "eval":
        return _evaluation(side.callbacks.WandbEvalCallback)
    if name == "plain":
        return (keras.callbacks if side.is_stock else lamina.keras).ModelCheckpoint("plain/{epoch}.keras")
    more = {} if side.is_stock else {"layout": scenario.layout, "resume": scenario.resume}
    return side.callbacks.WandbModelCheckpoint(
        scenario.file,
        monitor="score",
        mode="min",
        verbose=scenario.verbose,
        save_best_only=scenario.best_only,
        save_weights_only=scenario.weights_only,
        save_freq=scenario.freq,
        **more,
    )


def _evaluation(base: Any) -> Any:
    class Evaluation(base):  # type: ignore[misc]
        """Configured as in the documentation."""

        def add_ground_truth(self, logs: Any = None) -> None:
            for number in range(3):
                self.data_table.add_data(number, number * number)

        def add_model_predictions(self, epoch: int, logs: Any = None) -> None:
            for number in self.data_table_ref.get_index():
                row = self.data_table_ref.data[number]
                self.pred_table.add_data(epoch, row[0], row[1], number + epoch)

    return Evaluation(["number", "square"], ["epoch", "number", "square", "guess"])


# --- What is said.

#: What differs from run to run, or is compared elsewhere.
_MASKED = [
    (r"\x1b\[[0-9;]*m", ""),
    (r"127\.0\.0\.1:\d+", "SERVER"),
    (r"run-\d{8}_\d{6}(-\S+?)(-\d)?(?=/| |$)", r"run-TIME\1"),  # numbered within a second
    (r" +", " "),
    (r"^wandb: (checkpoint|epoch|batch)/.*\n", ""),  # the summary
    (r"^wandb: (Run summary:|\+\d+ \.\.\.)\n", ""),  # there is none without figures, and not all of a long one
    (r"^wandb: .*(Loaded credentials|Currently logged in).*\n", ""),  # by the first run of a process
    (r"^wandb: (uploading|updating) .*\n", ""),  # once in a while
    (r"^wandb: *\n", ""),
    (r"\d+ artifact file\(s\)", "some artifact files"),
]


@contextlib.contextmanager
def _heard(side: Side) -> Iterator[Outcome]:
    """Filled at the end: what was printed, what W&B said, and what was warned of."""
    found: Outcome = {}
    printed, said = io.StringIO(), io.StringIO()
    wandb.setup()
    wandb.termsetup(wandb.Settings(silent=False), None)
    term._printed_messages.clear()  # what wandb says once in a process
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said), warned(found):
            yield found
    finally:
        wandb.termsetup(wandb.Settings(silent=True), None)
        found |= _lines("printed", printed.getvalue(), side) | _lines("said", said.getvalue(), side)


def _lines(kind: str, text: str, side: Side) -> Outcome:
    text = text.replace(side.project, "PROJECT").replace(str(side.root), "ROOT")
    for pattern, instead in _MASKED:
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    return lines(kind, text)


# --- A training that is killed.


class Wait(keras.callbacks.Callback):
    """When the last epoch begins, waits until everything has arrived, says so, and waits for its end."""

    def __init__(self, scenario: Logging, run: Any, folder: Path) -> None:
        super().__init__()
        self.scenario, self.run, self.folder = scenario, run, folder
        self.artifacts: list[Any] = []
        self._log, wandb.log_artifact = wandb.log_artifact, self.log

    def log(self, *arguments: Any, **named: Any) -> Any:
        self.artifacts.append(self._log(*arguments, **named))
        return self.artifacts[-1]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch != last_epoch(self.scenario):
            return
        for callback in _siblings(self):
            if isinstance(callback, lamina.keras.ModelCheckpoint):
                callback.wait(uploads=True)
        if self.scenario.mode == "online":
            for artifact in self.artifacts:
                artifact.wait()
        (self.folder / "ready.new").write_text(str(self.run.step))
        os.rename(self.folder / "ready.new", self.folder / READY)
        time.sleep(600)


def _siblings(callback: Any) -> list[Any]:
    frame = sys._getframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList):
            return list(owner.callbacks)
        frame = frame.f_back  # type: ignore[assignment]
    raise AssertionError(f"{callback} is in no list")


def last_epoch(scenario: Logging) -> int:
    """The one that begins when a training is killed."""
    return len(scenario.scores) - 1


def _begin_and_kill(scenario: Logging, sides: list[Side], server: Server) -> None:
    """Begin on both sides at a time, and kill both when the server has the same of them."""
    inherited = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
    paths = os.pathsep.join([str(ROOT / "python"), str(HELPERS)])
    processes = []
    for side in sides:
        arguments = [side.name, side.project, str(side.root), json.dumps(asdict(scenario))]
        with (side.root / "output").open("w") as output:
            process = subprocess.Popen(
                [sys.executable, __file__, *arguments],
                env=inherited | {"PYTHONPATH": paths},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        processes.append(process)
    for side, process in zip(sides, processes, strict=True):
        _kill_when_ready(scenario, side, server, process)


def _kill_when_ready(scenario: Logging, side: Side, server: Server, process: subprocess.Popen[bytes]) -> None:
    ready = side.root / READY
    _until(lambda: ready.exists() or process.poll() is not None)
    if ready.exists() and scenario.mode == "online":
        _until(lambda: _rows(server, side) >= int(ready.read_text()))
    process.kill()
    code = process.wait()
    _until(lambda: not _lives(process.pid))  # wandb's service ends after its client
    if code != -signal.SIGKILL:
        raise AssertionError((side.root / "output").read_text())


def _rows(server: Server, side: Side) -> int:
    runs = [run for (_, owner, _), run in server.store._state.runs.items() if owner == side.project]
    return sum(len(run.history) for run in runs)


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + ARRIVES_SECONDS
    while not condition() and time.monotonic() < limit:
        time.sleep(0.05)


def main(name: str, project: str, root: str, scenario: str) -> None:
    side = Side(name, project, Path(root))
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(scenario).items()}
    begun = Logging(**values)
    with inside(side.root / "work"), _run(begun, side, 0) as run:
        _train(begun, side, fresh_model(), 0, Wait(begun, run, side.root))


def _synced(directories: list[Path], side: Side) -> Outcome:
    """``wandb sync`` of the runs, as wandb advises, but from a directory of its own."""
    elsewhere = side.root / "elsewhere"
    elsewhere.mkdir()
    with tempfile.TemporaryFile("w+") as output:
        code = subprocess.call(
            [sys.executable, "-m", "wandb", "sync", *map(str, directories)],
            cwd=elsewhere,
            env={key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"},
            stdout=output,
            stderr=output,
            timeout=120,
        )
        output.seek(0)
        said = output.read()
    return {"exit code of wandb sync": code} | _lines("said by wandb sync", said, side)


# --- On the server.


def _arrived(side: Side, server: Server) -> Outcome:
    store, project = server.store, side.project
    found: Outcome = {}
    (run,) = [run for (_, owner, _), run in store._state.runs.items() if owner == project]
    found["history"] = [_row(json.loads(line)) for line in run.history if line]
    found |= {f"summary {key}": value for key, value in _row(run.summary).items() if not key.startswith("checkpoint/")}
    found |= {f"configuration {key}": value for key, value in run.config.items() if key != "_wandb"}
    found |= _axes(run.config.get("_wandb", {}).get("value", {}).get("m", []))
    found["state"] = (run.state, run.exit_code)
    for collection in store.collections:
        if project in collection.split("/"):
            name = collection.split("/")[-1].replace(project, "PROJECT")
            for version in store.artifacts(collection):
                key = f"{name}:{version.version}"
                found[f"aliases {key}"] = sorted(version.aliases)
                found[f"type {key}"] = version.type
                found |= {f"entry {key}/{path}": what for path, what in _files(server, collection, version).items()}
    return found


def _axes(defined: list[dict[str, Any]]) -> Outcome:
    """Metric → what it is drawn over, from the numbers that wandb's protocol gives the fields."""
    names = [one.get("1") or one.get("2") for one in defined]
    return {
        f"axis of {name}": names[one["5"] - 1] if "5" in one else "" for name, one in zip(names, defined, strict=True)
    }


def _files(server: Server, collection: str, version: Any) -> Outcome:
    """What a version holds; of packs, what comes out of them."""
    whole = f"{collection.rpartition('/')[0]}/{version.name}"
    if "lamina.json" in version.entries:
        with tempfile.TemporaryDirectory() as folder:
            return {path.name: content(path.read_bytes()) for path in lamina.export(f"wandb:{whole}", folder)}
    return {
        path: "reference" if entry.ref else content(server.store.file_bytes(whole, path))
        for path, entry in version.entries.items()
    }


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """Without times and values of the clock."""
    return {
        key: float(np.float32(value)) if isinstance(value, float) else value
        for key, value in row.items()
        if key not in ("_runtime", "_timestamp", "_wandb")
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
