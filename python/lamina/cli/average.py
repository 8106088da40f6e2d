"""`lamina average`: the average of the weights of several sources."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamina.cli.command import SOURCES, Aliases, AsJson, verb
from lamina.cli.describe import snapshot_json
from lamina.cli.output import clean, human, print_json, progress
from lamina.errors import InvalidInputError

if TYPE_CHECKING:
    from lamina.averaging import Average


@verb(
    "average",
    example="lamina average runs/a@epoch_7 runs/a@epoch_8 runs/a@epoch_9 -o averaged.keras",
    keys="sources, weights, file (path, bytes) or repository and snapshot (see lamina show)",
)
def average(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help=SOURCES, show_default=False)],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="A file that ends as that of the last source does (.keras, .weights.h5), or a repository, made if it "
            "is new, which gets a snapshot.",
            show_default=False,
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="A,B,…", help="How much each source counts; otherwise all the same."),
    ] = None,
    alias: Aliases = None,
    series: Annotated[str | None, typer.Option("--series", metavar="NAME", help="Series of the snapshot.")] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace a file that exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Average the weights of two or more sources.

    Floats are summed in float64. All else (seeds, counters, the optimizer's state) is that of the last source.
    Batch-norm statistics are averaged too: let the model see some training data before it is used.
    """
    from lamina.averaging import average as averaged

    found = averaged(sources, None if weights is None else weights.split(","))  # type: ignore[arg-type]
    told = {"sources": sources, "weights": found.metadata["average_weights"]}
    if output.endswith((".keras", ".h5")):
        path = _write(found, Path(output), force)
        if as_json:
            print_json(told | {"file": {"path": str(path), "bytes": path.stat().st_size}})
        else:
            print(f"{clean(path)}  {human(path.stat().st_size)}")
        return
    from lamina import api
    from lamina.writing import DEFAULT_SERIES

    with progress("averaging"):
        snapshot = api.save(found, output, aliases=alias or [], series=DEFAULT_SERIES if series is None else series)
    if as_json:
        print_json(told | {"repository": output, "snapshot": snapshot_json(snapshot)})
    else:
        print(f"saved the average as {clean(output)}@{snapshot.number} ({snapshot.id[:12]})")


def _write(average: Average, path: Path, force: bool) -> Path:
    from lamina import _core
    from lamina.files.replacing import flush, put_in_place

    (name,) = average.files if len(average.files) == 1 else (None,)
    ending = ".weights.h5" if (name or "").endswith(".weights.h5") else Path(name or "").suffix
    if name is None or not path.name.endswith(ending):
        raise InvalidInputError(
            f"the average has the form of {' and '.join(average.files)}, so it cannot be {path.name}: "
            f"give it that ending, or a repository as OUT"
        )
    if os.path.lexists(path) and not force:
        raise InvalidInputError(f"{path} exists and nothing was written; pass --force to replace it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _core.Temporary(path.parent)
    try:
        with progress("averaging", average.nbytes) as advance:
            (made,) = average.write(temporary.path / "made", advance)
        flush(made)
        put_in_place(path, lambda target: os.replace(made, target))
        flush(path.parent)
    finally:
        temporary.remove()
    return path
