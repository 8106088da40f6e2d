"""Parallel downloads of byte ranges; broken ones go on where they stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lamina import _core
from lamina.errors import LaminaError, StorageError

#: Object stores limit the rate of a connection, not of a client.
CONNECTIONS = 16
#: A range is asked for in parts of this size, so that all connections have work.
PART_BYTES = 8 << 20
#: Attempts in a row that bring no byte; with the pauses between them, about a minute.
ATTEMPTS = 8
MAX_PAUSE = 15.0


@dataclass(frozen=True)
class Range:
    """Bytes ``offset`` to ``offset + length`` of the file ``name`` there, to the same place in ``path``."""

    name: str
    offset: int
    length: int
    path: Path

    def parts(self) -> Iterator[Range]:
        for at in range(0, self.length, PART_BYTES):
            yield Range(self.name, self.offset + at, min(PART_BYTES, self.length - at), self.path)


class _Drawn:
    """Parts that several threads draw from."""

    def __init__(self, parts: Iterator[Range]) -> None:
        self._parts, self._lock = parts, threading.Lock()

    def draw(self) -> Range | None:
        with self._lock:
            return next(self._parts, None)


def make_sparse(path: Path, size: int) -> None:
    """A new file for what will be fetched; what is not takes no room.

    Raises:
        StorageError: if the file system takes no such name, or no file of that size.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size)
    except OSError as error:
        raise StorageError(f"cannot create {path} with {size} bytes: {error.strerror or error}") from error


class Transfer:
    """Downloads from one place; a subclass knows how a part is asked for."""

    attempts = ATTEMPTS

    def __init__(self) -> None:
        self._failed = threading.Event()
        self._watcher: _core.Progress | None = None

    def fetch(self, ranges: Iterable[Range]) -> None:
        """Download all of them into files that exist; the order does not matter.

        Raises:
            LaminaError: if a file cannot be had.
        """
        wanted = [some for some in ranges if some.length]
        if not wanted:
            return
        self._prepare(sorted({some.name for some in wanted}))
        self._failed.clear()
        self._watcher = _core.watcher()
        if self._watcher is not None:
            self._watcher.begin("fetching", sum(some.length for some in wanted))
        # Drawn one by one: a list of files may tell of more parts than memory could list.
        left = _Drawn(part for some in wanted for part in some.parts())
        connections = min(CONNECTIONS, sum(-(-some.length // PART_BYTES) for some in wanted))
        pool = ThreadPoolExecutor(connections, thread_name_prefix="lamina-fetch")
        waits = True
        try:
            for future in [pool.submit(self._fetch_all, left) for _ in range(connections)]:
                future.result()
        except BaseException as error:
            self._failed.set()
            waits = isinstance(error, Exception)  # Ctrl-C does not wait for a server that is silent
            raise
        finally:
            pool.shutdown(waits, cancel_futures=True)

    def _prepare(self, names: Sequence[str]) -> None:
        """Before the first part of these files is asked for."""

    def _go_on(self, part: Range, done: int) -> tuple[int, str | None]:
        """Fetch what a part lacks behind ``done`` bytes; bytes that are there now, and what went wrong."""
        raise NotImplementedError

    def _given_up(self, part: Range, trouble: str) -> LaminaError:
        """What is raised when no attempt brought a byte."""
        raise NotImplementedError

    def _fetch_all(self, left: _Drawn) -> None:
        try:
            while not self._failed.is_set() and (part := left.draw()) is not None:
                self._fetch(part)
        except BaseException:
            self._failed.set()  # nobody looks at this connection before the ones in front of it have ended
            raise

    def _fetch(self, part: Range) -> None:
        done, attempts = 0, 0
        while done < part.length:
            if self._failed.is_set():
                return
            before = done
            done, trouble = self._go_on(part, done)
            attempts = 0 if done > before else attempts + 1
            if trouble is None:
                continue
            if attempts >= self.attempts:
                raise self._given_up(part, trouble)
            self._failed.wait(min(MAX_PAUSE, 0.1 * 2.0**attempts) if attempts else 0.0)

    def _advance(self, bytes: int) -> None:
        if self._watcher is not None:
            self._watcher.advance(bytes)
