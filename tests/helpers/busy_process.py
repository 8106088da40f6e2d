"""One of several processes that work on a repository at once: ``python busy_process.py ROLE REPOSITORY SEED ROUNDS``.

Prints a line for each round, and raises if something is wrong. The number of a state determines its content, so a
reader knows what a snapshot must hold.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

import lamina
from engine_repositories import File, Saved, Tensor, check_arrays, save_memory
from lamina.errors import BusyError, NotFoundError
from lamina.repository.content import Content
from lamina.repository.repository import Repository
from lamina.sources import resolve

KEEP = lamina.Keep(last=3)


def tensors(number: int) -> list[Tensor]:
    """Half of it is the same in each state, a quarter in ten states, a quarter in this one only."""
    seeds = [0, 1, 1000 + number // 10, 100_000 + number]
    arrays = [np.random.default_rng(seed).standard_normal((300, 200)).astype("<f4") for seed in seeds]
    return [Tensor(f"layers/{i}/vars/0", "<f4", array) for i, array in enumerate(arrays)]


def save(repository: Repository, number: int, series: str) -> lamina.Snapshot:
    file = File("m.weights.h5", tuple((b"head", tensor) for tensor in tensors(number)), b"tail")
    return save_memory(repository, Saved([file], fields={"series": series, "metadata": {"number": number}}))


def check(snapshot: lamina.Snapshot) -> None:
    """Check that each tensor is that of the snapshot's number."""
    content = resolve(snapshot).content
    assert isinstance(content, Content)
    check_arrays(content.read_named(), {tensor.name: tensor for tensor in tensors(snapshot.metadata["number"])})


def saving(repository: Repository, chance: random.Random, series: str) -> str:
    """Save a new state or an earlier one, whose chunks may be pruned at the same time."""
    snapshot = save(repository, chance.randrange(40), series)
    return f"saved {snapshot.id}"


def reading(repository: Repository, chance: random.Random, series: str) -> str:
    """Read any snapshot; another process may prune it at any moment."""
    try:
        found = [snapshot for snapshot in repository.snapshots() if "number" in snapshot.metadata]
        if not found:
            return "nothing"
        check(chance.choice(found))
    except NotFoundError:
        return "pruned"
    return "read"


def pruning(repository: Repository, chance: random.Random, series: str) -> str:
    try:
        repository.prune(KEEP)
    except BusyError:
        return "waited"
    return "pruned"


def verifying(repository: Repository, chance: random.Random, series: str) -> str:
    report = repository.verify(full=True)
    assert not report.problems, report.problems
    return "verified"


ROLES: dict[str, Callable[[Repository, random.Random, str], str]] = {
    "save": saving,
    "read": reading,
    "prune": pruning,
    "verify": verifying,
}


def work(role: str, folder: Path, seed: int, rounds: int) -> None:
    chance = random.Random(seed)
    repository = lamina.open(folder)
    for _ in range(rounds):
        # In one call, with the newline: other threads write too.
        print(f"{ROLES[role](repository, chance, f's{seed}')}\n", end="", flush=True)


def main(role: str, folder: Path, seed: int, rounds: int) -> None:
    """With ``fork`` in the role, a forked worker with copies of all descriptors lives until stdin is closed."""
    role, _, fork = role.partition("-")
    if role == "all":
        _all(folder, seed, rounds)
        return
    if not fork:
        work(role, folder, seed, rounds)
        return
    thread = threading.Thread(target=work, args=(role, folder, seed, rounds), daemon=True)
    thread.start()
    while not any((folder / "sessions").glob("[0-9a-f]*")):
        pass
    if os.fork() == 0:
        print("forked", flush=True)
        sys.stdin.read()
        os._exit(0)
    thread.join()


def _all(folder: Path, seed: int, rounds: int) -> None:
    """A thread for each role."""
    failures: list[BaseException] = []

    def guarded(role: str) -> None:
        try:
            work(role, folder, seed, rounds)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(role,)) for role in ROLES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
