"""`lamina ls`: the snapshots of a repository."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lamina.cli.command import AsJson, Source, verb
from lamina.cli.describe import metric, moment, repository_at, snapshot_json, time_of
from lamina.cli.output import human, print_json, print_table

_COLUMNS = (">no", "id", "series", "created (UTC)", "epoch", "metric", ">size", ">new", ">stored", "aliases")


@verb("ls", example="lamina ls runs/a", keys="source, snapshots (oldest first; see lamina show)")
def ls(
    source: Source,
    series: Annotated[
        str | None, typer.Option("--series", metavar="NAME", help="Only the snapshots of this series.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the snapshots of a repository, oldest first; a star marks those that were the best when saved.

    For any other source, its one snapshot is listed.
    """
    found = _listed(source, series)
    if as_json:
        print_json({"source": source, "snapshots": [snapshot_json(s, aliases) for s, aliases in found]})
    else:
        print_table(_COLUMNS, [_row(s, aliases) for s, aliases in found])


def _listed(source: str, series: str | None) -> list[tuple[Any, list[str]]]:
    repository = repository_at(source)
    if repository is None:
        from lamina.sources import resolve

        one = resolve(source).snapshot
        return [(one, one.aliases)] if series in (None, one.series) else []
    found = repository.snapshots(series)
    if series is not None and not found:
        repository.snapshot(series=series)  # raises an error that lists the series
    named = repository._core.aliases()
    return [(s, named.get(s.number or 0, [])) for s in found]


def _row(s: Any, aliases: list[str]) -> list[object]:
    # A plain file has no id and no recorded cost.
    costs = [human(size) if s.id else None for size in (s.bytes_new, s.bytes_stored)]
    names = ", ".join(aliases)
    return [s.number, s.id[:12], s.series, time_of(s), moment(s), metric(s), human(s.bytes_total), *costs, names]
