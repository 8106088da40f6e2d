"""`lamina save`: save files into a repository."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from lamina.cli.command import Aliases, AsJson, NewDirectory, verb
from lamina.cli.describe import snapshot_json
from lamina.cli.output import human, print_json, progress
from lamina.errors import InvalidInputError

if TYPE_CHECKING:
    from lamina.writing import Codec

_CODECS = ("auto", "raw", "zstd", "planes", "delta")


@verb(
    "save",
    example="lamina save model.keras runs/a --alias before-pruning --metadata lr=0.001",
    keys="repository, snapshot (see lamina show)",
)
def save(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="A checkpoint file, a sharded one (by its .weights.json), or a directory of files.",
            show_default=False,
        ),
    ],
    repository: NewDirectory,
    alias: Aliases = None,
    series: Annotated[str | None, typer.Option("--series", metavar="NAME", help="Series of the snapshot.")] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            "--metadata", metavar="KEY=VALUE", help="Stored with the snapshot, as JSON or text; can be repeated."
        ),
    ] = None,
    codec: Annotated[
        str, typer.Option("--codec", metavar="CODEC", help=f"How new chunks are stored: {', '.join(_CODECS)}.")
    ] = "auto",
    as_json: AsJson = False,
) -> None:
    """Save a checkpoint into a repository; only new data takes space."""
    from lamina import api
    from lamina.writing import DEFAULT_SERIES

    given = _pairs(metadata or [])
    with progress("saving"):
        snapshot = api.save(
            path,
            repository,
            aliases=alias or [],
            metadata=given,
            codec=cast("Codec", codec),  # the engine refuses others
            series=DEFAULT_SERIES if series is None else series,
        )
    if as_json:
        print_json({"repository": repository, "snapshot": snapshot_json(snapshot)})
        return
    from lamina.cli.output import clean

    costs = f"{human(snapshot.bytes_total)}, {human(snapshot.bytes_new)} new, {human(snapshot.bytes_stored)} stored"
    print(f"saved {clean(path)} as {clean(repository)}@{snapshot.number} ({snapshot.id[:12]}): {costs}")


def _pairs(texts: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise InvalidInputError(f"--metadata takes KEY=VALUE. Received: {text!r}")
        try:
            found[key] = json.loads(value)
        except (ValueError, RecursionError):
            found[key] = value
    return found
