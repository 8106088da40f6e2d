"""Moves batch ends that Keras reports on a thread pool back to the training thread.

On JAX and torch, Keras calls batch hooks on a pool if a callback is passed alone instead of in a list. A capture there
would run during the next step.
"""

from __future__ import annotations

import threading
from typing import Any

Ended = tuple[int, dict[str, Any] | None]
#: Seconds that training waits for a batch end. An error of another callback may have prevented its report.
_PATIENCE = 60.0


class BatchEnds:
    """Counts the batches that began and ended, and queues those that ended on another thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[Ended] = []
        self._trains: int | None = None
        self._begun = self._ended = 0

    def start(self) -> None:
        """Training begins on this thread."""
        self.__init__()  # type: ignore[misc]
        self._trains = threading.get_ident()

    def ended(self, batch: int, logs: dict[str, Any] | None) -> bool:
        """Note that a batch has ended. False: this thread does not train, and `due` returns the batch later."""
        here = self._trains in (None, threading.get_ident())
        with self._changed:
            self._ended += 1
            if not here:
                self._waiting.append((batch, logs))
            self._changed.notify_all()
        return here

    def due(self) -> list[Ended]:
        """The batches that ended on other threads; waits for the last one that began."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended >= self._begun, _PATIENCE)
            due, self._waiting = sorted(self._waiting, key=lambda ended: ended[0]), []
        return due

    def begin(self) -> None:
        """A batch begins."""
        self._begun += 1
