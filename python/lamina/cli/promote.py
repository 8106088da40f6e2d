"""`lamina promote`: link a version into a registry."""

from __future__ import annotations

from typing import Annotated

import typer

from lamina.cli.command import AsJson, Source, verb
from lamina.cli.output import clean, print_json, progress


@verb(
    "promote",
    example="lamina promote wandb:team/project/run_abc_model:best wandb-registry-model/digits --alias production",
    keys="source, target, version (full name of the linked version)",
)
def promote(
    source: Source,
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET", help="wandb-registry-NAME/COLLECTION or PROJECT/PORTFOLIO.", show_default=False
        ),
    ],
    alias: Annotated[
        list[str] | None, typer.Option("--alias", metavar="NAME", help="An alias of the link; may be repeated.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Collection that the plain file is logged to.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Link a version into a W&B registry, as a plain file that loads without lamina; it is verified on the way."""
    from lamina import wandb

    with progress("promoting"):
        linked = wandb.promote(source, target, alias or [], name=name)
    version = str(getattr(linked, "qualified_name", None) or target)
    if as_json:
        print_json({"source": source, "target": target, "version": version})
    else:
        print(f"promoted {clean(source)} to {clean(version)}")
