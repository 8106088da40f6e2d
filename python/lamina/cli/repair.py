"""`lamina verify --repair`: repair from other copies, and print what was restored and what is lost."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from lamina.cli.output import clean, count, print_json, progress, say
from lamina.errors import CorruptDataError

if TYPE_CHECKING:
    from lamina.repository.results import RepairReport


def repair(source: str, sources: list[str], as_json: bool) -> None:
    """Repair a repository from other copies and print the result."""
    from lamina.repository.repository import repair_at

    with progress("repairing"):
        report = repair_at(source, sources)
    if as_json:
        print_json({"source": source, "ok": report.ok} | asdict(report))
    else:
        _print_repair(report)
    if not report.ok:
        say(f"lamina: {clean(source)} is still damaged: {count(len(report.lost), 'snapshot')} with losses")
        raise typer.Exit(CorruptDataError.exit_code)


def _print_repair(report: RepairReport) -> None:
    for path in report.quarantined:
        print(f"moved to quarantine: {clean(path)}")
    for path in report.restored:
        print(f"restored: {clean(path)}")
    if report.chunks_rescued or report.chunks_fetched:
        rescued = f"{count(report.chunks_rescued, 'intact chunk')} of damaged packs saved again"
        print(f"{rescued}, {report.chunks_fetched} fetched from other copies")
    for lost in report.lost:
        print(clean(f"lost: {lost}"))
    for problem in report.problems:
        print(clean(problem))
    if report.ok:
        print("the repository is intact")
