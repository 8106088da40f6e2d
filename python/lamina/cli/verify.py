"""`lamina verify`: is everything there, and is it what was written?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamina.cli.command import AsJson, Source, verb
from lamina.cli.describe import repository_at
from lamina.cli.output import clean, count, human, print_json, progress, say
from lamina.errors import CorruptDataError, InvalidInputError

if TYPE_CHECKING:
    from lamina.reading import Content
    from lamina.repository import Repository

#: Bytes that are read at once; enough chunks for all threads.
_WINDOW = 64 << 20


@verb(
    "verify",
    example="lamina verify runs/a --full",
    keys="source, ok, full, snapshots, packs, chunks (null for a single snapshot), bytes (that were read), problems",
)
def verify(
    source: Source,
    full: Annotated[
        bool, typer.Option("--full", help="Read every byte; without it, everything but the content of chunks.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a repository; every problem found is listed. Of another source, every byte of its snapshot is read."""
    repository = repository_at(source)
    found = _repository(repository, full) if repository is not None else _snapshot(source)
    if as_json:
        print_json({"source": source} | found)
    elif found["ok"]:
        how = f"all {human(found['bytes'])} read" if found["full"] else "contents not read; --full reads them"
        held = f"{count(found['snapshots'], 'snapshot')}, {count(found['packs'], 'pack')}"
        print(f"{clean(source)} is whole: {held}; {how}")
    else:
        for problem in found["problems"]:
            print(clean(problem))
    if not found["ok"]:
        say(f"lamina: {clean(source)} is damaged: {count(len(found['problems']), 'problem')} found")
        raise typer.Exit(CorruptDataError.exit_code)


def _repository(repository: Repository, full: bool) -> dict[str, Any]:
    size = f" {human(repository.stats().bytes_packs)}" if full else ""
    with progress(f"verifying{size}"):
        try:
            report = repository.verify(full)
        except CorruptDataError as error:
            if error.report is None:
                raise
            report = error.report
    return {
        "ok": not report.problems,
        "full": full,
        "snapshots": report.snapshots,
        "packs": report.packs,
        "chunks": report.chunks,
        "bytes": report.bytes,
        "problems": report.problems,
    }


def _snapshot(source: str) -> dict[str, Any]:
    from lamina.reading import Content
    from lamina.reference import resolve

    problems, packs, length = [], 0, 0
    try:
        opened = resolve(source)
        if not isinstance(opened.content, Content):
            raise InvalidInputError(f"{source} carries no digests; only repositories and artifacts can be verified")
        length, packs = int(opened.snapshot._body["state"]["length"]), len(opened.content.reader.packs())
        _read_all(opened.content, length)
    except CorruptDataError as error:
        problems = [str(error)]
    counts = {"snapshots": 1, "packs": packs, "chunks": None, "bytes": length}
    return {"ok": not problems, "full": True} | counts | {"problems": problems}


def _read_all(content: Content, length: int) -> None:
    import numpy as np

    window = np.empty(min(length, _WINDOW), np.uint8)
    with progress("verifying", length) as advance:
        for start in range(0, length, _WINDOW):
            part = window[: min(_WINDOW, length - start)]
            content.reader.read([(start, part)])
            advance(part.size)
