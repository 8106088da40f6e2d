"""`lamina untag`: take a snapshot's names away."""

from __future__ import annotations

from typing import Annotated

import typer

from lamina.cli.command import AsJson, verb
from lamina.cli.describe import snapshot_json
from lamina.cli.named import Snapshot, one_snapshot
from lamina.cli.output import clean, print_json
from lamina.errors import NotFoundError


@verb("untag", example="lamina untag runs/a@epoch_3 paper", keys="repository, snapshot (see lamina show)")
def untag(
    snapshot: Snapshot,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names to take away.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Take names away from a snapshot. latest, best and epoch_N are computed and stay."""
    repository, ref = one_snapshot(snapshot)
    found = repository.snapshot(ref)
    missing = [name for name in names if name not in found.aliases]
    if missing:
        raise NotFoundError(
            f"snapshot {found.number} has no name {missing[0]!r}; it has {', '.join(found.aliases) or 'none'}"
        )
    taken: list[str] = []
    for name in names:
        if not repository.remove_alias(found, name):
            for other in taken:  # an error changes nothing
                repository.set_alias(found, other)
            raise NotFoundError(f"{name!r} is computed, and no name that was given; it stays")
        taken.append(name)
    if as_json:
        print_json({"repository": str(repository.path), "snapshot": snapshot_json(found)})
    else:
        left = clean(", ".join(found.aliases)) or "none"
        print(f"{clean(repository.path)}@{found.number} ({found.id[:8]}) has the names {left}")
