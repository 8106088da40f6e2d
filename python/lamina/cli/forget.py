"""`lamina forget`: delete one snapshot."""

from __future__ import annotations

import typer

from lamina.cli.command import AsJson, verb
from lamina.cli.named import Snapshot, one_snapshot
from lamina.cli.output import print_json, say
from lamina.cli.prune import DryRun, Yes, agreed, asks, report_json, sentence


@verb(
    "forget",
    example="lamina forget runs/a@epoch_3 --yes",
    keys="repository, dry_run, snapshots (numbers), packs, bytes, packs_waiting (for running saves)",
)
def forget(snapshot: Snapshot, dry_run: DryRun = False, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete one snapshot, and packs that no other one needs.

    A snapshot with a user alias is refused (see lamina untag). Without --yes it asks first; without a terminal, --yes
    or --dry-run is required.
    """
    asking = asks(yes, dry_run)
    repository, ref = one_snapshot(snapshot)
    found = repository.snapshot(ref)
    if asking:
        say(sentence(repository.forget(found, dry_run=True), "would delete"))
        if not agreed():
            say("lamina: nothing was deleted")
            raise typer.Exit(1)
    report = repository.forget(found, dry_run=dry_run)
    if as_json:
        print_json(report_json(str(repository.path), dry_run, report))
    else:
        print(sentence(report, "would delete" if dry_run else "deleted"))
