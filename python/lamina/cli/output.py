"""What people see: tables and progress on a terminal, aligned plain lines in a pipe, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_UNITS = ("kB", "MB", "GB", "TB", "PB")


def clean(text: object) -> str:
    """Text from files on one line: what a terminal would obey, or not show, is written as an escape."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in shown)


def human(size: float | None) -> str:
    """A number of bytes in three digits; decimal units, as disks and W&B count."""
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


def number(value: object) -> str:
    """A metric, or a dash where there is none."""
    return "-" if value is None else f"{value:.5g}" if isinstance(value, float) else clean(value)


def count(number: int, noun: str) -> str:
    """So many of something."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr)


def print_json(value: dict[str, Any]) -> None:
    """One object; floats that are not finite are strings, as in the format."""
    from lamina.snapshot import plain

    print(json.dumps(plain(value), indent=2, allow_nan=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; a title that begins with ``>`` has its column aligned to the right."""
    from rich.console import Console

    titles = [title.removeprefix(">") for title in columns]
    right = [title.startswith(">") for title in columns]
    cells = [["-" if cell in (None, "") else clean(cell) for cell in row] for row in rows]
    console = Console(highlight=False)
    if console.is_terminal:
        _rich_table(console, titles, right, cells)
    else:
        _plain_table([titles, *cells], right)


def print_fields(fields: Sequence[tuple[str, object]]) -> None:
    """Names and values, one pair a line; pairs without a value are left out."""
    from rich.console import Console
    from rich.text import Text

    shown = [(name, clean(value)) for name, value in fields if value not in (None, "")]
    width = max((len(name) for name, _ in shown), default=0)
    console = Console(highlight=False)
    for name, value in shown:
        if console.is_terminal:
            line = Text.assemble((name.ljust(width + 2), "bold"), value)
            console.print(line, soft_wrap=True)
        else:
            print(f"{name.ljust(width)}  {value}")


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show that something goes on, on stderr and only on a terminal; the function given takes bytes done.

    Without ``total`` nobody can say how far it is.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich import progress as bars
    from rich.console import Console
    from rich.markup import escape

    columns: list[bars.ProgressColumn] = [bars.SpinnerColumn(), bars.TextColumn("{task.description}")]
    if total is not None:
        columns += [bars.BarColumn(), bars.DownloadColumn(), bars.TransferSpeedColumn()]
        columns.append(bars.TimeRemainingColumn())
    else:
        columns.append(bars.TimeElapsedColumn())
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(escape(clean(what)), total=total)
        yield lambda done: shown.advance(task, done)


def _rich_table(console: Any, titles: Sequence[str], right: Sequence[bool], cells: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for title, aligned in zip(titles, right, strict=True):
        table.add_column(title, justify="right" if aligned else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


def _plain_table(lines: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = []
        for cell, width, aligned in zip(line, widths, right, strict=True):
            gap = " " * (width - cell_len(cell))
            padded.append(gap + cell if aligned else cell + gap)
        print("  ".join(padded).rstrip())
