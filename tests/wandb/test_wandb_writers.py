"""Several processes send one version together: each its share; the version is complete or absent, never lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import wandb

import lamina
import lamina.wandb
from lamina.errors import ArtifactError, InvalidInputError
from lamina.wandb.upload.writers import Writers
from places import HELPERS, ROOT
from wandb_server import Server
from wandb_training import clean_machine

pytestmark = pytest.mark.wandb

COUNT = 3


def saved(parts: int = COUNT, first: int = 0) -> lamina.Snapshot:
    """A snapshot with ``parts`` packs of about the same size."""
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
    while missing := [n for n, other in enumerate(others) if not other.exists()]:
        if all((meeting / f"dead-{n}").exists() for n in missing):
            raise TimeoutError(f"process {missing} is silent")
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
    """The processes of a training, each with its own client and wandb-core."""

    def __init__(self, server: Server, folder: Path, *more: Sequence[str]) -> None:
        self.meeting = folder / f"meeting-{time.monotonic_ns()}"
        self.meeting.mkdir()
        paths = os.pathsep.join([str(ROOT / "python"), str(HELPERS)])
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
                        start_new_session=True,  # so that it can be killed together with its wandb-core, like a machine
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
        (self.meeting / f"dead-{rank}").touch()


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
    assert len(set(sent.values())) == COUNT  # one manifest per process: each announced one pack
    sizes = [entry.size for path, entry in version.entries.items() if path.startswith("packs/")]
    assert max(sizes) < 1.1 * min(sizes)
    assert wandb_online.counters.total("*.pack").puts == COUNT
    assert wandb_online.counters.total("*.pack").put_bytes == sum(sizes)
    assert not list(Path("repo/journal").glob("*.json"))
    assert_restores("weights:latest", tmp_path / "machine")
    assert wandb_online.errors == []


def test_a_process_that_is_killed_in_mid_upload_costs_nothing(wandb_online: Server, tmp_path: Path) -> None:
    """The others raise an error, nothing is committed, and one process sends the whole version later."""
    snapshot = saved()
    fault = wandb_online.inject(method="PUT", path="*.pack", delay=3600)  # the first one only
    with processes(wandb_online, tmp_path) as started:
        until = time.monotonic() + 240
        while not fault.hits or wandb_online.counters.total("*.pack").puts < COUNT - 1:
            assert time.monotonic() < until
            time.sleep(0.02)
        held = {path for path in packs_of(snapshot) if not wandb_online.counters.total(f"*{path}.pack").puts}
        assert len(held) == 1
        dead = rank_of(held.pop(), snapshot)
        started.kill(dead)
        alive = [rank for rank in range(COUNT) if rank != dead]
        results = started.results(of=alive)
    wandb_online.clear_faults()
    assert all("ArtifactError" in result and f"[{dead}] is silent" in result for result in results)
    assert all("unfinished version" in result for result in results)
    assert wandb_online.store.artifacts("weights") == []
    assert [artifact.state for artifact in wandb_online.store.pending("weights")] == ["PENDING"]
    pushed = lamina.wandb.push("repo")
    assert [name.rpartition("/")[2] for name in pushed] == ["weights:v0"]
    (version,) = wandb_online.store.artifacts("weights")
    assert (version.aliases, version.tags) == (["chosen", "latest"], ["x"])
    assert_restores("weights:latest", tmp_path / "machine")
    assert lamina.wandb.push("repo") == []
    assert not list(Path("repo/journal").glob("*.json"))


def rank_of(pack: str, snapshot: lamina.Snapshot) -> int:
    """Packs are distributed in the order of size, then of name."""
    sizes = dict(lamina.open("repo")._core.packs_of(snapshot._core))
    return sorted(sizes, key=lambda name: (-sizes[name], f"packs/{name}.pack")).index(pack)


# --- Threads of this process, where no other process is needed.


def together(
    snapshots: Sequence[Any], runs: Sequence[Any], *, names: Sequence[str] = (), tags: Sequence[str] = ()
) -> list[Any]:
    """The result of each process: the artifact, None, or the error."""
    count = len(snapshots)
    barrier, messages, results = threading.Barrier(count), [b""] * count, [None] * count

    def gather_of(rank: int) -> Callable[[bytes], list[bytes]]:
        def gather(message: bytes) -> list[bytes]:
            messages[rank] = message
            barrier.wait(120)
            everything = list(messages)
            barrier.wait(120)
            return everything

        return gather

    def process(rank: int) -> None:
        try:
            results[rank] = lamina.wandb.log_checkpoint(
                snapshots[rank], run=runs[rank], name=names[rank] if names else "weights", tags=tags,
                writers=Writers(rank, count, gather_of(rank)),
            )  # fmt: skip
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


class NoRun:
    """Takes part without logging."""

    offline, disabled, id = True, False, "none"


def test_a_second_version_carries_what_is_there(wandb_online: Server, tmp_path: Path) -> None:
    with wandb.init() as run:
        for parts in (2, 4):
            results = together([saved(parts)] * 2, [run, run])
            assert [getattr(result, "version", None) for result in results] == [f"v{parts // 2 - 1}", None]
    first, second = wandb_online.store.artifacts("weights")
    old = {entry.path: entry.birth_artifact_id for entry in first.entries.values() if "packs/" in entry.path}
    assert {path: second.entries[path].birth_artifact_id for path in old} == dict.fromkeys(old, first.id)
    assert len(second.entries) == len(first.entries) + 2
    assert wandb_online.counters.total("*.pack").puts == 4
    wandb.Api().artifact("weights:v0").delete(delete_aliases=True)
    assert_restores("weights:latest", tmp_path / "machine")
    assert wandb_online.errors == []


def test_processes_without_a_run_leave_their_share_to_others(wandb_online: Server, tmp_path: Path) -> None:
    with wandb.init() as run:
        nothing, artifact, other = together([saved()] * 3, [NoRun(), run, run])
    assert (nothing, artifact.version, other) == (None, "v0", None)
    assert_restores("weights:latest", tmp_path / "machine")
    assert [type(result) for result in together([saved()] * 2, [NoRun(), NoRun()])] == [InvalidInputError] * 2


@pytest.mark.parametrize("differs", ["snapshot", "name"])
def test_different_versions_are_not_mixed(wandb_online: Server, differs: str) -> None:
    one, other = saved(1), saved(2)
    snapshots, names = ([one, other], []) if differs == "snapshot" else ([one, one], ["a", "b"])
    with wandb.init() as run:
        results = together(snapshots, [run, run], names=names)
    assert [type(result) for result in results] == [InvalidInputError] * 2
    assert wandb_online.count("CreateArtifact") == 0
    assert not list(Path("repo/journal").glob("*.json"))


def test_a_share_that_did_not_arrive_is_named_and_the_version_goes(
    wandb_online: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server lacks one share, as after a wrong merge."""
    snapshot = saved()
    with wandb.init() as run:
        upsert = run.upsert_artifact

        def astray(artifact: Any, *, aliases: list[str], distributed_id: str) -> Any:
            lost = rank_of(next(iter(artifact.manifest.entries))[6:-5], snapshot) == 1
            return upsert(
                artifact, aliases=aliases, distributed_id=f"{distributed_id}-lost" if lost else distributed_id
            )

        monkeypatch.setattr(run, "upsert_artifact", astray)
        results = together([snapshot] * 3, [run] * 3)
    lost = next(pack for pack in packs_of(snapshot) if rank_of(pack, snapshot) == 1)
    assert [type(result) for result in results] == [ArtifactError] * 3
    assert f"arrived without packs/{lost}.pack" in str(results[0])
    assert wandb_online.store.artifacts("weights") == []
    assert lamina.wandb.push("repo")
    assert_restores("weights:latest", tmp_path / "machine")


def test_a_refused_share_is_told_to_all(wandb_online: Server, tmp_path: Path) -> None:
    snapshot = saved()
    wandb_online.inject(operation="CreateArtifactFiles", error="no room", times=1)
    with wandb.init() as run:
        results = together([snapshot] * 3, [run, run, NoRun()])
    assert [type(result) for result in results] == [ArtifactError] * 3
    assert "failed in process" in str(results[2])
    assert any("no room" in str(result) for result in results)
    assert "lamina push" in str(results[0])
    assert wandb_online.store.artifacts("weights") == []
    with wandb.init() as run:  # files of the unfinished attempt are not mixed in
        again = together([snapshot] * 2, [run, run], tags=["t"])
    assert again[0].version == "v0"
    made = [op.variables["input"]["distributedID"] for op in wandb_online.operations if op.name == "CreateArtifact"]
    assert len(set(made)) == 2
    assert lamina.wandb.push("repo") == [f"{again[0].entity}/{again[0].project}/weights:v0"]
    assert wandb_online.store.artifact("weights:v0").tags == ["t"]
    assert_restores("weights:latest", tmp_path / "machine")


@pytest.mark.parametrize("merged_digest", [True, False])
def test_the_journal_knows_a_version_that_several_sent(
    wandb_online: Server, monkeypatch: pytest.MonkeyPatch, merged_digest: bool
) -> None:
    """The finishing process ends right after the server's commit; the version is not sent again."""
    from lamina.wandb.upload.publisher import Publisher

    wandb_online.store.policy.merged_digest = merged_digest
    monkeypatch.setattr(Publisher, "_settled", lambda *_: None)
    with wandb.init() as run:
        together([saved()] * 2, [run, run])
    assert len(list(Path("repo/journal").glob("*.json"))) == 1
    wandb_online.reset_counters()
    assert [name.rpartition("/")[2] for name in lamina.wandb.push("repo")] == ["weights:v0"]
    assert wandb_online.counters.total("*.pack").puts == 0
    assert len(wandb_online.store.artifacts("weights")) == 1


def test_what_several_writers_cannot_send_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    snapshot = saved(1)

    def never(message: bytes) -> list[bytes]:
        raise AssertionError("nobody else is asked")

    for source, layout in ((Path("a.weights.h5"), "packs"), (snapshot, "file")):
        with pytest.raises(InvalidInputError, match="writers= needs a snapshot"):
            lamina.wandb.log_checkpoint(source, layout=layout, writers=Writers(0, 2, never))
    with pytest.raises(InvalidInputError, match="2 of 2"):
        Writers(2, 2, never)
    with pytest.raises(InvalidInputError, match="2 messages"):
        lamina.wandb.log_checkpoint(snapshot, run=NoRun(), name="n", writers=Writers(0, 2, lambda message: [message]))


# --- The collectives of JAX and of torch.

COLLECTIVE = """
import sys
from lamina.wandb import Writers
kind, port, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
if kind == "jax":
    import jax
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
    writers = Writers.of_jax()
else:
    import torch.distributed
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    writers = Writers.of_torch()
assert (writers.rank, writers.count) == (rank, 2)
plan = writers.agree("the same" if rank else None, 4)
print("RESULT", plan.senders, plan.base, writers.all_did(plan, False), flush=True)
"""


@pytest.mark.backend
@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow has no such collective")
def test_the_collectives_of_the_backend(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", COLLECTIVE, keras.backend.backend(), str(port)]
    outputs = [tmp_path / "0", tmp_path / "1"]
    children = []
    for rank, output in enumerate(outputs):
        with output.open("w") as file:
            children.append(subprocess.Popen([*command, str(rank)], stdout=file, stderr=subprocess.STDOUT))
    try:
        status = [child.wait(timeout=240) for child in children]
    finally:
        for child in children:
            child.kill()
    said = [output.read_text() for output in outputs]
    assert status == [0, 0], said
    for text in said:
        assert "RESULT (1,) 4 [1]" in text.splitlines()
