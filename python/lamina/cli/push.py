"""`lamina push`: upload pending versions, or a checkpoint, to W&B."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lamina.cli.command import AsJson, verb
from lamina.cli.output import clean, print_json, progress
from lamina.errors import InvalidInputError


@verb(
    "push",
    example="lamina push wandb/offline-run-20260101_120000-abc",
    keys="source, versions (full names of those now on the server)",
)
def push(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A run directory (an offline run is synced whole), a repository (its pending uploads), "
            "or DIR@ALIAS or a checkpoint file (logged in its own run).",
            show_default=False,
        ),
    ],
    entity: Annotated[
        str | None, typer.Option("--entity", metavar="NAME", help="Target entity; default: the one it was meant for.")
    ] = None,
    project: Annotated[
        str | None, typer.Option("--project", metavar="NAME", help="Target project; default: the one it was meant for.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Collection for the logged checkpoint.")
    ] = None,
    alias: Annotated[
        list[str] | None, typer.Option("--alias", metavar="NAME", help="An alias for it; can be repeated.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--layout", metavar="LAYOUT", help="packs (only what changed) or file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Upload pending versions to W&B, also from another machine, or log a checkpoint as a new version."""
    if layout not in (None, "packs", "file"):
        raise InvalidInputError(f"--layout must be packs or file. Received: {layout!r}")
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
        print(f"nothing to upload in {clean(source)}; to log a snapshot, use lamina push DIR@ALIAS")
