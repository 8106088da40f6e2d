"""Colours and fonts of the charts, for a light and a dark page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif'


@dataclass(frozen=True)
class Theme:
    """The colours of the charts; those of the page itself are in page.css."""

    text: str
    muted: str
    grid: str
    surface: str
    accent: str  # new bytes
    strong: str  # stored bytes
    value: str
    best: str
    warm: str  # time
    still: str  # a tensor that did not move
    damaged: str  # a distance that is not a number
    ramp: tuple[str, ...]  # from a small distance to a large one


LIGHT = Theme(
    text="#1c2430",
    muted="#697586",
    grid="#e6e9ee",
    surface="#ffffff",
    accent="#9cc3ee",
    strong="#2f6fb8",
    value="#2f6fb8",
    best="#d9730d",
    warm="#7a5ea8",
    still="#eef0f3",
    damaged="#d21f3c",
    ramp=("#d6e6f5", "#9fc8e8", "#5ba3d0", "#2b7bba", "#0f5299", "#082d5f"),
)
DARK = Theme(
    text="#e4e8ee",
    muted="#8f9bab",
    grid="#2a323d",
    surface="#171c23",
    accent="#3b628c",
    strong="#6cb0f5",
    value="#6cb0f5",
    best="#f5a34b",
    warm="#b79ae0",
    still="#222932",
    damaged="#ff5c72",
    ramp=("#1f3a55", "#24578a", "#2f7bbd", "#57a5dd", "#9fd0f2", "#f1f8d8"),
)
THEMES = {"light": LIGHT, "dark": DARK}


def layout(theme: Theme, **more: Any) -> dict[str, Any]:
    """The layout that all charts share."""
    return {
        "font": {"family": FONT, "size": 12, "color": theme.text},
        "paper_bgcolor": theme.surface,
        "plot_bgcolor": theme.surface,
        "hoverlabel": {"bgcolor": theme.surface, "bordercolor": theme.grid, "font": {"color": theme.text}},
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "showlegend": False,
        "colorway": [theme.value, theme.best, theme.warm, theme.strong],
        "dragmode": "zoom",
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": theme.muted, "activecolor": theme.text},
        **more,
    }


def axis(theme: Theme, **more: Any) -> dict[str, Any]:
    """The axis style that all charts share."""
    return {
        "gridcolor": theme.grid,
        "linecolor": theme.grid,
        "zerolinecolor": theme.grid,
        "tickfont": {"color": theme.muted, "size": 11},
        "automargin": True,
        **more,
    }
