"""`lamina pull`: copy an artifact version, or what stands in a bucket, into a repository."""

from __future__ import annotations

from typing import Annotated

import typer

from lamina.cli.command import Aliases, AsJson, NewDirectory, verb
from lamina.cli.describe import snapshot_json
from lamina.cli.output import clean, count, human, print_json, progress
from lamina.errors import InvalidInputError


@verb(
    "pull",
    example="lamina pull wandb:team/project/run_abc_model:best runs/a --alias theirs",
    keys="source, repository, new (false if it was already there), bytes (added to the repository), snapshot (see "
    "lamina show); from a bucket: source, repository, snapshots (ids of those that are new), packs, bytes",
)
def pull(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="wandb:ENTITY/PROJECT/NAME:ALIAS, or without wandb:. Or a bucket, whole or one snapshot of it: "
            "s3://BUCKET/PREFIX, s3://BUCKET/PREFIX@ALIAS, also gs://, az:// and file:///.",
            show_default=False,
        ),
    ],
    repository: NewDirectory,
    alias: Aliases = None,
    series: Annotated[
        str | None, typer.Option("--series", metavar="NAME", help="Put it into this series instead of its own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy an artifact version, or the snapshots of a bucket, into a repository, with their ids; only missing packs
    are fetched.
    """
    from lamina.schemes import bucket_of

    if bucket_of(source) is not None:
        if alias or series is not None:
            raise InvalidInputError("--alias and --series are for artifacts: what comes from a bucket keeps its names")
        _from_bucket(source, repository, as_json)
        return
    if "://" in source:
        from lamina.remote.address import parse

        parse(source)  # which says that it is no address of a bucket
    from lamina.wandb.pull import bring

    with progress("pulling"):
        pulled = bring(source.removeprefix("wandb:"), repository, series=series, aliases=alias or [])
    snapshot = pulled.snapshot
    if as_json:
        facts = {"source": source, "repository": repository, "new": pulled.new, "bytes": pulled.bytes}
        print_json(facts | {"snapshot": snapshot_json(snapshot)})
        return
    where = f"{clean(repository)}@{snapshot.number} ({snapshot.id[:12]})"
    if pulled.new:
        print(f"pulled {clean(source)} as {where}: {human(snapshot.bytes_total)}, {human(pulled.bytes)} stored")
    else:
        print(f"{clean(source)} is there already: {where}")


def _from_bucket(source: str, repository: str, as_json: bool) -> None:
    from lamina.remote.pull import pull as bring_all

    with progress("pulling"):
        brought = bring_all(source, repository)
    if as_json:
        facts = {"source": source, "repository": repository, "snapshots": [one.id for one in brought.snapshots]}
        print_json(facts | {"packs": brought.packs, "bytes": brought.bytes})
    elif brought.snapshots:
        what = f"{count(len(brought.snapshots), 'snapshot')}, {human(brought.bytes)} in {count(brought.packs, 'pack')}"
        print(f"pulled {clean(source)} into {clean(repository)}: {what}")
    else:
        print(f"{clean(repository)} has all of {clean(source)} already")
