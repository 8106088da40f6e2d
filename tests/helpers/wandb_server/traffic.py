"""What passes over the wire: counters, the log of operations, injected faults, bandwidth."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from threading import Lock
from typing import Any


@dataclass
class FileCounter:
    """Traffic of one stored file (or, summed, of several)."""

    puts: int = 0  # finished and stored
    put_attempts: int = 0
    put_bytes: int = 0  # received, whether or not the upload was finished
    gets: int = 0
    get_bytes: int = 0  # sent, whether or not the download was finished
    ranges: list[tuple[int, int]] = field(default_factory=list)  # asked for: first byte, end (exclusive)

    def add(self, other: FileCounter) -> None:
        self.puts += other.puts
        self.put_attempts += other.put_attempts
        self.put_bytes += other.put_bytes
        self.gets += other.gets
        self.get_bytes += other.get_bytes
        self.ranges += other.ranges


class Counters:
    """Traffic by URL path below `/storage/`: `artifacts/BIRTH/MD5/NAME`, `manifests/…`, `runs/…`, …"""

    def __init__(self) -> None:
        self.files: dict[str, FileCounter] = {}
        self.peak_puts = 0  # most uploads at the same time
        self.peak_gets = 0
        self.storage_connections = 0  # connections that carried at least one PUT or GET
        self._active = {"PUT": 0, "GET": 0}

    def file(self, path: str) -> FileCounter:
        return self.files.setdefault(path, FileCounter())

    def total(self, pattern: str = "artifacts/*") -> FileCounter:
        """The sum over all files whose path matches; `*` crosses slashes."""
        result = FileCounter()
        for path, counter in list(self.files.items()):
            if fnmatchcase(path, pattern):
                result.add(counter)
        return result

    def named(self, name: str) -> FileCounter:
        """The sum over all versions of an artifact's file, by its name in the artifact."""
        result = FileCounter()
        for path, counter in list(self.files.items()):
            if path.startswith("artifacts/") and path.split("/", 3)[-1] == name:
                result.add(counter)
        return result

    def begin(self, method: str) -> None:
        self._active[method] += 1
        if method == "PUT":
            self.peak_puts = max(self.peak_puts, self._active[method])
        else:
            self.peak_gets = max(self.peak_gets, self._active[method])

    def end(self, method: str) -> None:
        self._active[method] -= 1


@dataclass
class Operation:
    """One GraphQL request; the times are of `time.monotonic`, which processes of one machine share."""

    started: float
    name: str = "(unreadable)"
    fields: list[str] = field(default_factory=list)
    variables: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0  # until it was answered, injected delays included
    error: str | None = None
    user_agent: str = ""


@dataclass
class Fault:
    """What goes wrong with the requests it matches; patterns are those of `fnmatch`."""

    operation: str | None = None
    path: str | None = None
    method: str | None = None
    status: int | None = None
    error: str | None = None
    delay: float = 0.0
    reset_after: int | None = None
    corrupt: bool = False
    times: int | None = 1  # None: for ever
    skip: int = 0  # let so many matching requests pass first
    hits: int = 0

    def matches(self, method: str, path: str, operation: str | None) -> bool:
        if self.operation is not None and (operation is None or not fnmatchcase(operation, self.operation)):
            return False
        if self.path is not None and not fnmatchcase(path, self.path):
            return False
        return self.method is None or method == self.method


class Faults:
    """The faults waiting to happen; of several that match, the oldest one strikes."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = Lock()

    def add(self, fault: Fault) -> Fault:
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def take(self, method: str, path: str, operation: str | None = None) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if not fault.matches(method, path, operation):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.hits += 1
                if fault.times is not None and fault.hits >= fault.times:
                    self._faults.remove(fault)
                return fault
        return None


class Bucket:
    """A token bucket that keeps books in time: bytes are due one after the other, at `rate` per second."""

    BURST_SECONDS = 0.02

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._ready = 0.0

    def book(self, size: int) -> float:
        """Take `size` tokens and say how long the caller has to wait for them."""
        time = asyncio.get_running_loop().time()
        self._ready = max(self._ready, time - self.BURST_SECONDS) + size / self._rate
        return max(0.0, self._ready - time)


class Bandwidth:
    """Limits for the bodies of files, for each connection and for all together."""

    def __init__(self) -> None:
        self._per_connection: float | None = None
        self._total: Bucket | None = None

    def limit(self, per_connection: float | None, total: float | None) -> None:
        self._per_connection = per_connection
        self._total = Bucket(total) if total else None

    def buckets(self, connection: dict[str, Any]) -> list[Bucket]:
        """The buckets that a transfer drains; `connection` keeps its own one between requests."""
        found = [self._total] if self._total else []
        if rate := self._per_connection:
            if connection.get("rate") != rate:
                connection.update(rate=rate, bucket=Bucket(rate))
            found.append(connection["bucket"])
        return found


async def pay(buckets: Iterable[Bucket], size: int) -> None:
    """Wait until every bucket allows `size` more bytes."""
    delay = max((bucket.book(size) for bucket in buckets), default=0.0)
    if delay > 0:
        await asyncio.sleep(delay)
