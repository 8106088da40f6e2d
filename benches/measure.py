"""Fair timing: contenders take turns in one process, and a run with a wrong result does not count."""

from __future__ import annotations

import gc
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benches.corpora import Corpora, Corpus


class WrongResultError(Exception):
    """A contender returned a wrong result."""


def demand(holds: bool, what: str) -> None:
    """Fail the run that is being checked unless ``holds``."""
    if not holds:
        raise WrongResultError(what)


def nothing(*_: Any) -> None:
    """No preparation, or nothing to check here."""


@dataclass(frozen=True)
class Contender:
    """One way to do a job.

    Args:
        name: its name in the table.
        run: the timed function; gets the result of ``prepare``.
        check: gets the result of ``run`` and raises an error if it is wrong; not timed.
        prepare: called before each run; not timed.
        ours: whether it is lamina's; its failure makes the exit code 1.
    """

    name: str
    run: Callable[[Any], Any]
    check: Callable[[Any], None]
    prepare: Callable[[], Any] = nothing
    ours: bool = False


@dataclass
class Outcome:
    """The wall-clock and processor seconds of each run, or the reason why there are none."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    failure: str = ""
    ours: bool = False

    @property
    def median(self) -> float:
        """Median wall-clock seconds."""
        return self._middle(self.seconds)

    @property
    def median_cpu(self) -> float:
        """Median processor seconds; other work on the machine disturbs them less."""
        return self._middle(self.cpu)

    def _middle(self, values: list[float]) -> float:
        return statistics.median(values) if values and not self.failure else float("nan")

    @property
    def spread(self) -> float:
        """(slowest − fastest) / median."""
        return (max(self.seconds) - min(self.seconds)) / self.median if self.seconds else float("nan")


def race(contenders: Iterable[Contender], repeats: int) -> dict[str, Outcome]:
    """Run all contenders in turns: ``repeats`` rounds, after one that does not count. The order rotates."""
    lined_up = list(contenders)
    outcomes = {c.name: Outcome(ours=c.ours) for c in lined_up}
    for number in range(repeats + 1):
        first = number % len(lined_up)
        for contender in lined_up[first:] + lined_up[:first]:
            outcome = outcomes[contender.name]
            if not outcome.failure:
                took, cpu = _one(contender, outcome)
                if number and not outcome.failure:
                    outcome.seconds.append(took)
                    outcome.cpu.append(cpu)
    return outcomes


def _one(contender: Contender, outcome: Outcome) -> tuple[float, float]:
    took = cpu = float("nan")
    try:
        given = contender.prepare()
        gc.collect()
        gc.disable()
        start, start_cpu = time.perf_counter(), time.process_time()
        result = contender.run(given)
        took, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        contender.check(result)
    except Exception as error:  # a peer may raise anything; its row says FAIL and the others continue
        outcome.failure = f"{type(error).__name__}: {error}"
    finally:
        gc.enable()
    return took, cpu


@dataclass
class Row:
    """A row of a table: numbers by column, or the reason why there are none."""

    name: str
    values: Mapping[str, float]
    failure: str = ""
    ours: bool = False
    seconds: Mapping[str, list[float]] = field(default_factory=dict)


@dataclass
class Table:
    """The results of a group. ``formats`` has the format of each column; ``note`` says how they were measured."""

    title: str
    note: str
    formats: Mapping[str, str]
    rows: list[Row]

    def show(self) -> str:
        """As text for a terminal."""
        lines = [["", *self.formats]] + [[row.name, *self._cells(row)] for row in self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        text = [
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        failures = [f"FAIL {row.name}: {row.failure}" for row in self.rows if row.failure]
        return "\n".join([self.title, self.note, *text, *failures]) + "\n"

    def _cells(self, row: Row) -> list[str]:
        if row.failure:
            return ["FAIL" for _ in self.formats]
        return [_cell(row.values.get(column), form) for column, form in self.formats.items()]

    def as_json(self) -> dict[str, Any]:
        """As JSON values, with every single run."""
        rows = [vars(row) | {"values": {k: v if v == v else None for k, v in row.values.items()}} for row in self.rows]
        return {"title": self.title, "note": self.note, "rows": rows}


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None or value != value else form.format(value)


#: Columns of a table of times.
TIMES = {"ms": "{:,.1f}", "spread": "{:.0%}", "CPU ms": "{:,.1f}", "GB/s": "{:.2f}"}


def times(title: str, note: str, outcomes: Mapping[str, Outcome], nbytes: int, against: Mapping[str, str]) -> Table:
    """A table of outcomes. ``against`` maps labels to contenders; each gets a column with times relative to it.

    If several contenders' names begin with that name, the fastest counts; if none does, the column is left out.
    """
    alike = {label: [o for n, o in outcomes.items() if n.startswith(name)] for label, name in against.items()}
    columns = {f"/ {label}": min(o.median for o in found) for label, found in alike.items() if found}
    rows = []
    for name, outcome in outcomes.items():
        values = {
            "ms": outcome.median * 1e3,
            "spread": outcome.spread,
            "CPU ms": outcome.median_cpu * 1e3,
            "GB/s": nbytes / outcome.median / 1e9,
        }
        values |= {column: outcome.median / base for column, base in columns.items()}
        rows.append(Row(name, values, outcome.failure, outcome.ours, {"wall": outcome.seconds, "cpu": outcome.cpu}))
    return Table(title, note, TIMES | dict.fromkeys(columns, "{:.2f}"), rows)


@dataclass(frozen=True)
class Bench:
    """The arguments of a group."""

    corpora: Corpora
    folder: Path  # empty, on the disk that is measured
    repeats: int
    quick: bool
    missing: dict[str, str]  # what could not be measured, and how to get it

    def say(self, text: str) -> None:
        """Report progress on stderr."""
        print(f"… {text}", file=sys.stderr, flush=True)

    def in_a_folder(self, group: str, table: Callable[[Corpus, Path, Bench], Table]) -> Iterator[Table]:
        """A table per corpus, each measured in a new folder that is deleted afterwards."""
        names = ("dense", "many") if self.quick else ("dense", "many", "trained", "bfloat16", "float16")
        for corpus in self.corpora.choose(names, self.missing):
            self.say(f"{group}: {corpus}")
            folder = self.folder / group
            folder.mkdir()
            yield table(corpus, folder, self)
            shutil.rmtree(folder)
