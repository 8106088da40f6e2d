"""The charts. The only importer of plotly."""

from __future__ import annotations

import html
import math
from typing import Any

import numpy as np

from lamina.errors import LaminaError
from lamina.report import heat
from lamina.report.data import NO_DISTANCE, LayerRow, Report
from lamina.report.theme import LIGHT, Theme, axis, layout

try:
    import plotly.graph_objects as go
    from plotly.offline import get_plotlyjs
except ModuleNotFoundError as error:
    raise LaminaError("a report needs the package plotly: pip install plotly") from error

__all__ = ["charts", "get_plotlyjs", "movement"]

#: At most so many layers have their own bar, and at most so many characters are in a label of an axis.
_BARS, _LETTERS = 30, 40
#: Up to so many versions are drawn with a dot each, and with gaps between bars.
_DOTS, _GAPS = 80, 150
#: Up to so many cells of a heat map have a hover text.
_TOLD = 100_000
#: Heights of the timeline's rows; the others have 1.
_SHARES = {"value": 2.0, "bytes": 1.4}


def charts(report: Report, theme: Theme = LIGHT) -> dict[str, Any]:
    """All charts but the heat map, by name; charts without data are left out."""
    found = {"timeline": _timeline(report, theme)}
    bars = _bars_of(report.layers)
    found["size"] = _bars(bars, theme, [layer.bytes for layer in bars], theme.strong, "~s", "B", "in one version")
    for name, colour in (("dedup", theme.value), ("compression", theme.warm)):
        values = [getattr(layer, name) for layer in bars]
        if any(value is not None for value in values) and (name != "dedup" or len(report.versions) > 1):
            found[name] = _bars(bars, theme, values, colour, ".3~g", "\N{MULTIPLICATION SIGN}", "times less")
    return found


def movement(report: Report, theme: Theme = LIGHT, view: heat.View | None = None) -> Any:
    """The heat map of a view; without a view only its frame, which page.js fills."""
    scale = heat.scale_of(report)
    values, texts = scale.ticks()
    bar = {"tickvals": values, "ticktext": texts, "thickness": 12, "outlinewidth": 0, "len": 1.0}
    bar |= {"tickfont": {"color": theme.muted, "size": 11}, "ticks": ""}
    trace = go.Heatmap(
        x=_labels(report),
        zmin=scale.still,
        zmax=scale.high,
        colorscale=scale.colours(theme.still, theme.ramp),
        colorbar=bar,
        hoverinfo="none",
        hoverongaps=False,
        xgap=1 if len(report.versions) <= 60 else 0,
        ygap=1,
    )
    if view is not None:
        trace.z, trace.y = _logs(view.values, scale), [_escaped(name) for name in view.names]
        told = view.values.size <= _TOLD
        trace.text = _moved_texts(view.values) if told else None
        trace.hovertemplate = f"%{{y}}<br>version %{{x}}{': %{text}' if told else ''}<extra></extra>"
    figure = go.Figure(trace)
    figure.update_layout(
        **layout(theme, height=120 + 16 * min(len(view.names) if view else 20, 60)),
        xaxis=_version_axis(report, theme, title=_title("version", theme)),
        yaxis=axis(theme, type="category", autorange="reversed", showgrid=False),
    )
    return figure


def _timeline(report: Report, theme: Theme) -> Any:
    """Several rows above one axis of versions, so that hovering shows the values of all rows."""
    rows = _rows(report)
    shares = [_SHARES.get(name, 1.0) for name in rows]
    titles = {"value": _monitor(report), "bytes": "size", "blocked": "blocked", "upload": "upload"}
    figure = go.Figure()
    top = 1.0
    for number, (name, share) in enumerate(zip(rows, shares, strict=True), 1):
        bottom = top - share / sum(shares)
        unit = {"bytes": "B", "value": ""}.get(name, "s")
        form = {"tickformat": "~s", "ticksuffix": unit, "rangemode": "tozero"} if unit else {"tickformat": ".3~g"}
        domain = [max(bottom, 0), top - (0.05 if number > 1 else 0)]
        figure.update_layout(
            {_y(number, "yaxis"): axis(theme, domain=domain, nticks=5, title=_title(titles[name], theme), **form)}
        )
        for trace in _TRACES[name](report, theme):
            figure.add_trace(trace.update(yaxis=_y(number, "y")))
        top = bottom
    figure.update_layout(
        **layout(theme, height=int(70 + 86 * sum(shares)), barmode="overlay", bargap=0.25, hovermode="x unified"),
        hoversubplots="axis",
        xaxis=_version_axis(report, theme, title=_title("version", theme), anchor=_y(len(rows), "y")),
    )
    return figure


def _y(number: int, name: str) -> str:
    return name if number == 1 else f"{name}{number}"


def _rows(report: Report) -> list[str]:
    known = {
        "value": any(v.value is not None for v in report.versions),
        "bytes": True,
        "blocked": any(v.blocked_seconds is not None for v in report.versions),
        "upload": any(v.upload_seconds is not None for v in report.versions),
    }
    return [name for name, there in known.items() if there]


def _value_traces(report: Report, theme: Theme) -> list[Any]:
    values = [_finite(version.value) for version in report.versions]
    mode = "lines+markers" if len(values) <= _DOTS else "lines"
    name = _monitor(report)
    line = {"color": theme.value, "width": 2}
    traces = [_scatter(report, values, name, mode, line, {"size": 6}, "%{y:.5~g}")]
    if report.best is not None and values[report.best] is not None:
        star = {"symbol": "star", "size": 15, "color": theme.best, "line": {"color": theme.surface, "width": 1}}
        only = [value if i == report.best else None for i, value in enumerate(values)]
        traces.append(_scatter(report, only, "best", "markers", {}, star, "%{y:.5~g}"))
    return traces


def _bytes_traces(report: Report, theme: Theme) -> list[Any]:
    total = [version.bytes_total for version in report.versions]
    line = {"color": theme.muted, "width": 1.5, "shape": "hvh", "dash": "dot"}
    form = "%{y:.3s}B"
    traces = [_scatter(report, total, "total", "lines" if len(total) > 1 else "markers", line, {}, form)]
    for field, name, colour in (("bytes_new", "new", theme.accent), ("bytes_stored", "stored", theme.strong)):
        sizes = [getattr(version, field) for version in report.versions]
        if all(size is None for size in sizes):
            continue
        if name == "stored" and len(sizes) > _GAPS:  # a narrow bar inside a wide one would be invisible
            traces.append(_scatter(report, sizes, name, "lines", {"color": colour, "width": 1.5}, {}, form))
        else:
            traces.append(_bar(report, sizes, name, colour, form, 0.75 if name == "new" else 0.4))
    return traces


def _blocked_traces(report: Report, theme: Theme) -> list[Any]:
    return [_bar(report, [v.blocked_seconds for v in report.versions], "blocked", theme.warm, "%{y:.3s}s", 0.75)]


def _upload_traces(report: Report, theme: Theme) -> list[Any]:
    return [_bar(report, [v.upload_seconds for v in report.versions], "upload", theme.warm, "%{y:.3s}s", 0.75)]


_TRACES = {"value": _value_traces, "bytes": _bytes_traces, "blocked": _blocked_traces, "upload": _upload_traces}


def _scatter(report: Report, values: list[Any], name: str, mode: str, line: Any, marker: Any, form: str) -> Any:
    return go.Scatter(
        x=_labels(report),
        y=values,
        name=name,
        mode=mode,
        line=line,
        marker=marker,
        hovertemplate=form,
        connectgaps=True,
    )


def _bar(report: Report, values: list[Any], name: str, colour: str, form: str, width: float) -> Any:
    marker = {"color": colour, "line": {"width": 0}}
    wide = width * min(1.0, len(values) / 6) if len(values) <= _GAPS else 1
    return go.Bar(x=_labels(report), y=values, name=name, marker=marker, hovertemplate=form, width=wide)


def _bars_of(layers: list[LayerRow]) -> list[LayerRow]:
    """The largest layers, and one row for all others."""
    if len(layers) <= _BARS + 1:
        return layers
    others = layers[_BARS:]
    sums = {
        field: sum(getattr(layer, field) or 0 for layer in others) or None
        for field in ("bytes_distinct", "bytes_stored")
    }
    size, total = sum(layer.bytes for layer in others), sum(layer.bytes_total for layer in others)
    return [*layers[:_BARS], LayerRow(f"{len(others)} others", size, total, **sums)]


def _bars(layers: list[LayerRow], theme: Theme, values: list[Any], colour: str, form: str, unit: str, what: str) -> Any:
    names = [layer.name for layer in layers]
    room = max((value for value in values if value is not None), default=1) * 1.22
    figure = go.Figure(
        go.Bar(
            x=values,
            y=list(range(len(names))),
            orientation="h",
            marker={"color": colour, "line": {"width": 0}},
            texttemplate=f"%{{x:.3~s}}{unit}" if unit == "B" else f"%{{x:.3~g}}{unit}",
            textposition="outside",
            textfont={"color": theme.muted, "size": 11},
            cliponaxis=False,
            customdata=[_escaped(name) for name in names],
            hovertemplate=f"%{{customdata}}<br>%{{x:{'.4~s' if unit == 'B' else '.4~g'}}}{unit} {what}<extra></extra>",
        )
    )
    labels = [_escaped(shortened(name)) for name in names]
    figure.update_layout(
        **layout(theme, height=60 + 22 * len(names), bargap=0.3),
        xaxis=axis(theme, tickformat=form, ticksuffix=unit, nticks=5, range=[0, room], fixedrange=True),
        yaxis=axis(
            theme,
            tickvals=list(range(len(names))),
            ticktext=labels,
            autorange="reversed",
            fixedrange=True,
            showgrid=False,
            zeroline=False,
        ),
    )
    return figure


def _logs(values: Any, scale: heat.Scale) -> list[list[float | None]]:
    """The values for the colour scale, computed as in page.js."""
    codes = heat.codes_of(values)
    logs = np.clip(codes / 1000, scale.low, scale.high).astype(object)
    logs[codes == heat.STILL] = scale.still
    logs[(codes == heat.INFINITE) | (codes == heat.NOT_A_NUMBER)] = scale.high
    logs[codes == heat.NONE] = None
    return [list(row) for row in logs]


def _moved_texts(values: Any) -> list[list[str]]:
    return [[moved_text(float(value)) for value in row] for row in values]


def moved_text(value: float) -> str:
    """A distance as text."""
    if value == NO_DISTANCE:
        return "no distance"
    if value == 0:
        return "did not move"
    if math.isnan(value):
        return "not a number"
    return "moved from all zeros" if math.isinf(value) else f"moved by {heat.percent(value)}"


def _monitor(report: Report) -> str:
    return _escaped(next((v.monitor for v in reversed(report.versions) if v.monitor), "value"))


def _labels(report: Report) -> list[str]:
    return [version.label for version in report.versions]


def _version_axis(report: Report, theme: Theme, **more: Any) -> dict[str, Any]:
    ends = [-0.5, len(report.versions) - 0.5]
    return axis(theme, type="category", range=ends, showgrid=False, nticks=14, tickangle=0, **more)


def _title(text: str, theme: Theme) -> dict[str, Any]:
    return {"text": text, "font": {"color": theme.muted, "size": 11}, "standoff": 8}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _escaped(text: str) -> str:
    """Plotly interprets labels as HTML."""
    return html.escape(text, quote=False)


def shortened(name: str, letters: int = _LETTERS) -> str:
    """A long name with its middle cut out."""
    half = (letters - 1) // 2
    return name if len(name) <= letters else f"{name[:half]}…{name[-half:]}"
