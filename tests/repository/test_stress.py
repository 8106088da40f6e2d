"""Several processes and threads on one repository at once; with ``LAMINA_SOAK=1`` for minutes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import busy_process
import lamina
from lamina.repository import repository
from places import HELPERS
from stopped_process import stop_within

_SCRIPT = HELPERS / "busy_process.py"
_ROUNDS = 500 if os.environ.get("LAMINA_SOAK") else 12


def start(role: str, folder: Path, seed: int, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(_SCRIPT), role, str(folder), str(seed), str(rounds)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@contextmanager
def started(role: str, folder: Path, seed: int, rounds: int = 100_000) -> Iterator[subprocess.Popen[str]]:
    with start(role, folder, seed, rounds) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    busy_process.save(repository.open_or_create(tmp_path / "r"), 0, "first")
    return tmp_path / "r"


def intact(folder: Path) -> None:
    opened = lamina.open(folder)
    assert not opened.verify(full=True).problems
    for snapshot in opened.snapshots():
        busy_process.check(snapshot)


def test_processes_and_threads_at_once(repo: Path) -> None:
    roles = ["save", "save", "read", "prune", "verify", "all"]
    processes = [start(role, repo, seed, _ROUNDS) for seed, role in enumerate(roles)]
    outputs = [process.communicate(timeout=3000) for process in processes]
    for role, process, (_, errors) in zip(roles, processes, outputs, strict=True):
        assert process.returncode == 0, (role, errors)
    lines = Counter(line.split()[0] for text, _ in outputs for line in text.splitlines())
    assert lines["saved"] == 3 * _ROUNDS
    assert lines["verified"] == 2 * _ROUNDS
    intact(repo)
    reported = [[line.split()[1] for line in text.splitlines() if line.startswith("saved")] for text, _ in outputs]
    kept = {snapshot.id for snapshot in lamina.open(repo).snapshots()}
    assert {ids[-1] for ids in reported if ids} <= kept
    lamina.open(repo).prune(busy_process.KEEP)
    assert not list((repo / "sessions").iterdir())
    intact(repo)


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="stops a process by a signal")
def test_prune_keeps_what_a_stopped_save_relies_on(repo: Path) -> None:
    """A process is stopped inside a save; for the others it could be stopped for an hour."""
    opened = lamina.open(repo)
    with started("save", repo, 1) as process:
        for _ in range(5):
            stop_within(process, lambda: list((repo / "sessions").glob("[0-9a-f]*")))
            known = {snapshot.id for snapshot in opened.snapshots()}
            # Prune deletes almost everything, also data that the save builds on, unless it respects the save.
            busy_process.save(opened, 1_000_000, "s1")
            for _ in range(3):
                opened.prune(lamina.Keep(last=1))
            os.kill(process.pid, signal.SIGCONT)
            busy_process.check(opened.snapshot(first_unknown(process, known)))
    intact(repo)


def first_unknown(process: subprocess.Popen[str], known: set[str]) -> str:
    """The numbers of the saves that the process reports."""
    assert process.stdout is not None
    while (line := process.stdout.readline()) and line.split()[1] in known:
        pass
    return line.split()[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_worker_of_a_killed_saver_stops_nobody(repo: Path) -> None:
    with started("save-fork", repo, 1) as process:
        assert process.stdout is not None
        while process.stdout.readline() not in ("forked\n", ""):
            pass
        process.kill()
        process.wait()
        # The worker lives, and waits for the end of its input.
        opened = lamina.open(repo)
        busy_process.save(opened, 1_000_000, "other")
        assert opened.prune(lamina.Keep(last=1)).waiting == 0
        assert opened.prune(lamina.Keep(last=1)).waiting == 0
        assert not list((repo / "sessions").iterdir())
        intact(repo)


def test_a_soak_of_seconds() -> None:
    """Each fault once, during real training; ``make soak`` runs them for longer."""
    script = HELPERS / "soak.py"
    done = subprocess.run([sys.executable, str(script), "0"], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert {"kills", "stops", "refusals", "damages mended"} <= found.keys()
