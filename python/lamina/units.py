"""Sizes, counts and durations as text."""

from __future__ import annotations

_UNITS = ("kB", "MB", "GB", "TB", "PB")


def human(size: float | None) -> str:
    """A size in bytes as text, with three digits and decimal units, as disks and W&B use them."""
    if size is None:
        return "-"
    if size < 1000:
        return f"{size:.0f} B"
    value = float(size)
    for unit in _UNITS:
        value /= 1000
        if value < 999.5 or unit == _UNITS[-1]:
            break
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f} {unit}"


def count(number: int, noun: str) -> str:
    """A number and a noun, in the plural if needed."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """A duration in seconds as text, in a suitable unit."""
    if 0 < seconds < 0.9995:
        return f"{seconds * 1000:.{1 if seconds < 0.00995 else 0}f} ms"
    whole = round(seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    if whole < 100:
        return f"{whole} s"
    if whole < 6000:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
