"""`lamina bench`: speed of lamina on this machine, with your own checkpoint."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamina.cli.command import AsJson, size_of, verb
from lamina.cli.output import clean, human, print_json, print_table, progress
from lamina.errors import InvalidInputError, LaminaError, NotFoundError
from lamina.schemes import local_path

if TYPE_CHECKING:
    from lamina.benchmark import Result

_LEAST = 4_000_000


@verb(
    "bench",
    example="lamina bench model.keras --repeats 5",
    keys="file (null for random weights), bytes, threads, results (name, bytes, seconds of each run, median, stored "
    "bytes, failure)",
)
def bench(
    file: Annotated[
        str | None,
        typer.Argument(metavar="[FILE]", help="A checkpoint file; default: random weights.", show_default=False),
    ] = None,
    size: Annotated[
        str, typer.Option("--size", metavar="SIZE", help="Size of the random weights, such as 200MB or 1GB.")
    ] = "200MB",
    repeats: Annotated[
        int, typer.Option("--repeats", metavar="N", min=1, help="Counted runs of each row; the median is shown.")
    ] = 3,
    folder: Annotated[
        str, typer.Option("--folder", metavar="DIR", help="Where to write: a folder on the disk to measure.")
    ] = ".",
    as_json: AsJson = False,
) -> None:
    """Measure save, verify, export and the codec beside a memory copy, a hash, and a write with fsync.

    A run counts only if its result is correct. All files are in a temporary folder, which is removed at the end.
    """
    from lamina import _core, benchmark

    nbytes = _bytes(size)
    if not local_path(folder, "a directory").is_dir():
        raise NotFoundError(f"{folder} is not a directory; --folder needs an existing one")
    if file is not None and not local_path(file, "a file").is_file():
        raise NotFoundError(f"{file} is not a file")
    if file is not None and os.path.getsize(file) == 0:
        raise InvalidInputError(f"{file} is empty; expected a checkpoint file")
    with tempfile.TemporaryDirectory(prefix=".lamina-bench-", dir=folder) as temporary:
        path = Path(file) if file is not None else Path(temporary) / "random.weights.h5"
        with progress("measuring", 0):  # not the engine's phases, which would change all the time
            if file is None:
                benchmark.random_checkpoint(path, nbytes)
            results = benchmark.measure(path, Path(temporary), repeats)
        total = path.stat().st_size
    _show(file, total, _core.default_threads(), repeats, results, as_json)
    if wrong := [result for result in results if result.failure]:
        raise LaminaError(f"{wrong[0].name} failed: {wrong[0].failure}")


def _bytes(text: str) -> int:
    nbytes = size_of("--size", text)
    if nbytes < _LEAST:
        raise InvalidInputError(f"--size must be at least {human(_LEAST)}. Received: {text!r}")
    return nbytes


def _show(file: str | None, total: int, threads: int, repeats: int, results: list[Result], as_json: bool) -> None:
    if as_json:
        print_json({"file": file, "bytes": total, "threads": threads, "results": [_fields(r) for r in results]})
        return
    print(f"{clean(file or 'random weights')}, {human(total)}; {threads} engine threads; median of {repeats} runs")
    rows = [_row(result) for result in results]
    print_table(["", ">ms", ">GB/s", ">spread", ">stored"], rows)


def _fields(result: Result) -> dict[str, Any]:
    return {
        "name": result.name,
        "bytes": result.nbytes,
        "seconds": result.seconds,
        "median": result.median,
        "stored": result.stored,
        "failure": result.failure,
    }


def _row(result: Result) -> list[object]:
    if result.median is None:
        return [result.name, "FAIL", None, None, None]
    spread = (max(result.seconds) - min(result.seconds)) / result.median
    stored = None if result.stored is None else f"{result.stored / result.nbytes:.1%}"
    speed = result.nbytes / result.median / 1e9
    return [result.name, f"{result.median * 1e3:,.1f}", f"{speed:.2f}", f"{spread:.0%}", stored]
