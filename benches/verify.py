"""``verify``: every pack's digest, every chunk decoded and its digest compared."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import lamina
from benches import baselines
from benches.measure import Bench, Contender, Table, demand, race, times
from lamina.errors import CorruptDataError
from lamina.repository.repository import Repository
from lamina.repository.results import VerifyReport


def run(bench: Bench) -> Iterator[Table]:
    """One table per corpus."""
    for corpus in bench.corpora.choose(("dense",) if bench.quick else ("dense", "trained"), bench.missing):
        bench.say(f"verify: {corpus}")
        data = corpus.data()
        lined_up = [baselines.copy(data), *baselines.hashes(data, bench)]
        for codec in ("auto", "raw"):
            root = bench.folder / codec
            lamina.save(corpus.path, root, codec=codec)
            lined_up += contenders(lamina.open(root), codec)
        against = {"BLAKE3": "BLAKE3", "copy": baselines.COPY}
        note = f"packs in the page cache; {baselines.threads()}; a flipped bit had to be found first"
        outcomes = race(lined_up, bench.repeats)
        yield times(f"verify · {corpus}", note, outcomes, corpus.nbytes, against)
        for codec in ("auto", "raw"):
            shutil.rmtree(bench.folder / codec)


def contenders(repository: Repository, codec: str) -> Iterator[Contender]:
    """A full and a quick verify."""
    finds_damage(repository)

    def right(report: VerifyReport) -> None:
        demand(report.packs > 0 and not report.problems, f"found {report}")

    def full(report: VerifyReport) -> None:
        right(report)
        demand(report.chunks > 0 and report.bytes > 0, f"looked at nothing: {report}")

    yield Contender(f"verify(full=True), codec={codec}", lambda _: repository.verify(full=True), full, ours=True)
    yield Contender(f"verify(), codec={codec}", lambda _: repository.verify(), right, ours=True)


def finds_damage(repository: Repository) -> None:
    """Check that a full verify finds a flipped bit: one that checks nothing would be fast."""
    pack = max((repository.path / "packs").iterdir(), key=lambda path: path.stat().st_size)
    middle = pack.stat().st_size // 2
    flip(pack, middle)
    try:
        repository.verify(full=True)
    except CorruptDataError:
        return
    finally:
        flip(pack, middle)
    raise AssertionError("a full verify did not find a flipped bit")


def flip(path: Path, offset: int) -> None:
    """Flip the lowest bit of one byte."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
