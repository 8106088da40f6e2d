"""`lamina pull`: a version of an artifact into a repository."""

from __future__ import annotations

from typing import Annotated

import typer

from lamina.cli.command import Aliases, AsJson, NewDirectory, verb
from lamina.cli.describe import snapshot_json
from lamina.cli.output import clean, human, print_json, progress


@verb(
    "pull",
    example="lamina pull wandb:team/project/run_abc_model:best runs/a --alias theirs",
    keys="source, repository, snapshot (see lamina show)",
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
    series: Annotated[str | None, typer.Option("--series", metavar="NAME", help="Another series than it has.")] = None,
    as_json: AsJson = False,
) -> None:
    """Save a version of an artifact into a repository; only packs that it does not have are fetched."""
    from lamina import wandb

    with progress("pulling"):
        snapshot = wandb.pull(source.removeprefix("wandb:"), repository, series=series, aliases=alias or [])
    if as_json:
        print_json({"source": source, "repository": repository, "snapshot": snapshot_json(snapshot)})
        return
    costs = f"{human(snapshot.bytes_total)}, {human(snapshot.bytes_new)} new, {human(snapshot.bytes_stored)} stored"
    print(f"pulled {clean(source)} as {clean(repository)}@{snapshot.number} ({snapshot.id[:12]}): {costs}")
