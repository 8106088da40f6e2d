"""`lamina stats`: size of a repository and its series."""

from __future__ import annotations

from typing import Any

from lamina.cli.command import AsJson, Directory, verb
from lamina.cli.output import human, print_fields, print_json, print_table

_KEYS = (
    "repository, id, snapshots, packs, bytes_packs, bytes_total, saved_ratio, "
    "series (name, snapshots, bytes_total, bytes_new, bytes_stored, blocked_seconds, newest)"
)


@verb("stats", example="lamina stats runs/a", keys=_KEYS)
def stats(repository: Directory, as_json: AsJson = False) -> None:
    """Show the snapshots of a repository by series, and the disk space they use."""
    from lamina.repository.repository import open as open_repository

    opened = open_repository(repository)
    found = opened.stats()
    rows = [_of_series(name, opened.snapshots(name)) for name in opened.series]
    ratio = found.bytes_total / found.bytes_packs if found.bytes_packs else None
    if as_json:
        whole: dict[str, Any] = {"snapshots": found.snapshots, "packs": found.packs, "bytes_packs": found.bytes_packs}
        whole |= {"bytes_total": found.bytes_total, "saved_ratio": ratio, "series": rows}
        print_json({"repository": repository, "id": opened._core.id} | whole)
        return
    less = f" ({ratio:.3g} times less)" if ratio else ""
    print_fields(
        [
            ("repository", repository),
            ("snapshots", found.snapshots),
            ("as files", human(found.bytes_total)),
            ("in packs", f"{human(found.bytes_packs)}{less}"),
            ("packs", found.packs),
        ]
    )
    if rows:
        print()
        titles = ["series", ">snapshots", ">size", ">new", ">stored", ">blocked"]
        print_table(titles, [_row(row) for row in rows])


def _of_series(name: str, snapshots: list[Any]) -> dict[str, Any]:
    sums = {
        field: sum(getattr(snapshot, field) for snapshot in snapshots)
        for field in ("bytes_total", "bytes_new", "bytes_stored", "blocked_seconds")
    }
    return {"name": name, "snapshots": len(snapshots)} | sums | {"newest": snapshots[-1].id}


def _row(row: dict[str, Any]) -> list[object]:
    sizes = [human(row[field]) for field in ("bytes_total", "bytes_new", "bytes_stored")]
    return [row["name"], row["snapshots"], *sizes, f"{row['blocked_seconds']:.3g} s"]
