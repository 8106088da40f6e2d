"""The `lamina` command: one module per verb. Only this package imports typer and rich."""

from __future__ import annotations

from lamina.cli.command import app, main

# Importing a verb registers it; `lamina --help` lists them in this order.
from lamina.cli import ls, show, diff, save, export, push, pull, promote  # noqa: F401  # isort: skip
from lamina.cli import verify, prune, stats, bench, report, doctor  # noqa: F401  # isort: skip

__all__ = ["app", "main"]
