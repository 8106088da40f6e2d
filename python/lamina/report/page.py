"""The page: one HTML file with the charts, their library and their data. It needs no network."""

from __future__ import annotations

import base64
import gzip
import html
import json
from dataclasses import asdict
from functools import cache
from importlib import resources
from string import Template
from typing import Any

from lamina.report import heat
from lamina.report.data import Report
from lamina.report.figures import charts, get_plotlyjs, movement
from lamina.report.theme import THEMES
from lamina.repository.json_values import plain
from lamina.version import __version__

#: The beginning of a page; a file that begins differently is not replaced.
BEGIN = "<!doctype html>"


def page(report: Report) -> str:
    """The page as HTML."""
    parts = {name: _resource(f"page.{name}") for name in ("html", "css", "js")}
    return Template(parts["html"]).substitute(
        title=html.escape(report.series),
        subtitle=html.escape(_subtitle(report)),
        style=parts["css"],
        script=parts["js"],
        data=_packed(json.dumps(plain(_data(report)), allow_nan=False)),
        plotly=_library(),
        version=html.escape(__version__),
    )


def _data(report: Report) -> dict[str, Any]:
    """The data that page.js reads."""
    scale = heat.scale_of(report)
    return {
        "versions": [asdict(version) for version in report.versions],
        "best": report.best,
        "tensors": len(report.tensors),
        "distances": report.distances,
        "notes": report.notes,
        "views": [view.to_json() for view in heat.views(report)],
        "scale": {"low": scale.low, "high": scale.high, "still": scale.still},
        "figures": {name: _figures(report, name) for name in THEMES},
        "colours": {
            name: {"text": theme.text, "best": theme.best, "damaged": theme.damaged} for name, theme in THEMES.items()
        },
    }


def _figures(report: Report, theme: str) -> dict[str, Any]:
    found = charts(report, THEMES[theme]) | {"movement": movement(report, THEMES[theme])}
    return {name: figure.to_plotly_json() for name, figure in found.items()}


def _subtitle(report: Report) -> str:
    """The source, the run, and when it was saved."""
    times = [version.created_at[:16].replace("T", " ") for version in report.versions if version.created_at]
    run = [f"run {report.run}"] if report.run else []
    days = [f"{' to '.join(dict.fromkeys((times[0], times[-1])))} UTC"] if times else []
    return " · ".join([report.source, *run, *days])


@cache
def _library() -> str:
    return _packed(get_plotlyjs())


def _packed(text: str) -> str:
    """Text as base64 of gzip: a third of the size, and without any markup."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
