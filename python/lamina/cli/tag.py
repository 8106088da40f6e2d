"""`lamina tag`: give a snapshot names."""

from __future__ import annotations

from typing import Annotated

import typer

from lamina.cli.command import AsJson, verb
from lamina.cli.describe import snapshot_json
from lamina.cli.named import Snapshot, one_snapshot
from lamina.cli.output import clean, print_json


@verb("tag", example="lamina tag runs/a@epoch_3 paper", keys="repository, snapshot (see lamina show)")
def tag(
    snapshot: Snapshot,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names for it.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Let names lead to a snapshot. A name moves if it exists in the series; prune holds what has one."""
    from lamina.repository.repository import check_alias

    for name in names:
        check_alias(name)
    repository, ref = one_snapshot(snapshot)
    found = repository.snapshot(ref)
    for name in names:
        repository.set_alias(found, name)
    if as_json:
        print_json({"repository": str(repository.path), "snapshot": snapshot_json(found)})
    else:
        given = clean(", ".join(found.aliases))
        print(f"{clean(repository.path)}@{found.number} ({found.id[:8]}) has the names {given}")
