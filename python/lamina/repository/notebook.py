"""What a notebook shows of repositories, snapshots and diffs: tables of plain HTML, and a data frame."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lamina.errors import LaminaError
from lamina.units import count, human

if TYPE_CHECKING:
    import pandas

#: Rows of a table.
_ROWS = 20
_FIELDS = (
    *("id", "series", "run", "kind", "created_at", "epoch", "batch", "step", "next_epoch", "monitor", "mode", "value"),
    *("best", "bytes_total", "bytes_new", "bytes_stored", "blocked_seconds"),
)
_COLUMNS = ("number", "id", "series", "saved", "epoch", "metric", "size", "new", "aliases")


def repository_html(title: object, found: Sequence[Any], aliases: dict[int, list[str]]) -> str:
    """Its newest snapshots."""
    rows = [_row(snapshot, aliases.get(snapshot.number or 0, [])) for snapshot in reversed(found[-_ROWS:])]
    hidden = f", the newest {_ROWS} of them" if len(found) > _ROWS else ""
    return f"<p><b>{escaped(title)}</b>: {count(len(found), 'snapshot')}{hidden}</p>{table(_COLUMNS, rows)}"


def snapshot_html(snapshot: Any) -> str:
    """What is known of it without reading its content."""
    logs = ", ".join(f"{name} {_number(value)}" for name, value in snapshot.logs.items())
    fields = [
        ("id", snapshot.id),
        ("number", snapshot.number),
        ("series", snapshot.series),
        ("run", snapshot.run),
        ("kind", snapshot.kind),
        ("saved", snapshot.created_at),
        ("epoch", _moment(snapshot)),
        ("step", snapshot.step),
        ("monitored", _metric(snapshot)),
        ("logs", logs),
        ("aliases", ", ".join(snapshot.aliases)),
        ("size", human(snapshot.bytes_total)),
        ("new", human(snapshot.bytes_new)),
        ("training waited", f"{snapshot.blocked_seconds:.3g} s"),
    ]
    return table((), [(name, value) for name, value in fields if value not in (None, "")])


def diff_html(found: Sequence[Any]) -> str:
    """The tensors that changed, the most changed first."""
    changed = [one for one in found if one.status != "same"]
    rows = [(one.name, one.status, human(one.nbytes), human(one.changed_bytes)) for one in changed[:_ROWS]]
    hidden = f", {len(changed) - _ROWS} of them not shown" if len(changed) > _ROWS else ""
    title = f"<p>{len(changed)} of {count(len(found), 'tensor')} changed{hidden}</p>"
    return title + (table(("tensor", "change", "size", "changed"), rows) if rows else "")


def frame_of(found: Sequence[Any], aliases: dict[int, list[str]]) -> pandas.DataFrame:
    """A row for each snapshot, a column for each of its fields and each metric."""
    try:
        import pandas
    except ImportError as error:
        raise LaminaError("a data frame needs the package pandas: pip install pandas") from error
    rows = []
    for snapshot in found:
        row: dict[str, Any] = {name: getattr(snapshot, name) for name in _FIELDS}
        row["aliases"] = aliases.get(snapshot.number or 0, [])
        row |= {f"logs.{name}" if name in row else name: value for name, value in snapshot.logs.items()}
        rows.append(row)
    index = pandas.Index([snapshot.number for snapshot in found], name="number")
    frame: pandas.DataFrame = pandas.DataFrame(rows, index=index, columns=None if rows else [*_FIELDS, "aliases"])
    frame["created_at"] = pandas.to_datetime(frame["created_at"], utc=True, errors="coerce", format="ISO8601")
    return frame


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; every cell is escaped: names are somebody else's."""
    head = f"<thead><tr>{''.join(f'<th>{escaped(title)}</th>' for title in titles)}</tr></thead>" if titles else ""
    body = "".join(f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{head}<tbody>{body}</tbody></table>"


def escaped(cell: object) -> str:
    """Text that is nothing but text; letters that cannot be seen are spelled out."""
    text = "" if cell is None else str(cell)
    seen = "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)
    return html.escape(seen)


def _row(snapshot: Any, aliases: list[str]) -> list[object]:
    costs = [human(snapshot.bytes_total), human(snapshot.bytes_new)]
    where = [snapshot.number, snapshot.id[:8], snapshot.series, snapshot.created_at[:19].replace("T", " ")]
    return [*where, _moment(snapshot), _metric(snapshot), *costs, ", ".join(aliases)]


def _moment(snapshot: Any) -> str | None:
    if snapshot.epoch is None:
        return None
    return f"{snapshot.epoch}" if snapshot.batch is None else f"{snapshot.epoch}, batch {snapshot.batch}"


def _metric(snapshot: Any) -> str | None:
    if snapshot.value is None:
        return None
    return f"{snapshot.monitor or 'value'} {snapshot.value:.5g}{' *' if snapshot.best else ''}"


def _number(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
