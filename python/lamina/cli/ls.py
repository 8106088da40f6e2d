"""`lamina ls`: list the snapshots of a repository."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from lamina.cli.command import AsJson, Source, verb
from lamina.cli.describe import age_of, metric, moment, repository_at, snapshot_json
from lamina.cli.output import human, print_json, print_table
from lamina.errors import InvalidInputError

if TYPE_CHECKING:
    from lamina.repository.snapshot import Snapshot

_Listed = tuple["Snapshot", list[str]]


class Order(str, Enum):
    """Sort order of the snapshots."""

    number = "number"
    value = "value"
    size = "size"
    new = "new"
    stored = "stored"


#: Title → cell; a plain file has no id and no recorded cost.
_COLUMNS: dict[str, Callable[[Snapshot, list[str]], object]] = {
    ">no": lambda s, _: s.number,
    "id": lambda s, _: s.id[:8],
    "series": lambda s, _: s.series,
    ">age": lambda s, _: age_of(s),
    "epoch": lambda s, _: moment(s),
    "metric": lambda s, _: metric(s),
    ">size": lambda s, _: human(s.bytes_total),
    ">new": lambda s, _: human(s.bytes_new) if s.id else None,
    ">stored": lambda s, _: human(s.bytes_stored) if s.id else None,
    "aliases": lambda _, aliases: ", ".join(aliases),
}
#: What goes first where the terminal is too narrow.
_DROPPED = (">stored", ">new", "id", ">size", "epoch", ">age")


@verb("ls", example="lamina ls runs/a --last 5", keys="source, snapshots (in the order of the table; see lamina show)")
def ls(
    source: Source,
    series: Annotated[
        str | None, typer.Option("--series", metavar="NAME", help="Only the snapshots of this series.")
    ] = None,
    last: Annotated[
        int | None, typer.Option("--last", metavar="N", min=1, help="Only the newest N of what is listed.")
    ] = None,
    sort: Annotated[
        Order,
        typer.Option(
            "--sort",
            metavar="ORDER",
            help="number (oldest first), value (of the monitored metric, the best first), size, new or stored (the "
            "largest first).",
        ),
    ] = Order.number,
    as_json: AsJson = False,
) -> None:
    """List the snapshots of a repository, oldest first; a star marks those that were the best when saved.

    For any other source, its one snapshot is listed. Columns for which the terminal has no room are left out; --json
    has everything.
    """
    found = _sorted(_listed(source, series)[-(last or 0) :], sort)
    if as_json:
        print_json({"source": source, "snapshots": [snapshot_json(s, aliases) for s, aliases in found]})
        return
    several = len({s.series for s, _ in found}) > 1
    rows = [[cell(s, aliases) for cell in _COLUMNS.values()] for s, aliases in found]
    print_table(list(_COLUMNS), rows, dropped=_DROPPED if several else ("series", *_DROPPED))


def _listed(source: str, series: str | None) -> list[_Listed]:
    repository = repository_at(source)
    if repository is None:
        from lamina.sources import resolve

        one = resolve(source).snapshot
        return [(one, one.aliases)] if series in (None, one.series) else []
    found = repository.snapshots(series)
    if series is not None and not found:
        repository.snapshot(series=series)  # raises the error that lists the series
    named = repository._core.aliases()
    return [(s, named.get(s.number or 0, [])) for s in found]


def _sorted(found: list[_Listed], order: Order) -> list[_Listed]:
    if order is Order.number:
        return found
    if order is Order.value:
        return _by_value(found)
    size = {Order.size: "bytes_total", Order.new: "bytes_new", Order.stored: "bytes_stored"}[order]
    return sorted(found, key=lambda listed: -int(getattr(listed[0], size)))


def _by_value(found: list[_Listed]) -> list[_Listed]:
    """The best first; those without a value last."""
    monitored = {(s.monitor, s.mode) for s, _ in found if s.value is not None}
    if len(monitored) > 1:
        names = ", ".join(sorted(f"{monitor} ({mode or 'no direction'})" for monitor, mode in monitored))
        raise InvalidInputError(f"these snapshots have values of several metrics: {names}; pass --series")
    sign = -1 if ("max" in {mode for _, mode in monitored}) else 1

    def key(listed: _Listed) -> float:
        value = listed[0].value
        return math.inf if value is None or math.isnan(value) else sign * value

    return sorted(found, key=key)
