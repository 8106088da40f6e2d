"""The `lamina` command: one module per verb. Only this package imports typer and rich."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from lamina.cli import command

if TYPE_CHECKING:
    from lamina.cli.command import app as app

#: One module each, in the order of `lamina --help`. A module registers its verb when it is imported.
VERBS = (
    *("ls", "show", "diff", "save", "export", "average", "push", "pull", "promote"),
    *("tag", "untag", "forget", "copy"),
    *("verify", "prune", "stats", "bench", "report", "doctor"),
)


def main() -> None:
    """Run the command line; ends with `SystemExit`. Only the verb that was asked for is imported."""
    asked = sys.argv[1:2]
    _import(*(asked if asked and asked[0] in VERBS else VERBS))
    command.main()


def __getattr__(name: str) -> object:
    if name != "app":
        raise AttributeError(f"module 'lamina.cli' has no attribute {name!r}")
    _import(*VERBS)
    return command.app


def _import(*verbs: str) -> None:
    for verb in verbs:
        importlib.import_module(f"lamina.cli.{verb}")
