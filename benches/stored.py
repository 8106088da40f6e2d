"""Bytes on disk per version: where deduplication helps, where it does not, and its cost."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import lamina
from benches import corpora
from benches.corpora import Corpus
from benches.measure import Bench, Row, Table

#: What happens between two versions: part of the tensors that change.
SCENARIOS = {"unchanged": 0.0, "95 % frozen": 0.05, "half frozen": 0.5, "dense: every tensor changes": 1.0}
VERSIONS = 10
FEW = 4


def run(bench: Bench) -> Iterator[Table]:
    """One table per corpus."""
    names = ("dense",) if bench.quick else ("dense", "many", "trained", "bfloat16", "float16")
    for corpus in bench.corpora.choose(names, bench.missing):
        if corpus.path.suffix == ".keras":
            bench.missing["bytes"] = "a .keras file cannot be changed in place; give its .weights.h5"
            return
        rows = []
        for name, part in SCENARIOS.items():
            bench.say(f"bytes: {corpus}, {name}")
            rows.append(_row(name, part, corpus, bench))
        versions = FEW if bench.quick else VERSIONS
        note = (
            f"{versions} versions; all sizes as parts of the plain file; every file of the repository counted; "
            "every version exported and compared at the end"
        )
        formats = {"version 1": "{:.4f}", "later, mean": "{:.5f}", "later, most": "{:.5f}", "all versions": "{:.3f}"}
        yield Table(f"bytes · {corpus}", note, formats, rows)


def _row(name: str, part: float, corpus: Corpus, bench: Bench) -> Row:
    folder = bench.folder / "bytes"
    moving = bench.corpora.copy(corpus, folder / "moving")
    repository = folder / "repository"
    sizes, digests = [0], []
    for number in range(FEW if bench.quick else VERSIONS):
        if number and part:
            corpora.change(moving, part, seed=number)
        lamina.save(moving.path, repository)
        sizes.append(on_disk(repository))
        digests.append(digest(moving.path))
    whole = corpus.nbytes
    added = [(after - before) / whole for before, after in itertools.pairwise(sizes)]
    values = {
        "version 1": added[0],
        "later, mean": sum(added[1:]) / len(added[1:]),
        "later, most": max(added[1:]),
        "all versions": sizes[-1] / whole,
    }
    failure = _wrong_version(repository, digests, folder / "out")
    shutil.rmtree(folder)
    return Row(name, values, failure, ours=True)


def _wrong_version(repository: Path, digests: list[str], out: Path) -> str:
    for snapshot, wanted in zip(lamina.open(repository).snapshots(), digests, strict=True):
        (path,) = lamina.export(snapshot, out)
        if digest(path) != wanted:
            return f"version {snapshot.number} is not what was saved"
    return ""


def on_disk(root: Path) -> int:
    """Bytes of all files under a folder."""
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def digest(path: Path) -> str:
    """SHA-256, a different hash than the engine's own."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
