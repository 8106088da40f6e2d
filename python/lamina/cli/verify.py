"""`lamina verify`: check that a repository is complete and undamaged."""

from __future__ import annotations

import random
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamina.cli.command import AsJson, Source, verb
from lamina.cli.describe import repository_at
from lamina.cli.output import clean, count, human, print_json, progress, say
from lamina.cli.repair import repair
from lamina.errors import CorruptDataError, FoundDamage, InvalidInputError

if TYPE_CHECKING:
    from lamina.repository.repository import Repository


@verb(
    "verify",
    example="lamina verify runs/a --full",
    keys="source, ok, full, sample and seed (null without --sample), snapshots, packs, chunks (read; null "
    "for a single snapshot), bytes (read), problems, lost (snapshot, id, series, epoch, everything, files, "
    "tensors: file and name; null for a single snapshot); with --repair: source, ok, quarantined, restored, "
    "chunks_rescued, chunks_fetched, problems, lost",
)
def verify(
    source: Source,
    full: Annotated[
        bool, typer.Option("--full", help="Read every byte; by default chunk contents are not read.")
    ] = False,
    sample: Annotated[
        str | None, typer.Option("--sample", metavar="SHARE", help="Read about this share of the chunks: 5% or 0.05.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Repeat the sample of an earlier run.")
    ] = None,
    mend: Annotated[
        bool, typer.Option("--repair", help="Read every byte, move damaged files to quarantine/, keep what is intact.")
    ] = False,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="With --repair: another copy, a repository, artifact directory or wandb:…; may be repeated.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a repository and list every problem. For another source, every byte of its snapshot is read.

    --repair also restores lost data from other copies and names what is lost for good.
    """
    if sample is None and seed is not None:
        raise InvalidInputError("--seed needs --sample")
    if sources and not mend:
        raise InvalidInputError("--from needs --repair")
    if mend and sample is not None:
        raise InvalidInputError("--repair reads every byte and cannot be combined with --sample")
    share = None if sample is None else _share(sample)
    drawn = random.getrandbits(32) if seed is None else seed
    if mend:
        from lamina.repository.repository import stands_in
        from lamina.schemes import local_path

        if not stands_in(local_path(source, "a repository")):
            raise InvalidInputError(f"{source} is not a repository; only a repository can be repaired")
        repair(source, sources or [], as_json)
        return
    repository = repository_at(source)
    if repository is None and share is not None:
        raise InvalidInputError("--sample works on repositories only; other sources are always read whole")
    found = _repository(repository, full, share, drawn) if repository is not None else _snapshot(source)
    if as_json:
        lost = found["lost"] and [asdict(one) for one in found["lost"]]
        print_json({"source": source} | found | {"lost": lost})
    elif found["ok"]:
        counts = f"{count(found['snapshots'], 'snapshot')}, {count(found['packs'], 'pack')}"
        print(f"{clean(source)} is intact: {counts}; {_how(found)}")
    else:
        for line in [*found["problems"], *(f"damaged: {lost}" for lost in found["lost"] or [])]:
            print(clean(line))
    if not found["ok"]:
        say(f"lamina: {clean(source)} is damaged: {count(len(found['problems']), 'problem')} found")
        raise typer.Exit(CorruptDataError.exit_code)


def _share(text: str) -> float:
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = -1
    if not 0 < share <= 1:
        raise InvalidInputError(f"--sample takes a share such as 5% or 0.05. Received: {text!r}")
    return share


def _how(found: dict[str, Any]) -> str:
    if found["full"]:
        return f"all {human(found['bytes'])} read"
    if found["sample"] is None:
        return "chunk contents not read; --full reads them"
    return f"a sample of {count(found['chunks'], 'chunk')}, {human(found['bytes'])}, read (--seed {found['seed']})"


def _repository(repository: Repository, full: bool, share: float | None, seed: int) -> dict[str, Any]:
    report: FoundDamage
    with progress("verifying"):
        try:
            report = repository.verify(full, sample=share, seed=seed)
        except CorruptDataError as error:
            if error.report is None:
                raise
            report = error.report
    return {
        "ok": not report.problems,
        "full": full,
        "sample": share,
        "seed": None if share is None else seed,
        "snapshots": report.snapshots,
        "packs": report.packs,
        "chunks": report.chunks,
        "bytes": report.bytes,
        "problems": report.problems,
        "lost": report.lost,
    }


def _snapshot(source: str) -> dict[str, Any]:
    from lamina.repository.content import Content
    from lamina.sources import resolve

    problems, packs, length = [], 0, 0
    try:
        opened = resolve(source)
        if not isinstance(opened.content, Content):
            raise InvalidInputError(f"{source} has no digests; only repositories and artifacts can be verified")
        length, packs = int(opened.snapshot._body["state"]["length"]), len(opened.content.reader.packs())
        with progress("reading", length) as advance:
            opened.content.verify(length, advance)
    except CorruptDataError as error:
        problems = [str(error)]
    counts = {"snapshots": 1, "packs": packs, "chunks": None, "bytes": length}
    how = {"full": True, "sample": None, "seed": None}
    return {"ok": not problems} | how | counts | {"problems": problems, "lost": None}
