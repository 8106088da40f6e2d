"""Ends of batches that Keras reports on a thread pool, brought back to the thread that trains.

JAX and torch dispatch batch hooks to a pool where a callback is passed bare, not in a list. There the next step
would run while the model is captured.
"""

from __future__ import annotations

import threading
from typing import Any

Ended = tuple[int, dict[str, Any] | None]
#: Seconds for which training waits for a report that another callback's error may have prevented.
_PATIENCE = 60.0


class BatchEnds:
    """Counts the batches that have begun and ended."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[Ended] = []
        self._trains: int | None = None
        self._begun = self._ended = 0

    def start(self) -> None:
        """Training begins, on this thread."""
        self.__init__()  # type: ignore[misc]
        self._trains = threading.get_ident()

    def ended(self, batch: int, logs: dict[str, Any] | None) -> bool:
        """Note that a batch has ended; False where this thread does not train and must leave it to `due`."""
        here = self._trains in (None, threading.get_ident())
        with self._changed:
            self._ended += 1
            if not here:
                self._waiting.append((batch, logs))
            self._changed.notify_all()
        return here

    def due(self) -> list[Ended]:
        """The batches that have ended elsewhere; waits for the report of the last one."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended >= self._begun, _PATIENCE)
            due, self._waiting = sorted(self._waiting, key=lambda ended: ended[0]), []
        return due

    def begin(self) -> None:
        """Another batch begins."""
        self._begun += 1
