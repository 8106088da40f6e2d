"""Prints the messages of saves, on the training thread only.

If the saving thread printed to a pipe that nobody reads, it would hold the stream's lock, and the training thread would
wait for it and never handle SIGTERM.
"""

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
    """Queue a message on the saving thread; the training thread prints it at its next hook."""
    _queued.append(message)


@atexit.register  # runs when all saves are done
def print_queued() -> None:
    """Print the queued messages, on the training thread."""
    while _queued:
        print_message(_queued.popleft())


def print_with_timeout(message: str, seconds: float) -> None:
    """Print the queued messages and this one, but give up after ``seconds``."""
    if not _is_read():
        return
    queue_message(message)
    thread = threading.Thread(target=_print_quietly, daemon=True, name="lamina-print")
    with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
        thread.start()
        thread.join(seconds)


def _print_quietly() -> None:
    with contextlib.suppress(Exception):
        print_queued()


def _is_read() -> bool:
    """Whether standard output accepts a line without blocking; True if that is unknown."""
    try:
        return bool(select.select([], [sys.stdout.fileno()], [], 0)[1])
    except (OSError, ValueError, AttributeError):  # not a file, for example in a notebook
        return True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_queued.clear)
