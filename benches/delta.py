"""Versions stored as differences: their bytes, what a restore then reads, and the processor time of a save."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import lamina
from benches import histories
from benches.baselines import same
from benches.corpora import MissingCorpusError, size_text
from benches.histories import Arrays
from benches.measure import Bench, Row, Table, demand
from benches.stored import on_disk

#: The versions that one base serves.
SERVED = 8
FEW = 2
PLANES = "planes"
CODECS = (PLANES, "auto", "delta")


@dataclass
class Kept:
    """The repository of one codec, and the cost of each version after the first."""

    root: Path
    sizes: list[int] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    failure: str = ""


def run(bench: Bench) -> Iterator[Table]:
    """One table per kind of training."""
    versions = 1 + (FEW if bench.quick else SERVED)
    kinds: dict[str, Callable[[], Iterator[Arrays]]] = {
        "embedding, 1 % of the rows touched": lambda: histories.embedding(versions),
        "dense training with Adam, weights": lambda: histories.adam(versions, moments=False),
        "dense training with Adam, weights and both moments": lambda: histories.adam(versions, moments=True),
        "fine-tuning with Adam, 95 % frozen": lambda: histories.frozen(versions),
        "LoRA, merged as Keras writes it": lambda: histories.lora(versions, merged=True),
        "LoRA, factors apart": lambda: histories.lora(versions, merged=False),
    }
    for number, (name, states) in enumerate(kinds.items()):
        bench.say(f"delta: {name}")
        try:
            yield _table(name, states(), bench.folder / str(number))
        except MissingCorpusError as error:
            bench.missing[f"delta, {name}"] = str(error)


def _table(name: str, states: Iterator[Arrays], folder: Path) -> Table:
    kept = {codec: Kept(folder / codec) for codec in CODECS}
    path, nbytes, count = folder / "m.weights.h5", 0, 0
    for count, arrays in enumerate(states):
        histories.write(path, arrays)
        nbytes = path.stat().st_size
        turn = count % len(CODECS)
        for codec in CODECS[turn:] + CODECS[:turn]:
            if not kept[codec].failure:
                _save(path, codec, kept[codec])
    note = (
        f"{count} versions of {size_text(nbytes)} after the first, each exported and compared; 'bytes' of all files of "
        "the repository, 'reads' of a restore, both as parts of what codec=planes takes: mean (most); medians of CPU"
    )
    formats = {
        "kB": "{:,.1f}",
        "/ file": "{:.4f}",
        "/ planes": "{:.4f}",
        "most": "{:.4f}",
        "reads / planes": "{:.2f}",
        "CPU ms": "{:.1f}",
    }
    return Table(f"delta · {name}", note, formats, [_row(codec, kept, nbytes) for codec in CODECS])


def _save(path: Path, codec: str, kept: Kept) -> None:
    before, start = on_disk(kept.root), time.process_time()
    snapshot = lamina.save(path, kept.root, codec=codec)
    kept.cpu.append(time.process_time() - start)
    kept.sizes.append(on_disk(kept.root) - before)
    try:
        (exported,) = lamina.export(snapshot, kept.root.parent / "out")
        demand(same(exported, np.fromfile(path, np.uint8)), f"version {snapshot.number} is not what was saved")
    except Exception as error:  # its row says FAIL and the others continue
        kept.failure = f"{type(error).__name__}: {error}"
        return
    exported.unlink()
    kept.reads.append(_reads(lambda: lamina.read_tensors(kept.root)))


def _reads(call: Callable[[], Any]) -> int:
    """Count the bytes that this process reads from files in the block."""
    before = _read_so_far()
    call()
    return _read_so_far() - before


def _read_so_far() -> int:
    try:
        return int(Path("/proc/self/io").read_text().split()[1])
    except OSError:  # Linux only
        return 0


def _row(codec: str, kept: dict[str, Kept], nbytes: int) -> Row:
    own, planes = kept[codec], kept[PLANES]
    values = {}
    if not own.failure and not planes.failure:
        parts = [mine / theirs for mine, theirs in zip(own.sizes[1:], planes.sizes[1:], strict=True)]
        values = {
            "kB": statistics.mean(own.sizes[1:]) / 1e3,
            "/ file": statistics.mean(own.sizes[1:]) / nbytes,
            "/ planes": sum(own.sizes[1:]) / sum(planes.sizes[1:]),
            "most": max(parts),
            "reads / planes": max(own.reads[1:]) / max(planes.reads[1:]) if max(planes.reads) else float("nan"),
            "CPU ms": statistics.median(own.cpu[1:]) * 1e3,
        }
    return Row(f"codec={codec}", values, own.failure, ours=True, seconds={"cpu": own.cpu})
