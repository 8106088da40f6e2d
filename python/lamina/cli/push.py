"""`lamina push`: what waits, or a checkpoint, goes to W&B; a repository goes to a bucket."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lamina.cli.command import AsJson, verb
from lamina.cli.output import clean, count, human, print_json, progress
from lamina.errors import InvalidInputError


@verb(
    "push",
    example="lamina push wandb/offline-run-20260101_120000-abc; lamina push runs/a s3://bucket/runs/a",
    keys="source, versions (full names of those now on the server), remotes (address, snapshots: ids of those now "
    "there); with REMOTE: source, remote, snapshots (ids of those that were not there), packs, bytes",
)
def push(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A run directory (an offline run is synced whole), a repository (its pending uploads), "
            "or DIR@ALIAS or a checkpoint file (logged in its own run). With REMOTE: a repository.",
            show_default=False,
        ),
    ],
    remote: Annotated[
        str | None,
        typer.Argument(
            metavar="REMOTE",
            help="Send the repository there: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or "
            "file:///FOLDER. Credentials come from the environment, a profile or the machine's role.",
            show_default=False,
        ),
    ] = None,
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
    """Upload what waits to W&B and to buckets, also from another machine, or log a checkpoint as a new version.

    With REMOTE, send a repository to a bucket: the snapshots and packs that it lacks, and user aliases.
    """
    if layout not in (None, "packs", "file"):
        raise InvalidInputError(f"--layout must be packs or file. Received: {layout!r}")
    if remote is not None:
        if entity or project or name or alias or layout:
            raise InvalidInputError("--entity, --project, --name, --alias and --layout are for W&B, not for a bucket")
        _to_bucket(source, remote, as_json)
        return
    remotes = _finish(source)
    if remotes and not _waits_for_wandb(source):
        _print(source, [], remotes, as_json)
        return
    from lamina import wandb

    options: dict[str, Any] = {"aliases": alias} if alias else {}
    if layout is not None:
        options["layout"] = layout
    with progress("pushing"):
        versions = wandb.push(source, entity=entity, project=project, name=name, **options)
    _print(source, versions, remotes, as_json)


def _print(source: str, versions: list[str], remotes: dict[str, list[str]], as_json: bool) -> None:
    if as_json:
        listed = [{"remote": remote, "snapshots": sent} for remote, sent in remotes.items()]
        print_json({"source": source, "versions": versions, "remotes": listed})
        return
    for remote, sent in remotes.items():
        print(f"{clean(remote)} has all that waited for it: {count(len(sent), 'snapshot')} sent")
    for version in versions:
        print(clean(version))
    if not versions and not remotes:
        print(f"nothing to upload in {clean(source)}; to log a snapshot, use lamina push DIR@ALIAS")


def _finish(source: str) -> dict[str, list[str]]:
    """Send what waits in a repository for buckets; ids of the snapshots by address."""
    from lamina.cli.describe import repository_at
    from lamina.remote import journal
    from lamina.schemes import local_path

    local_path(source, "a path, a repository or a snapshot")
    repository = repository_at(source)
    if repository is None or not journal.waiting(repository):
        return {}
    from lamina.remote.push import finish

    with progress("pushing"):
        return {remote: [one.id for one in sent] for remote, sent in finish(repository).items()}


def _waits_for_wandb(source: str) -> bool:
    from lamina.remote.journal import is_of_bucket

    return any(not is_of_bucket(path) for path in Path(source, "journal").glob("[!.]*.json"))


def _to_bucket(source: str, remote: str, as_json: bool) -> None:
    from lamina.remote.push import push as send

    with progress("pushing"):
        sent = send(source, remote)
    if as_json:
        ids = [snapshot.id for snapshot in sent.snapshots]
        print_json({"source": source, "remote": remote, "snapshots": ids, "packs": sent.packs, "bytes": sent.bytes})
    elif sent.snapshots:
        what = f"{count(len(sent.snapshots), 'snapshot')}, {human(sent.bytes)} in {count(sent.packs, 'pack')}"
        print(f"pushed {clean(source)} to {clean(remote)}: {what}")
    else:
        print(f"{clean(remote)} has all of {clean(source)} already")
