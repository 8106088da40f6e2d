"""`lamina pull`: copy an artifact version into a repository."""

from __future__ import annotations

from typing import Annotated

import typer

from lamina.cli.command import Aliases, AsJson, NewDirectory, verb
from lamina.cli.describe import snapshot_json
from lamina.cli.output import clean, human, print_json, progress


@verb(
    "pull",
    example="lamina pull wandb:team/project/run_abc_model:best runs/a --alias theirs",
    keys="source, repository, new (false if it was already there), bytes (added to the repository), snapshot (see "
    "lamina show)",
)
def pull(
    source: Annotated[
        str,
        typer.Argument(
            metavar="ARTIFACT", help="wandb:ENTITY/PROJECT/NAME:ALIAS, or without wandb:.", show_default=False
        ),
    ],
    repository: NewDirectory,
    alias: Aliases = None,
    series: Annotated[
        str | None, typer.Option("--series", metavar="NAME", help="Put it into this series instead of its own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy an artifact version into a repository, with its id; only missing packs are fetched."""
    from lamina.wandb.pull import bring

    with progress("pulling"):
        pulled = bring(source.removeprefix("wandb:"), repository, series=series, aliases=alias or [])
    snapshot = pulled.snapshot
    if as_json:
        facts = {"source": source, "repository": repository, "new": pulled.new, "bytes": pulled.bytes}
        print_json(facts | {"snapshot": snapshot_json(snapshot)})
        return
    place = f"{clean(repository)}@{snapshot.number} ({snapshot.id[:12]})"
    if pulled.new:
        print(f"pulled {clean(source)} as {place}: {human(snapshot.bytes_total)}, {human(pulled.bytes)} stored")
    else:
        print(f"{clean(source)} is there already: {place}")
