"""`lamina copy`: snapshots of one repository into another one."""

from __future__ import annotations

from typing import Annotated

import typer

from lamina.cli.command import AsJson, NewDirectory, verb
from lamina.cli.named import repository_and_ref
from lamina.cli.output import clean, count, human, print_json, progress


@verb(
    "copy",
    example="lamina copy runs/a@best runs/kept",
    keys="source, repository, bytes (that it has grown by), snapshots (number, id, series, new)",
)
def copy(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="DIR@ALIAS or DIR@SERIES:ALIAS; DIR for all its snapshots.", show_default=False
        ),
    ],
    repository: NewDirectory,
    series: Annotated[
        str | None, typer.Option("--series", metavar="NAME", help="Of DIR only the snapshots of this series.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy snapshots into another repository: the same ids and names; only chunks that it lacks take space.

    Each chunk is verified before its snapshot appears. A snapshot that is there already is only given its names.
    """
    from lamina.repository.copying import copy_snapshot, user_aliases
    from lamina.writing import as_repository

    home, ref = repository_and_ref(source)
    found = home.snapshots(series) if ref is None else [home.snapshot(ref, series=series)]
    if not found:
        home.snapshot(series=series)  # raises an error that says what is there
    target = as_repository(repository)
    copies, grown = [], 0
    with progress("copying"):
        for snapshot in found:
            copied, new, size = copy_snapshot(snapshot, target)
            for alias in user_aliases(snapshot):
                target.set_alias(copied, alias)
            copies.append({"number": copied.number, "id": copied.id, "series": copied.series, "new": new})
            grown += size
    if as_json:
        print_json({"source": source, "repository": repository, "bytes": grown, "snapshots": copies})
        return
    fresh = sum(bool(one["new"]) for one in copies)
    there = f", {len(copies) - fresh} were there already" if fresh < len(copies) else ""
    print(f"copied {count(fresh, 'snapshot')} to {clean(repository)}, {human(grown)}{there}")
