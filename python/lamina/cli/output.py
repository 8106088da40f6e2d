"""Output: tables and progress bars on a terminal, aligned plain lines in a pipe, JSON for programs."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lamina.units import count as count
from lamina.units import duration
from lamina.units import human as human

if TYPE_CHECKING:
    from lamina import _core

#: In a pipe, a progress line is printed each time this many seconds have passed.
LINE_SECONDS = 5.0
_BAR_SECONDS = 0.1
#: Between the columns of a table, and how many letters rich takes for it.
_GAP, _RICH_GAP = "  ", 3


def clean(text: object) -> str:
    """Untrusted text on one line: control and unprintable characters are escaped."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in shown)


def number(value: object) -> str:
    """A metric, or a dash if it is None."""
    return "-" if value is None else f"{value:.5g}" if isinstance(value, float) else clean(value)


def say(text: str) -> None:
    """Print a line on stderr."""
    print(text, file=sys.stderr)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object; floats that are not finite become strings, as in the format."""
    from lamina.repository.json_values import plain

    print(json.dumps(plain(value), indent=2, allow_nan=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], dropped: Sequence[str] = ()) -> None:
    """Print a table; a column whose title begins with ``>`` is right-aligned.

    Where the terminal (80 columns in a pipe) is too narrow, columns of ``dropped`` are left out, in that order.
    """
    titles = [title.removeprefix(">") for title in columns]
    right = [title.startswith(">") for title in columns]
    cells = [["-" if cell in (None, "") else clean(cell) for cell in row] for row in rows]
    kept = _that_fit(columns, [titles, *cells], dropped)
    titles, right = [titles[i] for i in kept], [right[i] for i in kept]
    cells = [[row[i] for i in kept] for row in cells]
    if _on_terminal():
        _rich_table(titles, right, cells)
    else:
        _plain_table([titles, *cells], right)


def _that_fit(columns: Sequence[str], lines: Sequence[Sequence[str]], dropped: Sequence[str]) -> list[int]:
    """The columns for which there is room."""
    from rich.cells import cell_len

    kept = list(range(len(columns)))
    if not dropped:
        return kept
    widths = [max(map(cell_len, cells)) for cells in zip(*lines, strict=True)]
    room, gap = shutil.get_terminal_size().columns, _RICH_GAP if _on_terminal() else len(_GAP)
    for title in dropped:
        if sum(widths[i] + gap for i in kept) > room:
            kept.remove(columns.index(title))
    return kept


def print_fields(fields: Sequence[tuple[str, object]]) -> None:
    """Print names and values, one pair per line; pairs without a value are skipped."""
    shown = [(name, clean(value)) for name, value in fields if value not in (None, "")]
    width = max((len(name) for name, _ in shown), default=0)
    if _on_terminal():
        _rich_fields(shown, width)
    else:
        for name, value in shown:
            print(f"{name.ljust(width)}  {value}")


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show progress on stderr: a bar on a terminal, a line every few seconds in a pipe.

    With ``total`` (0 if unknown) the caller reports bytes through the yielded function; without it, the engine and
    transfers report their own progress.
    """
    from lamina import _core

    meter = _core.Progress()
    meter.begin("", total or 0)
    if total is None:
        _core.watch(meter)
    ended = threading.Event()
    show = _bar if sys.stderr.isatty() else _lines
    shower = threading.Thread(target=show, args=(clean(what), meter, ended), daemon=True)
    shower.start()
    try:
        yield meter.advance
    finally:
        _core.watch(None)
        ended.set()
        shower.join()


def _read(what: str, meter: _core.Progress) -> tuple[str, int, int, str]:
    """Current phase, bytes done, total bytes (0 if unknown), and the same as text."""
    phase, done, total, seconds = meter.read()
    name = what if what.startswith(phase) else f"{what}: {phase}"
    return name, done, total, figures(done, total, seconds)


def figures(done: int, total: int, seconds: float) -> str:
    if not total:
        return duration(seconds)
    figures = f"{human(done)} of {human(total)}"
    if not done or seconds <= 0:
        return figures
    left = math.ceil(seconds * max(total - done, 0) / done)
    return f"{figures}, {human(done / seconds)}/s, {duration(left)} left"


def _lines(what: str, meter: _core.Progress, ended: threading.Event) -> None:
    while not ended.wait(LINE_SECONDS):
        name, _, _, figures = _read(what, meter)
        say(f"lamina: {name}: {figures}")


def _bar(what: str, meter: _core.Progress, ended: threading.Event) -> None:
    from rich import progress as bars
    from rich.console import Console

    columns = [
        bars.SpinnerColumn(),
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.TextColumn("{task.fields[figures]}", markup=False),
    ]
    with bars.Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as shown:
        task = shown.add_task(what, total=None, figures="")
        over = False
        while not over:
            over = ended.wait(_BAR_SECONDS)
            name, done, total, figures = _read(what, meter)
            shown.update(task, description=name, completed=done, total=total or None, figures=figures, refresh=True)


def _on_terminal() -> bool:
    """Whether to draw tables. Importing rich takes time, so it is asked only if the answer may be yes."""
    if not sys.stdout.isatty() and not {"FORCE_COLOR", "TTY_COMPATIBLE"} & os.environ.keys():
        return False
    from rich.console import Console

    return Console().is_terminal


def _rich_fields(shown: Sequence[tuple[str, str]], width: int) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for name, value in shown:
        console.print(Text.assemble((name.ljust(width + 2), "bold"), value), soft_wrap=True)


def _rich_table(titles: Sequence[str], right: Sequence[bool], cells: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for title, aligned in zip(titles, right, strict=True):
        table.add_column(title, justify="right" if aligned else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)


def _plain_table(lines: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = []
        for cell, width, aligned in zip(line, widths, right, strict=True):
            gap = " " * (width - cell_len(cell))
            padded.append(gap + cell if aligned else cell + gap)
        print(_GAP.join(padded).rstrip())
