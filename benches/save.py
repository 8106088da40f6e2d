"""``lamina.save(path)``: a first save, one where nothing changed, one where 5 % did; fsync included everywhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lamina
from benches import baselines, corpora, peers
from benches.corpora import Corpus
from benches.measure import Bench, Contender, Table, demand, race, times

CHANGED = 0.05


def run(bench: Bench) -> Iterator[Table]:
    """One table per corpus."""
    return bench.in_a_folder("save", _table)


def _table(corpus: Corpus, folder: Path, bench: Bench) -> Table:
    data = corpus.data()
    lined_up = [
        baselines.copy(data),
        *baselines.hashes(data, bench),
        baselines.write(data, folder),
        *safetensors(corpus, folder, bench),
        *xet(corpus, bench),
        first(corpus, folder, "auto"),
        first(corpus, folder, "raw"),
        unchanged(corpus, folder),
        partly(corpus, folder, bench),
    ]
    against = {"write": baselines.WRITE, "BLAKE3": "BLAKE3", "copy": baselines.COPY}
    note = (
        f"lamina reads the file from the page cache and ends with fsync of packs and snapshot; {baselines.threads()}; "
        "checked by exporting each snapshot"
    )
    outcomes = race([c for c in lined_up if c is not None], bench.repeats)
    return times(f"save · {corpus}", note, outcomes, corpus.nbytes, against)


def safetensors(corpus: Corpus, folder: Path, bench: Bench) -> Iterator[Contender]:
    """The same tensors, written from memory by a peer in its format."""
    library = peers.safetensors(bench.missing)
    if library is None:
        return
    tensors, path = lamina.read_tensors(corpus.path), folder / "m.safetensors"

    def save(_: Any) -> None:
        library.save_file(tensors, path)
        with path.open("rb") as file:
            os.fsync(file.fileno())

    def check(_: Any) -> None:
        found = library.load_file(path)
        for name, array in tensors.items():
            demand(found[name].tobytes() == array.tobytes(), f"{name} differs")

    yield Contender("safetensors save_file + fsync, from memory", save, check, lambda: path.unlink(missing_ok=True))


def xet(corpus: Corpus, bench: Bench) -> Iterator[Contender]:
    """hf-xet's minimum for a file that the server already has."""
    for name, digest in peers.xet(bench.missing):
        seen: set[str] = set()

        def check(value: str, seen: set[str] = seen) -> None:
            seen.add(value)
            demand(len(seen) == 1, "the same file got another hash")

        yield Contender(name, lambda _, digest=digest: digest(str(corpus.path)), check)


def first(corpus: Corpus, folder: Path, codec: str) -> Contender:
    """Save into a new repository."""
    repository = folder / f"first-{codec}"

    def prepare() -> Path:
        shutil.rmtree(repository, ignore_errors=True)
        return corpus.path

    def save(path: Path) -> lamina.Snapshot:
        return lamina.save(path, repository, codec=codec)

    return Contender(f"lamina.save, first, codec={codec}", save, check(corpus, folder), prepare, ours=True)


def unchanged(corpus: Corpus, folder: Path) -> Contender:
    """Save again into a repository that has the file."""
    repository = folder / "unchanged"
    lamina.save(corpus.path, repository)

    def right(snapshot: lamina.Snapshot) -> None:
        demand(snapshot.bytes_new == 0, f"{snapshot.bytes_new} bytes of an unchanged file were new")
        check(corpus, folder)(snapshot)

    return Contender("lamina.save, unchanged", lambda _: lamina.save(corpus.path, repository), right, ours=True)


def partly(corpus: Corpus, folder: Path, bench: Bench) -> Contender | None:
    """Save again after 5 % of the bytes have changed, in whole tensors, other ones each time."""
    if corpus.path.suffix == ".keras":
        bench.missing["save, 95 % unchanged"] = "a .keras file cannot be changed in place; give its .weights.h5"
        return None
    repository, moving = folder / "partly", bench.corpora.copy(corpus, folder / "moving")
    lamina.save(moving.path, repository)
    seeds = iter(range(1_000_000))

    def prepare() -> None:
        corpora.change(moving, CHANGED, next(seeds))
        with moving.path.open("rb") as file:
            os.fsync(file.fileno())  # otherwise the file system flushes it during another contender's turn

    return Contender(
        "lamina.save, 95 % unchanged",
        lambda _: lamina.save(moving.path, repository),
        check(moving, folder),
        prepare,
        ours=True,
    )


def check(corpus: Corpus, folder: Path) -> Callable[[lamina.Snapshot], None]:
    """Check that an export is equal to the file, byte for byte."""

    def right(snapshot: lamina.Snapshot) -> None:
        (path,) = lamina.export(snapshot, folder / "out")
        demand(baselines.same(path, corpus.data()), "the exported file differs")

    return right
