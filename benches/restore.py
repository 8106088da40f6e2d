"""``lamina.export`` and ``lamina.read_tensors``, every chunk verified, beside reads that verify nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

import lamina
from benches import baselines, peers
from benches.corpora import Corpus
from benches.measure import Bench, Contender, Table, demand, race, times
from benches.peers import Bytes
from lamina.repository.dtypes import to_numpy

Tensors = dict[str, npt.NDArray[Any]]
READ = "np.fromfile"


def run(bench: Bench) -> Iterator[Table]:
    """One table per corpus."""
    return bench.in_a_folder("restore", _table)


def _table(corpus: Corpus, folder: Path, bench: Bench) -> Table:
    data = corpus.data()
    lined_up = [
        Contender(
            READ, lambda _: np.fromfile(corpus.path, np.uint8), lambda got: demand(np.array_equal(got, data), "differs")
        ),
        copied(corpus, data, folder),
    ]
    if corpus.path.suffix != ".keras":
        lined_up.append(Contender("h5py, all tensors", lambda _: with_h5py(corpus), holds(corpus, data)))
    lined_up += safetensors(corpus, data, folder, bench)
    for codec in ("auto", "raw"):
        lamina.save(corpus.path, folder / codec, codec=codec)
        lined_up += ours(corpus, data, folder, codec)
    note = f"page cache warm, into fresh memory; export and the copied file with fsync; {baselines.threads()}"
    against = {"fromfile": READ, "copied": COPIED, "h5py": "h5py, all tensors"}
    outcomes = race(lined_up, bench.repeats)
    return times(f"restore · {corpus}", note, outcomes, corpus.nbytes, against)


def safetensors(corpus: Corpus, data: Bytes, folder: Path, bench: Bench) -> Iterator[Contender]:
    """The same tensors, read by a peer from its format into new memory."""
    library, path = peers.safetensors(bench.missing), folder / "m.safetensors"
    if library is None:
        return
    library.save_file(lamina.read_tensors(corpus.path), path)
    yield Contender("safetensors load_file", lambda _: library.load_file(path), holds(corpus, data))


COPIED = "copy file + fsync"


def copied(corpus: Corpus, data: Bytes, folder: Path) -> Contender:
    """A plain copy of the file, the lower bound for an export."""
    target = folder / "copied"

    def run(_: Any) -> None:
        shutil.copyfile(corpus.path, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())

    prepare = lambda: target.unlink(missing_ok=True)  # noqa: E731
    return Contender(COPIED, run, lambda _: demand(baselines.same(target, data), "the file differs"), prepare)


def ours(corpus: Corpus, data: Bytes, folder: Path, codec: str) -> Iterator[Contender]:
    """`export` and `read_tensors`."""
    repository, out = folder / codec, folder / "out"

    def clear() -> None:
        shutil.rmtree(out, ignore_errors=True)

    def exported(paths: list[Path]) -> None:
        demand(baselines.same(paths[0], data), "the file differs")

    name = f"codec={codec}"
    yield Contender(f"lamina.export, {name}", lambda _: lamina.export(repository, out), exported, clear, ours=True)
    read = lambda _: lamina.read_tensors(repository)  # noqa: E731
    yield Contender(f"lamina.read_tensors, {name}", read, holds(corpus, data), ours=True)


def with_h5py(corpus: Corpus) -> Tensors:
    """Read every dataset of an HDF5 file as an array."""
    found: Tensors = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(corpus.path) as file:
        file.visititems(visit)
    return found


def holds(corpus: Corpus, data: Bytes) -> Any:
    """A check that all tensors are there with the right bytes."""

    def right(tensors: Tensors) -> None:
        for tensor in corpus.tensors():
            array = tensors[tensor.name]
            wanted = data[tensor.offset : tensor.offset + tensor.nbytes]
            demand(array.shape == tensor.shape and array.dtype.itemsize == to_numpy(tensor.dtype).itemsize, tensor.name)
            demand(np.array_equal(array.reshape(-1).view(np.uint8), wanted), f"{tensor.name} differs")

    return right
