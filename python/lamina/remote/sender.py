"""The thread that sends what training commits to a bucket. Training neither waits for it nor ends because of it."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable

from lamina.remote import journal
from lamina.remote.address import Address
from lamina.remote.bucket import Bucket
from lamina.remote.push import send_waiting
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.units import count

#: What an interpreter that ends waits for at most; the rest is left to `lamina push`.
EXIT_SECONDS = 20.0


class Sender:
    """Sends to one bucket, in the order of the commits. What waits is in the journal of the repository.

    Args:
        caller: what its warning calls whoever saves.
        begin: called first on the thread.
    """

    def __init__(self, caller: str, address: Address, begin: Callable[[], None]) -> None:
        self.address = address
        self._caller = caller
        self._begin = begin
        self._warned = False
        self._repository: Repository | None = None
        self._reset()
        _senders.add(self)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._asked = False
        self._bucket: Bucket | None = None

    def submit(self, repository: Repository, snapshot: Snapshot) -> None:
        """Let a committed snapshot go to the bucket; from now on a prune leaves it alone until it is there."""
        self._repository = repository
        try:
            journal.note(repository, snapshot, self.address)
        except Exception as error:
            self._warn(error)
            return
        with self._changed:
            self._asked = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="lamina-send", daemon=True)
                self._thread.start()

    def drain(self, limit: float | None) -> bool:
        """Wait until all is sent, or could not be sent; False if that takes longer than ``limit`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, limit)

    def left(self) -> str | None:
        """What the user is told of snapshots that the bucket does not have; None if it has all."""
        home = self._repository
        if home is None or not (waiting := journal.waiting(home, self.address)):
            return None
        return (
            f"{count(len(waiting), 'snapshot')} did not reach {self.address.url}; nothing is lost, and this sends the "
            f"rest: lamina push {home.path.absolute()}"
        )

    def _work(self) -> None:
        self._begin()
        while self._is_asked():
            try:
                self._send()
            except Exception as error:
                self._bucket = None  # the next attempt looks anew at what is there
                self._warn(error)

    def _is_asked(self) -> bool:
        """Take what was asked; without anything, the thread ends."""
        with self._changed:
            asked, self._asked = self._asked, False
            if not asked:
                self._thread = None
                self._changed.notify_all()
            return asked

    def _send(self) -> None:
        assert self._repository is not None
        if self._bucket is None:
            self._bucket = Bucket(self.address, make=True)
        send_waiting(self._repository, self._bucket)

    def _warn(self, error: Exception) -> None:
        """Once: each later commit tries again."""
        if self._warned:
            return
        self._warned = True
        home = self._repository.path.absolute() if self._repository is not None else "REPOSITORY"
        with contextlib.suppress(Warning):  # also where warnings are errors, training goes on
            warnings.warn(
                f"{self._caller}: a snapshot did not reach {self.address.url}: {error}. Training goes on, each save "
                f"tries again, and what is left is sent by: lamina push {home}",
                stacklevel=2,
            )


_senders: weakref.WeakSet[Sender] = weakref.WeakSet()


@atexit.register
def _finish() -> None:
    """`fit` may have ended by an exception, with snapshots on their way."""
    for sender in list(_senders):
        if sender.drain(0):
            continue
        sender.drain(EXIT_SECONDS)
        if (left := sender.left()) is not None:
            print(f"lamina: {left}", file=sys.stderr, flush=True)


def _forget() -> None:
    """A forked child has not the thread: its parent sends."""
    for sender in list(_senders):
        sender._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
