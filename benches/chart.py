"""The results as a page of bar charts: each contender's ratio to each peer. The page needs no network."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from benches.measure import Row, Table

OURS, THEIRS = "#d97706", "#64748b"


def write(path: Path, about: Mapping[str, str], tables: Sequence[Table]) -> None:
    """Write the page; needs plotly."""
    from plotly.offline import get_plotlyjs

    parts = [f"<p>{html.escape(' · '.join(about.values()))}</p>"]
    for table in tables:
        parts.append(f"<h2>{html.escape(table.title)}</h2><p>{html.escape(table.note)}</p>")
        parts += [_bars(table, column) for column in _ratios(table)]
    head = (
        '<!doctype html><meta charset="utf-8"><title>lamina: measured</title>'
        "<style>body{font:15px system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}</style>"
        f"<script>{get_plotlyjs()}</script>"
    )
    path.write_text(head + "\n".join(parts), encoding="utf-8")


def _ratios(table: Table) -> list[str]:
    return [column for column in table.formats if "/ " in f"{column} " or column in ("ratio", "throughput")]


def _bars(table: Table, column: str) -> str:
    from plotly import graph_objects

    rows = [row for row in table.rows if _value(row, column) is not None]
    bars = graph_objects.Bar(
        x=[_value(row, column) for row in rows],
        y=[row.name for row in rows],
        orientation="h",
        marker_color=[OURS if row.ours else THEIRS for row in rows],
        texttemplate="%{x:.3~g}",
        textposition="outside",
        cliponaxis=False,
    )
    figure = graph_objects.Figure(bars)
    figure.update_layout(
        title=column.replace("/", "÷").strip(),
        height=120 + 34 * len(rows),
        margin={"l": 10, "r": 60, "t": 40, "b": 30},
        template="plotly_white",
        yaxis={"autorange": "reversed", "automargin": True},
    )
    drawn: str = figure.to_html(full_html=False, include_plotlyjs=False)
    return drawn


def _value(row: Row, column: str) -> float | None:
    value = row.values.get(column)
    return None if row.failure or value is None or value != value else value
