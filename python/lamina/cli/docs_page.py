"""Generates docs/cli.md from the help texts: ``python -m lamina.cli.docs_page > docs/cli.md``."""

from __future__ import annotations

import inspect
from typing import Any

import typer.main

from lamina.cli import app
from lamina.cli.command import EXIT_CODES

_HEAD = """# The `lamina` command

<!-- Made by `python -m lamina.cli.docs_page > docs/cli.md`; a test compares the two. -->

On a terminal, tables and progress bars are drawn; in a pipe, output is plain aligned lines. Sizes are decimal (1 MB =
1,000,000 bytes). With `--json`, each command prints one JSON object whose keys stay, with exact sizes in bytes and
floats that are not finite as `"nan"`, `"inf"`, `"-inf"`. Progress, questions, warnings and errors go to stderr. An
error is one sentence; `LAMINA_DEBUG=1` adds the traceback. `lamina --install-completion` sets up completion in
your shell. `python -m lamina` is the same command.

## Exit codes

| code | meaning |
|---|---|
"""


def page() -> str:
    """The whole page."""
    root: Any = typer.main.get_command(app)
    codes = "".join(f"| {code} | {meaning} |\n" for code, meaning in EXIT_CODES.items())
    return "\n".join([_HEAD + codes, *(_section(name, command) for name, command in root.commands.items())])


def _section(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    usage = " ".join(["lamina", name, "[OPTIONS]", *(p.metavar for p in arguments)])
    rows = [(f"`{p.metavar}`", p.help) for p in arguments]
    rows += [(", ".join(f"`{o}`" for o in p.opts) + _value(p), p.help + _default(p)) for p in options]
    table = "".join(f"| {left} | {right} |\n" for left, right in rows)
    example, _, keys = command.epilog.partition("\n\n")
    return (
        f"## lamina {name}\n\n```\n{usage}\n```\n\n{inspect.cleandoc(command.help)}\n\n| | |\n|---|---|\n{table}\n"
        f"Example: `{example.removeprefix('Example: ')}`\n\n`--json`: {keys.removeprefix('--json: ')}\n"
    )


def _value(option: Any) -> str:
    return f" `{option.metavar}`" if option.metavar else ""


def _default(option: Any) -> str:
    default = getattr(option.default, "value", option.default)
    return f" Default: {default}." if isinstance(default, str) and default else ""


if __name__ == "__main__":
    print(page(), end="")
