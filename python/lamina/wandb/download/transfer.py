"""Parallel downloads of byte ranges of an artifact's files; broken ones go on where they stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import urllib3

from lamina import _core
from lamina.errors import ArtifactError, StorageError

#: Object stores limit the rate of a connection, not of a client.
CONNECTIONS = 16
#: A range is asked for in parts of this size, so that all connections have work.
PART_BYTES = 8 << 20
#: Attempts in a row that bring no byte; with the pauses between them, about a minute.
ATTEMPTS = 8
MAX_PAUSE = 15.0
TIMEOUT = (15.0, 60.0)  # to connect, and between two bytes
_BLOCK = 256 << 10
_URLS_AT_ONCE = 100
_LATER = {408, 425, 429, 500, 502, 503, 504}
_EXPIRED = {400, 401, 403}  # what object stores answer to an old signature


@dataclass(frozen=True)
class Range:
    """Bytes ``offset`` to ``offset + length`` of the artifact's file ``name``, to the same place in ``path``."""

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
        raise StorageError(f"cannot make {path} with {size} bytes: {error.strerror or error}") from error


class Transfer:
    """Downloads from one artifact."""

    def __init__(self, artifact: Any) -> None:
        self._artifact = artifact
        self._urls: dict[str, str] = {}
        self._sessions = threading.local()
        self._asking = threading.Lock()
        self._failed = threading.Event()
        self._watcher: _core.Progress | None = None

    def fetch(self, ranges: Iterable[Range]) -> None:
        """Download all of them into files that exist; the order does not matter.

        Raises:
            ArtifactError: if a file cannot be had.
        """
        wanted = [some for some in ranges if some.length]
        if not wanted:
            return
        self._find_urls(sorted({some.name for some in wanted} - set(self._urls)))
        self._failed.clear()
        self._watcher = _core.watcher()
        if self._watcher is not None:
            self._watcher.begin("fetching", sum(some.length for some in wanted))
        # Drawn one by one: a manifest may tell of more parts than memory could list.
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

    def _find_urls(self, names: Sequence[str]) -> None:
        try:
            for start in range(0, len(names), _URLS_AT_ONCE):
                some = list(names[start : start + _URLS_AT_ONCE])
                for file in self._artifact.files(names=some, per_page=len(some)):
                    self._urls[file.name] = file.direct_url
        except Exception as error:
            raise ArtifactError(f"W&B did not say where the files of {self._artifact.name} are: {error}") from error
        lost = [name for name in names if not self._urls.get(name)]
        if lost:
            raise ArtifactError(f"the artifact {self._artifact.name} has no file {lost[0]}")

    def _renew(self, name: str, expired: str) -> None:
        with self._asking:
            if self._urls[name] == expired:
                self._find_urls([name])

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
            if attempts >= ATTEMPTS:
                raise ArtifactError(f"cannot download {part.name} of {self._artifact.name}: {trouble}")
            self._failed.wait(min(MAX_PAUSE, 0.1 * 2.0**attempts) if attempts else 0.0)

    def _go_on(self, part: Range, done: int) -> tuple[int, str | None]:
        """Bytes that are there now, and what went wrong."""
        url = self._urls[part.name]
        first, last = part.offset + done, part.offset + part.length - 1
        headers = {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
        try:
            with self._session().get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
                status = response.status_code
                if status in _EXPIRED:
                    self._renew(part.name, url)
                if status in _EXPIRED or status in _LATER:
                    return done, f"the server answers {status}"
                if status not in (200, 206):
                    raise ArtifactError(f"cannot download {part.name}: the server answers {status}")
                skip = first if status == 200 else 0  # a server that knows no ranges
                return self._store(part, done, response.raw, skip)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            return done, str(error)

    def _store(self, part: Range, done: int, body: Any, skip: int) -> tuple[int, str | None]:
        try:
            with part.path.open("r+b") as file:
                file.seek(part.offset + done)
                while done < part.length and not self._failed.is_set():
                    try:
                        block = body.read(min(_BLOCK, skip or part.length - done), decode_content=False)
                    except (urllib3.exceptions.HTTPError, OSError) as error:
                        return done, str(error)
                    if not block:
                        return done, "the connection ended early"
                    if skip:
                        skip -= len(block)
                        continue
                    file.write(block)
                    done += len(block)
                    if self._watcher is not None:
                        self._watcher.advance(len(block))
        except OSError as error:
            raise StorageError(f"cannot write {part.path}: {error}") from error
        return done, None

    def _session(self) -> requests.Session:
        if not hasattr(self._sessions, "session"):
            self._sessions.session = requests.Session()
        session: requests.Session = self._sessions.session
        return session
