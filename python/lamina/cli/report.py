"""`lamina report`: the history of a series as one page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lamina.cli.command import AsJson, Source, verb
from lamina.cli.output import clean, count, human, print_json, progress

if TYPE_CHECKING:
    from lamina.report import Report

_DEFAULT = "report.html"
_KEYS = (
    "source, series, run, best (number), versions (number, id, created_at, epoch, batch, step, monitor, mode, value, "
    "best_so_far, aliases, logs, bytes_total, bytes_new, bytes_stored, blocked_seconds, upload_seconds, moved: "
    "relative L2 distance from the version before of each tensor that moved, null where there is none), "
    "tensors (name, layer, role, dtype, shape, bytes), "
    "layers (name, bytes, bytes_total, bytes_distinct, bytes_stored, dedup, compression), "
    "notes; the page is written only where -o is given"
)


@verb("report", example="lamina report runs/a -o report.html", keys=_KEYS)
def report(
    source: Source,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help=f"The page; a page that is there is replaced. {_DEFAULT} without it."
        ),
    ] = None,
    series: Annotated[
        str | None, typer.Option("--series", metavar="NAME", help="The series, where there are several.")
    ] = None,
    no_distances: Annotated[
        bool, typer.Option("--no-distances", help="Read no tensor: quick, and without the heat map.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the history of a series on one page: values, sizes, times, how far each tensor moved, what layers cost.

    The page needs no network. DIR@ALIAS tells the history up to that version; a source that is no repository has one
    version.
    """
    if as_json:
        found = _gathered(source, series, no_distances)
        if output is not None:
            _written(found, output)
        print_json(found.to_json())
        return
    from lamina.report.write import check_target

    target = check_target(output or _DEFAULT)
    found = _gathered(source, series, no_distances)
    size = _written(found, str(target))
    counts = [count(len(found.versions), "version"), count(len(found.tensors), "tensor")]
    print(f"{clean(target)}: {', '.join(counts)}, {human(size)}")


def _gathered(source: str, series: str | None, no_distances: bool) -> Report:
    from lamina.report import gather, history

    found = history(source, series)
    with progress("reading versions", found.bytes) as advance:
        return gather(found, distances=not no_distances, advance=advance)


def _written(found: Report, output: str) -> int:
    from lamina.report.write import write

    with progress("drawing"):
        return write(found, output)
