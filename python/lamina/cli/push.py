"""`lamina push`: what waits, or a checkpoint, to W&B."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lamina.cli.command import AsJson, verb
from lamina.cli.output import clean, print_json, progress
from lamina.errors import InvalidInputError


@verb(
    "push",
    example="lamina push wandb/offline-run-20260101_120000-abc",
    keys="source, versions (full names of those that are on the server now)",
)
def push(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="The directory of a run (an offline one is synced whole), a repository (what its journal holds), "
            "or DIR@ALIAS or a checkpoint file (logged in a run of its own).",
            show_default=False,
        ),
    ],
    entity: Annotated[
        str | None, typer.Option("--entity", metavar="NAME", help="Where to; else where it was meant to go.")
    ] = None,
    project: Annotated[str | None, typer.Option("--project", metavar="NAME", help="The same.")] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Collection of a checkpoint that is logged.")
    ] = None,
    alias: Annotated[
        list[str] | None, typer.Option("--alias", metavar="NAME", help="An alias for it; may be repeated.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--layout", metavar="LAYOUT", help="Log it as packs (what changed) or as the file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send to W&B what did not get there, from this machine or another one, or log a checkpoint as a new version."""
    if layout not in (None, "packs", "file"):
        raise InvalidInputError(f"--layout is packs or file. Received: {layout!r}")
    from lamina import wandb

    options: dict[str, Any] = {"aliases": alias} if alias else {}
    if layout is not None:
        options["layout"] = layout
    with progress("pushing"):
        versions = wandb.push(source, entity=entity, project=project, name=name, **options)
    if as_json:
        print_json({"source": source, "versions": versions})
    elif versions:
        for version in versions:
            print(clean(version))
    else:
        print(f"nothing waits in {clean(source)}; lamina push DIR@ALIAS logs a snapshot")
