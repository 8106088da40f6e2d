"""Several processes send one version together: each its share, all of it or nothing, and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import wandb

import lamina
import lamina.wandb
from lamina.errors import ArtifactError, InvalidInputError
from lamina.wandb.writers import Writers
from wandb_server import Server
from wandb_training import clean_machine

COUNT = 3


def saved(parts: int = COUNT, first: int = 0) -> lamina.Snapshot:
    """A snapshot whose packs are ``parts`` of about the same size."""
    for last in range(first + 1, first + parts + 1):
        with h5py.File("a.weights.h5", "w") as file:
            for part in range(last):
                values = np.random.default_rng(part).random((200, 300), dtype=np.float32)
                file.create_dataset(f"layer_{part}/vars/0", data=values)
        snapshot = lamina.save("a.weights.h5", "repo")
    return snapshot


def assert_restores(name: str, machine: Path) -> None:
    with clean_machine(machine):
        (path,) = lamina.export(f"wandb:{name}", machine / "out")
        assert path.read_bytes() == Path("a.weights.h5").read_bytes()


def packs_of(snapshot: lamina.Snapshot) -> list[str]:
    repository = lamina.open("repo")
    return [name for name, _ in repository._core.packs_of(snapshot._core)]


# --- Real processes.

PROCESS = """
import sys, time
from pathlib import Path
import lamina, lamina.wandb, wandb

rank, count, meeting = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
round = 0

def gather(message):
    global round
    round += 1
    mine = meeting / f"{round}-{rank}"
    mine.with_suffix(".new").write_bytes(message)
    mine.with_suffix(".new").rename(mine)
    others = [meeting / f"{round}-{other}" for other in range(count)]
    while not all(other.exists() for other in others):
        if (meeting / "over").exists():
            raise TimeoutError(f"process {[n for n, other in enumerate(others) if not other.exists()]} is silent")
        time.sleep(0.02)
    return [other.read_bytes() for other in others]

if "no run" not in sys.argv[4:]:
    wandb.init(group="together")
snapshot = lamina.open("repo").snapshot("latest")
try:
    artifact = lamina.wandb.log_checkpoint(
        snapshot, name="weights", aliases=["chosen"], tags=["x"], metadata={"note": "hello"}, description="d",
        writers=lamina.wandb.Writers(rank, count, gather))
    print("RESULT", artifact and artifact.name, flush=True)
except lamina.errors.LaminaError as error:
    print("RESULT", type(error).__name__, error, flush=True)
"""


class Processes:
    """The processes of a training, each with its own client and core."""

    def __init__(self, server: Server, folder: Path, *more: Sequence[str]) -> None:
        self.meeting = folder / f"meeting-{time.monotonic_ns()}"
        self.meeting.mkdir()
        here = Path(__file__).parent
        paths = os.pathsep.join([str(here.parent / "python"), str(here)])
        inherited = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
        self.outputs = [self.meeting / f"output-{rank}" for rank in range(COUNT)]
        self.children = []
        for rank, output in enumerate(self.outputs):
            environment = {**inherited, **server.environment(folder / f"client-{rank}"), "PYTHONPATH": paths}
            arguments = [str(rank), str(COUNT), str(self.meeting), *(more[rank] if more else ())]
            with output.open("w") as file:  # not a pipe: wandb's service would keep it open
                self.children.append(
                    subprocess.Popen(
                        [sys.executable, "-c", PROCESS, *arguments],
                        env=environment,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,  # with its core, to be killed as a machine dies
                    )
                )

    def results(self, *, of: Sequence[int] = range(COUNT)) -> list[str]:
        for rank in of:
            assert self.children[rank].wait(timeout=240) == 0, self.outputs[rank].read_text()
        said = [self.outputs[rank].read_text().splitlines() for rank in of]
        return [next(line for line in lines if line.startswith("RESULT")) for lines in said]

    def kill(self, rank: int) -> None:
        os.killpg(self.children[rank].pid, signal.SIGKILL)
        self.children[rank].wait()
        (self.meeting / "over").touch()


@contextmanager
def processes(server: Server, folder: Path, *more: Sequence[str]) -> Iterator[Processes]:
    started = Processes(server, folder, *more)
    try:
        yield started
    finally:
        for child in started.children:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def senders(server: Server) -> dict[str, str]:
    """Pack → run that announced it."""
    found = {}
    for operation in server.operations:
        if operation.name == "CreateArtifactFiles":
            for file in operation.variables["input"]["artifactFiles"]:
                if file["name"].startswith("packs/"):
                    assert file["name"] not in found
                    found[file["name"]] = operation.variables["input"]["artifactFiles"][0]["artifactManifestID"]
    return found


def test_three_processes_send_a_third_each(wandb_online: Server, tmp_path: Path) -> None:
    snapshot = saved()
    with processes(wandb_online, tmp_path) as started:
        assert started.results() == ["RESULT weights:v0", "RESULT None", "RESULT None"]
    (version,) = wandb_online.store.artifacts("weights")
    assert wandb_online.store.pending("weights") == []
    assert set(version.entries) == {
        "README.md", "restore.py", "lamina.json", "lamina.placement", *(f"packs/{p}.pack" for p in packs_of(snapshot)),
    }  # fmt: skip
    assert (version.aliases, version.tags, version.description) == (["chosen", "latest"], ["x"], "d")
    assert (version.metadata["note"], version.metadata["snapshot"]) == ("hello", snapshot.id)
    sent = senders(wandb_online)
    assert len(sent) == COUNT
    assert len(set(sent.values())) == COUNT  # one manifest per process: each has announced one pack
    sizes = [entry.size for path, entry in version.entries.items() if path.startswith("packs/")]
    assert max(sizes) < 1.1 * min(sizes)
    assert wandb_online.counters.total("*.pack").puts == COUNT
    assert wandb_online.counters.total("*.pack").put_bytes == sum(sizes)
    assert not list(Path("repo/journal").glob("*.json"))
    assert_restores("weights:latest", tmp_path / "machine")
    assert wandb_online.errors == []
