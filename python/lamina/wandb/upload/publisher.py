"""One thread per run that hands versions to it, so that nothing else waits for the network."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import wandb

from lamina import _core
from lamina.errors import ArtifactError
from lamina.repository import upload_times
from lamina.wandb import private
from lamina.wandb.manifest import carried, fill, known_entries
from lamina.wandb.server import Server, check_release
from lamina.wandb.upload import late_aliases
from lamina.wandb.upload.find import find
from lamina.wandb.upload.journal import Record
from lamina.wandb.upload.staging import Place

#: While training ends, a version waits this long for the one before it, to carry its packs over; after that it is
#: handed over with all packs, and the server recognises those that it has.
HURRY_SECONDS = 1.0
#: How long the end of training waits until the run has taken every version.
ACCEPT_SECONDS = 60.0
#: How long the end of a run waits here for its uploads; after that wandb itself goes on waiting for them, but its
#: answers are lost, and the server is asked.
SETTLE_SECONDS = 30.0
#: How often the server is asked, one second apart.
QUESTIONS = 5
_SLICE = 0.25
_PENDING = Exception("the server has not answered yet")


def _nothing(*_: Any) -> None:
    """Nobody wants to know."""


@dataclass
class Version:
    """A version on its way: the draft, and what is written down of it."""

    artifact: Any
    record: Record
    on_committed: Callable[[Any], None] = field(default=_nothing)
    on_trouble: Callable[[Exception], None] = field(default=_nothing)
    claim: _core.Claim | None = None  # a `push` leaves the version alone meanwhile
    outcome: Exception | None = _PENDING  # None: the server has committed it
    judged: bool = False  # it is ``best`` as far as its callback knows, not because a user says so
    settled: bool = False  # and everybody has been told
    begun: float = 0.0  # when it was handed over
    seconds: float | None = None  # from then until the server had it, where we were there to see it

    @property
    def has_packs(self) -> bool:
        """Whether it may carry packs over from the version before it."""
        return any(entry.path.startswith("packs/") for entry in self.record.entries)

    def release(self) -> None:
        """Leave it to `push`, or to nobody: it has arrived."""
        if self.claim is not None:
            self.claim.release()


class Publisher:
    """Hands versions to a run in their order, and keeps their records until the server has them."""

    def __init__(self, run: Any) -> None:
        check_release()
        Place.of_run(run)  # from the working directory of now
        self.run = run
        self.server = Server.of_run(run)
        self._changed = threading.Condition()
        self._waiting: deque[Version] = deque()
        self._logging = False
        self._unsettled: deque[Version] = deque()
        self._elsewhere: list[Version] = []  # sent by other threads
        self._newest: dict[str, str] = {}  # collection → version that we know to be committed
        self._best: dict[str, Mapping[str, Any]] = {}  # collection → metadata of the best version of this run
        self._hurry_at: float | None = None
        self._thread: threading.Thread | None = None
        self._turn = threading.Lock()
        self.accepted = 0
        self._sources: list[weakref.WeakMethod[Callable[[float], object]]] = []
        # Hand over what waits, and note what has arrived: ``fit`` may have ended by an exception.
        private.at_end_of_run(run, self.end, lambda: self.settle(QUESTIONS) and None)

    # Called by others.

    def submit(self, version: Version) -> None:
        """Take a version; returns at once."""
        with self._changed:
            self._waiting.append(version)
            self._hurry_at = None
            self._changed.notify_all()
            self._start()

    def log_now(self, version: Version) -> Any:
        """Hand a version over on this thread, after those that are waiting; errors are raised."""
        self.drain(None)
        try:
            artifact = self._log(version)
        except BaseException:
            version.release()
            raise
        with self._changed:
            self._changed.notify_all()
            self._start()
        return artifact

    def drain(self, limit: float | None) -> bool:
        """Wait until the run has taken (or refused) every version; False if that takes longer."""
        with self._changed:
            self._hurry_at = time.monotonic() + HURRY_SECONDS
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._waiting and not self._logging, limit)

    def settle(self, limit: float | None) -> bool:
        """Wait until the server has answered about every version; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._waiting and not self._logging and not self._unsettled, limit
            )

    def unsettled(self) -> list[Version]:
        """Versions about which the server has not answered."""
        with self._changed:
            under_way = (*self._unsettled, *self._waiting, *self._elsewhere)
            return [version for version in under_way if not version.settled]

    @contextlib.contextmanager
    def sending(self, version: Version) -> Iterator[None]:
        """A version that the caller sends by itself; it has arrived when the block ends without an error."""
        version.begun = time.monotonic()
        with self._changed:
            self._elsewhere.append(version)
        try:
            yield
            version.seconds = time.monotonic() - version.begun
            self.accepted += 1
            self._settled(version, None)
        finally:
            version.release()
            with self._changed:
                self._elsewhere.remove(version)

    def attend(self, finish: Callable[[float], object]) -> None:
        """Before the run ends, call this method with a limit: its object may still have versions to submit."""
        self._sources.append(weakref.WeakMethod(finish))

    def end(self) -> None:
        """The run is about to end: hand over what waits, and learn what has arrived."""
        for source in self._sources:
            finish = source()
            if finish is not None:
                finish(ACCEPT_SECONDS)
        if self.drain(ACCEPT_SECONDS):
            self.settle(SETTLE_SECONDS)
        if self.run.offline and self.accepted:
            root = Place.of_run(self.run).root
            wandb.termlog(f"{self.accepted} checkpoints wait in {root}; also from another machine: lamina push {root}")

    # The thread.

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="lamina-upload", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            self._settle_those_before()
            with self._changed:
                if not self._waiting:
                    if self._unsettled:
                        continue
                    # An idle thread would keep the run in memory.
                    self._thread = None
                    self._changed.notify_all()
                    return
                version = self._waiting.popleft()
                self._logging = True
            try:
                self._log(version)
            except Exception as error:
                version.release()
                version.on_trouble(self._explained(error, version))
            finally:
                with self._changed:
                    self._logging = False
                    self._changed.notify_all()

    def _settle_those_before(self) -> None:
        while self._unsettled:
            version = self._unsettled[0]
            with self._changed:
                while version.outcome is _PENDING:
                    if self._need_not_wait():
                        return
                    self._changed.wait(_SLICE)
            self._settled(version, version.outcome)
            with self._changed:
                self._unsettled.popleft()
                self._changed.notify_all()

    def _need_not_wait(self) -> bool:
        """The run itself sends the versions of a name one after the other."""
        if not self._waiting:
            return False
        in_a_hurry = self._hurry_at is not None and time.monotonic() > self._hurry_at
        return in_a_hurry or not self._waiting[0].has_packs

    def _await(self, version: Version) -> None:
        """On a thread of its own: a wait with a time limit would cancel the upload when the time is over."""
        outcome = None
        try:
            version.artifact.wait()
            version.seconds = time.monotonic() - version.begun
        except Exception as error:
            outcome = error
        with self._changed:
            version.outcome = outcome
            self._changed.notify_all()

    def _settled(self, version: Version, error: Exception | None) -> None:
        record, artifact = version.record, version.artifact
        version.settled = True
        if type(error).__name__ == "HandleAbandonedError":  # the run ended before it could tell
            artifact = self._asked(record)
        elif error is not None:
            artifact = None
        version.release()
        if artifact is None:
            version.on_trouble(self._explained(error or ArtifactError("no answer"), version))
            return
        self._newest[record.what.name] = artifact.version
        try:
            record.remove()
            if version.seconds is not None and record.place is not None:
                for snapshot in record.snapshots:
                    upload_times.note(record.place.root, snapshot, version.seconds)
            version.on_committed(artifact)
        except Exception as failure:
            version.on_trouble(failure)

    def _asked(self, record: Record) -> Any | None:
        for number in range(QUESTIONS):
            if number:
                time.sleep(1)
            if (found := find(self.server, record)) is not None:
                return found
        return None

    def _explained(self, error: Exception, version: Version) -> ArtifactError:
        place = version.record.place
        where = f"; it is kept, and `lamina push {place.root}` sends it" if place is not None else ""
        name = version.record.what.name
        explained = ArtifactError(f"W&B did not take a version of {name}: {str(error) or repr(error)}{where}")
        explained.__cause__ = error
        return explained

    # Handing over.

    def _log(self, version: Version) -> Any:
        with self._turn:
            version.begun = time.monotonic()
            base = self._base(version)
            record = self._without_false_best(version, base)
            assert record.place is not None
            entries = list(record.entries)
            if base is not None:
                entries = carried(entries, known_entries(base))
            fill(version.artifact, entries, record.place.root)
            version.record = record.sent_as(version.artifact.digest, entries)
            version.record.write()
            artifact = self.run.log_artifact(
                version.artifact, aliases=list(record.what.aliases), tags=list(record.what.tags) or None
            )
            self.accepted += 1
            if not self.run.offline:
                with self._changed:
                    self._unsettled.append(version)
                threading.Thread(target=self._await, args=(version,), name="lamina-wait", daemon=True).start()
            return artifact

    def _without_false_best(self, version: Version, base: Any | None) -> Record:
        """A callback that has just begun knows no better version; the series may have one."""
        record, what = version.record, version.record.what
        if not version.judged or "best" not in what.aliases:
            return record
        holders = [self._best.get(what.name), self._metadata_of_best(what.name, base)]
        if any(holder and late_aliases.is_as_good(holder, what.metadata) for holder in holders):
            aliases = tuple(alias for alias in what.aliases if alias != "best")
            return replace(record, what=replace(what, aliases=aliases))
        self._best[what.name] = what.metadata
        return record

    def _metadata_of_best(self, name: str, base: Any | None) -> Mapping[str, Any] | None:
        if self.run.offline:
            return None
        # While a model improves, the newest version is the best one, and no further request is needed.
        newest_is_best = base is not None and "best" in base.aliases
        holder = base if newest_is_best else self.server.committed(name, "best")
        return None if holder is None else dict(holder.metadata)

    def _base(self, version: Version) -> Any | None:
        """The newest committed version; entries of packs that it has need no file."""
        if self.run.offline or not version.has_packs:
            return None
        name = version.record.what.name
        return self.server.committed(name, self._newest.get(name, "latest"))


_making = threading.Lock()


def publisher_of(run: Any) -> Publisher:
    """The publisher of a run; one, so that all its versions keep their order."""
    with _making:
        publisher = run.__dict__.get("_lamina_publisher")
        if publisher is None:
            publisher = run.__dict__["_lamina_publisher"] = Publisher(run)  # lives as long as the run
        return publisher  # type: ignore[no-any-return]
