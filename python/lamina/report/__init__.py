"""The report of a series: its history as numbers, charts and an HTML page. Only `figures` imports plotly."""

from __future__ import annotations

from lamina.report.data import Report
from lamina.report.gather import gather, history

__all__ = ["Report", "gather", "history"]
