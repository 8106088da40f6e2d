"""`lamina export` and `lamina restore`: write the original files of a snapshot."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.command import AsJson, Source, verb
from lamina.cli.output import clean, human, print_json, progress
from lamina.errors import InvalidInputError
from lamina.repository.tensor import tensor_bytes

_Target = Annotated[
    str,
    typer.Argument(metavar="DIRECTORY", help="Target directory; created if missing.", show_default=False),
]
_Force = Annotated[bool, typer.Option("--force", "-f", help="Replace files that exist.")]
_KEYS = "source, directory, files (path, bytes)"


class Kind(str, Enum):
    """Files of other tools."""

    safetensors = "safetensors"
    npz = "npz"


@verb("export", example="lamina export runs/a@best out", keys=_KEYS)
def export(
    source: Source,
    directory: _Target,
    kind: Annotated[
        Kind | None,
        typer.Option(
            "--as",
            metavar="KIND",
            help="Instead of the original files write the tensors as one file of another tool: safetensors or npz. "
            "DIRECTORY may then be that file.",
        ),
    ] = None,
    force: _Force = False,
    as_json: AsJson = False,
) -> None:
    """Write the original files of a snapshot, byte for byte, verified; each is there whole or not at all.

    With --as, all tensors have the names of their variables. safetensors keeps bfloat16; npz has float32 in its place.
    """
    if kind is None:
        _export(source, directory, force, as_json)
    else:
        _export_as(kind.value, source, directory, force, as_json)


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
        raise InvalidInputError(f"{target / there[0]} exists; nothing was written; pass --force to replace it")
    with progress("exporting"):
        written = content.export(target)
    _tell(written, source, directory, as_json)


def _export_as(kind: str, source: str, out: str, force: bool, as_json: bool) -> None:
    from lamina.files import other_tools
    from lamina.schemes import local_path
    from lamina.sources import resolve

    target = local_path(out, "a directory or a file")
    if target.suffix != f".{kind}":
        target /= f"model.{kind}"
    content = resolve(source).content
    if os.path.lexists(target) and not force:
        raise InvalidInputError(f"{target} exists and nothing was written; pass --force to replace it")
    size = sum(tensor_bytes(tensor) or 0 for tensor in content.tensors.values())
    with progress("exporting", size) as advance:
        other_tools.write(target, kind, content, advance)
    _tell([target], source, out, as_json)


def _tell(written: list[Path], source: str, directory: str, as_json: bool) -> None:
    files = [{"path": str(path), "bytes": path.stat().st_size} for path in written]
    if as_json:
        print_json({"source": source, "directory": directory, "files": files})
        return
    for path in written:
        print(f"{clean(path)}  {human(path.stat().st_size)}")
