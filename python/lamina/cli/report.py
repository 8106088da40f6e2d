"""`lamina report`: write the history of a series as one HTML page."""

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
    "relative L2 distance to the previous version for each tensor that moved, null if undefined), "
    "tensors (name, layer, role, dtype, shape, bytes), "
    "layers (name, bytes, bytes_total, bytes_distinct, bytes_stored, dedup, compression), "
    "notes; with --json, the page is written only with -o"
)


@verb("report", example="lamina report runs/a -o report.html", keys=_KEYS)
def report(
    source: Source,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help=f"File to write; an existing report is replaced. Default: {_DEFAULT}.",
        ),
    ] = None,
    series: Annotated[
        str | None, typer.Option("--series", metavar="NAME", help="The series, if there are several.")
    ] = None,
    no_distances: Annotated[
        bool, typer.Option("--no-distances", help="Skip reading tensors: faster, without the heat map.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the history of a series as one page: values, sizes, times, tensor changes and cost per layer.

    The page works offline. DIR@ALIAS shows the history up to that version; a source that is not a repository has one
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
