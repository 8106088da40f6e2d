"""`lamina prune`: delete old snapshots and unused packs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lamina.cli.command import AsJson, Directory, verb
from lamina.cli.output import count, human, print_json, say
from lamina.errors import InvalidInputError

if TYPE_CHECKING:
    from lamina.repository.results import PruneReport

#: At most this many snapshots are listed; the rest are only counted.
_NAMED = 20
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Show what would be deleted and delete nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@verb(
    "prune",
    example="lamina prune runs/a --keep-last 3 --keep-best 1 --dry-run",
    keys="repository, dry_run, snapshots (numbers), packs, bytes, packs_waiting (for running saves)",
)
def prune(
    repository: Directory,
    keep_last: Annotated[
        int | None, typer.Option("--keep-last", metavar="N", min=1, help="Keep the newest N of each series.")
    ] = None,
    keep_best: Annotated[
        int | None, typer.Option("--keep-best", metavar="N", min=1, help="Keep the N best of each series.")
    ] = None,
    keep_every: Annotated[
        int | None, typer.Option("--keep-every", metavar="N", min=1, help="Keep the end of every Nth epoch.")
    ] = None,
    series: Annotated[str | None, typer.Option("--series", metavar="NAME", help="Prune this series only.")] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete the snapshots that no rule keeps, and packs that no snapshot needs.

    Without a rule, no snapshot is deleted. Snapshots with a user alias are always kept. Without --yes it asks first;
    without a terminal, --yes or --dry-run is required.
    """
    from lamina.repository.keep import Keep
    from lamina.repository.repository import open as open_repository
    from lamina.schemes import local_path

    asking = asks(yes, dry_run)
    rules = (keep_last, keep_best, keep_every)
    keep = None if rules == (None, None, None) else Keep(*rules)
    opened = open_repository(local_path(repository, "the directory of a repository"))
    if asking:
        say(sentence(opened.prune(keep, series=series, dry_run=True), "would delete"))
        if not agreed():
            say("lamina: nothing was deleted")
            raise typer.Exit(1)
    report = opened.prune(keep, series=series, dry_run=dry_run)
    if as_json:
        print_json(report_json(repository, dry_run, report))
    else:
        print(sentence(report, "would delete" if dry_run else "deleted"))


def asks(yes: bool, dry_run: bool) -> bool:
    """Whether the user must confirm.

    Raises:
        InvalidInputError: if there is no terminal to do so.
    """
    if yes or dry_run:
        return False
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidInputError("no terminal to confirm on; pass --yes to delete or --dry-run to look first")
    return True


def agreed() -> bool:
    """Ask, and hear the answer."""
    print("Delete? [y/N] ", end="", file=sys.stderr, flush=True)
    # Not typer's prompt: it treats Ctrl-C as a no.
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def report_json(repository: str, dry_run: bool, report: PruneReport) -> dict[str, object]:
    """What ``--json`` prints."""
    found = {"snapshots": report.snapshots, "packs": report.packs, "bytes": report.bytes}
    return {"repository": repository, "dry_run": dry_run} | found | {"packs_waiting": report.waiting}


def sentence(report: PruneReport, verb: str) -> str:
    """What was deleted, in words."""
    named = ", ".join(map(str, report.snapshots[:_NAMED]))
    more = f" and {len(report.snapshots) - _NAMED} more" if len(report.snapshots) > _NAMED else ""
    which = f" (number {named}{more})" if named else ""
    waiting = f"; {count(report.waiting, 'pack')} more after the running saves end" if report.waiting else ""
    return (
        f"{verb} {count(len(report.snapshots), 'snapshot')}{which} and {count(report.packs, 'pack')}, "
        f"{human(report.bytes)}{waiting}"
    )
