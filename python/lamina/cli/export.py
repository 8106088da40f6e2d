"""`lamina export` and `lamina restore`: the original files."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from lamina.cli.command import AsJson, Source, verb
from lamina.cli.output import clean, human, print_json, progress
from lamina.errors import InvalidInputError

_Target = Annotated[
    str,
    typer.Argument(metavar="DIRECTORY", help="Target directory; created if missing.", show_default=False),
]
_Force = Annotated[bool, typer.Option("--force", "-f", help="Replace files that exist.")]
_KEYS = "source, directory, files (path, bytes)"


@verb("export", example="lamina export runs/a@best out", keys=_KEYS)
def export(source: Source, directory: _Target, force: _Force = False, as_json: AsJson = False) -> None:
    """Write the original files of a snapshot, byte for byte, verified; each is there whole or not at all."""
    _export(source, directory, force, as_json)


@verb("restore", example="lamina restore runs/a@epoch_3 out", keys=_KEYS)
def restore(source: Source, directory: _Target, force: _Force = False, as_json: AsJson = False) -> None:
    """Same as lamina export. To restore into a model, call lamina.restore(SOURCE, model) in Python."""
    _export(source, directory, force, as_json)


def _export(source: str, directory: str, force: bool, as_json: bool) -> None:
    from lamina.schemes import local_path
    from lamina.sources import resolve

    target = local_path(directory, "a directory")
    content = resolve(source).content
    there = [path for path in content.files if os.path.lexists(target / path)]
    if there and not force:
        raise InvalidInputError(f"{target / there[0]} exists and nothing was written; pass --force to replace it")
    with progress("exporting"):
        written = content.export(target)
    files = [{"path": str(path), "bytes": path.stat().st_size} for path in written]
    if as_json:
        print_json({"source": source, "directory": directory, "files": files})
        return
    for path in written:
        print(f"{clean(path)}  {human(path.stat().st_size)}")
