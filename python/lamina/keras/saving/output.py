"""What `fit` says of its saves. Only the thread that trains prints: one that waits for another thread's lock on a
stream that nobody reads would not hear SIGTERM."""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import sys
import threading
from collections import deque

from lamina.keras.messages import print_message

_queued: deque[str] = deque()


def queue_message(message: str) -> None:
    """From a thread that saves: the thread that trains prints it at its next hook."""
    _queued.append(message)


@atexit.register  # runs when all saves are done
def print_queued() -> None:
    """On the thread that trains."""
    while _queued:
        print_message(_queued.popleft())


def print_with_timeout(message: str, seconds: float) -> None:
    """Print what waits and this, or go without after this time."""
    if not _is_read():
        return
    queue_message(message)
    thread = threading.Thread(target=_print_quietly, daemon=True, name="lamina-print")
    with contextlib.suppress(RuntimeError):  # the interpreter is going down
        thread.start()
        thread.join(seconds)


def _print_quietly() -> None:
    with contextlib.suppress(Exception):
        print_queued()


def _is_read() -> bool:
    """Whether the stream would take a line at once; True where one cannot tell."""
    try:
        return bool(select.select([], [sys.stdout.fileno()], [], 0)[1])
    except (OSError, ValueError, AttributeError):  # no file, such as the cell of a notebook
        return True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_queued.clear)
