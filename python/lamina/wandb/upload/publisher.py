"""One thread per run that logs its versions, so that no other thread waits for the network."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import wandb

from lamina import _core
from lamina.errors import ArtifactError, LaminaError
from lamina.repository import upload_times
from lamina.wandb import private
from lamina.wandb.manifest import carried, fill, known_entries
from lamina.wandb.server import Server, check_release
from lamina.wandb.upload import alias_order
from lamina.wandb.upload.find import find
from lamina.wandb.upload.journal import Record, records
from lamina.wandb.upload.run_state import state_of
from lamina.wandb.upload.staging import Staging

#: At the end of training a version waits this long for the previous one to be committed, so that it need not send the
#: packs that both have. After that it is logged with all packs, and the server skips those that it has.
HURRY_SECONDS = 1.0
#: How long the end of training waits until every version is logged to the run.
ACCEPT_SECONDS = 60.0
#: How long the end of a run waits for its uploads. After that wandb itself keeps waiting for them, but its answers do
#: not reach us, and we ask the server.
SETTLE_SECONDS = 30.0
#: How often the server is asked, one second apart.
QUESTIONS = 5
_SLICE = 0.25
_PENDING = Exception("the server has not answered yet")


def _nothing(*_: Any) -> None:
    """The default callback: do nothing."""


@dataclass
class Upload:
    """One version on its way to W&B: the draft artifact, its record in the journal, and how far it is."""

    artifact: Any
    record: Record
    on_committed: Callable[[Any], None] = field(default=_nothing)
    on_trouble: Callable[[Exception], None] = field(default=_nothing)
    claim: _core.Claim | None = None  # while it is held, `push` skips this version
    outcome: Exception | None = _PENDING  # None: the server has committed it
    judged: bool = False  # its callback found it ``best``; False also if the user named it so
    settled: bool = False  # its outcome is known and was reported
    begun: float = 0.0  # when it was logged
    seconds: float | None = None  # from then until the server committed it; None if we did not see that

    @property
    def has_packs(self) -> bool:
        """Whether it may share packs with the previous version."""
        return any(entry.path.startswith("packs/") for entry in self.record.entries)

    def release(self) -> None:
        """Give up the claim: `push` may send the version now, if it has not arrived."""
        if self.claim is not None:
            self.claim.release()


class Publisher:
    """Logs versions to a run in their order, and keeps their records until the server has them."""

    def __init__(self, run: Any) -> None:
        check_release()
        self.run = run
        self.server = Server.of_run(run)
        self._changed = threading.Condition()
        self._waiting: deque[Upload] = deque()
        self._logging = False
        self._unsettled: deque[Upload] = deque()
        self._elsewhere: list[Upload] = []  # sent by other threads
        self._newest: dict[str, str] = {}  # collection → newest version known to be committed
        self._best: dict[str, Mapping[str, Any]] = {}  # collection → metadata of the best version of this run
        self._beside: dict[str, list[Mapping[str, Any]]] = {}  # the same of other offline runs
        self._hurry_at: float | None = None
        self._thread: threading.Thread | None = None
        self._turn = threading.Lock()
        self.accepted = 0
        self._sources: list[weakref.WeakMethod[Callable[[float], object]]] = []
        # Log what is pending and note what has arrived: `fit` may have ended with an exception.
        private.at_end_of_run(run, self.end, lambda: self.settle(QUESTIONS) and None)

    # Called from other threads.

    def submit(self, upload: Upload) -> None:
        """Queue a version; returns at once."""
        with self._changed:
            self._waiting.append(upload)
            self._hurry_at = None
            self._changed.notify_all()
            self._start()

    def log_now(self, upload: Upload) -> Any:
        """Log a version on this thread, after the queued ones; errors are raised."""
        self.drain(None)
        try:
            artifact = self._log(upload)
        except BaseException:
            upload.release()
            raise
        with self._changed:
            self._changed.notify_all()
            self._start()
        return artifact

    def drain(self, limit: float | None) -> bool:
        """Wait until every version is logged or has failed; False after ``limit`` seconds."""
        with self._changed:
            self._hurry_at = time.monotonic() + HURRY_SECONDS
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._waiting and not self._logging, limit)

    def settle(self, limit: float | None) -> bool:
        """Wait until the server has answered for every version; False after ``limit`` seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._waiting and not self._logging and not self._unsettled, limit
            )

    def unsettled(self) -> list[Upload]:
        """The uploads whose outcome is not known yet."""
        with self._changed:
            under_way = (*self._unsettled, *self._waiting, *self._elsewhere)
            return [upload for upload in under_way if not upload.settled]

    @contextlib.contextmanager
    def sending(self, upload: Upload) -> Iterator[None]:
        """Register a version that the caller sends itself; it has arrived when the block ends without an error."""
        upload.begun = time.monotonic()
        with self._changed:
            self._elsewhere.append(upload)
        try:
            yield
            upload.seconds = time.monotonic() - upload.begun
            self.accepted += 1
            self._settled(upload, None)
        finally:
            upload.release()
            with self._changed:
                self._elsewhere.remove(upload)

    def before_end(self, finish: Callable[[float], object]) -> None:
        """Call ``finish`` with a time limit before the run ends: its object may still have versions to submit."""
        self._sources.append(weakref.WeakMethod(finish))

    def end(self) -> None:
        """Before the run ends: log what is pending, and find out what has arrived."""
        for source in self._sources:
            finish = source()
            if finish is not None:
                finish(ACCEPT_SECONDS)
        if self.drain(ACCEPT_SECONDS):
            self.settle(SETTLE_SECONDS)
        if self.run.offline and self.accepted:
            root = state_of(self.run).directory
            wandb.termlog(f"{self.accepted} checkpoints are stored in {root}; to upload them: lamina push {root}")

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
                    # End the thread: an idle one would keep the run in memory.
                    self._thread = None
                    self._changed.notify_all()
                    return
                upload = self._waiting.popleft()
                self._logging = True
            try:
                self._log(upload)
            except Exception as error:
                upload.release()
                upload.on_trouble(self._explained(error, upload))
            finally:
                with self._changed:
                    self._logging = False
                    self._changed.notify_all()

    def _settle_those_before(self) -> None:
        while self._unsettled:
            upload = self._unsettled[0]
            with self._changed:
                while upload.outcome is _PENDING:
                    if self._need_not_wait():
                        return
                    self._changed.wait(_SLICE)
            self._settled(upload, upload.outcome)
            with self._changed:
                self._unsettled.popleft()
                self._changed.notify_all()

    def _need_not_wait(self) -> bool:
        """The run itself sends the versions of a name one after the other."""
        if not self._waiting:
            return False
        in_a_hurry = self._hurry_at is not None and time.monotonic() > self._hurry_at
        return in_a_hurry or not self._waiting[0].has_packs

    def _await(self, upload: Upload) -> None:
        """Wait for one upload, on its own thread: wandb's wait with a time limit cancels the upload at the limit."""
        outcome = None
        try:
            upload.artifact.wait()
            upload.seconds = time.monotonic() - upload.begun
        except Exception as error:
            outcome = error
        with self._changed:
            upload.outcome = outcome
            self._changed.notify_all()

    def _settled(self, upload: Upload, error: Exception | None) -> None:
        record, artifact = upload.record, upload.artifact
        upload.settled = True
        if type(error).__name__ == "HandleAbandonedError":  # the run ended before the answer came
            artifact = self._asked(record)
        elif error is not None:
            artifact = None
        upload.release()
        if artifact is None:
            upload.on_trouble(self._explained(error or ArtifactError("the server did not answer"), upload))
            return
        self._newest[record.what.name] = artifact.version
        try:
            record.remove()
            if upload.seconds is not None and record.staging is not None:
                for snapshot in record.snapshots:
                    upload_times.note(record.staging.root, snapshot, upload.seconds)
            upload.on_committed(artifact)
        except Exception as failure:
            upload.on_trouble(failure)

    def _asked(self, record: Record) -> Any | None:
        for number in range(QUESTIONS):
            if number:
                time.sleep(1)
            if (found := find(self.server, record)) is not None:
                return found
        return None

    def _explained(self, error: Exception, upload: Upload) -> ArtifactError:
        staging = upload.record.staging
        retry = f"; retry with `lamina push {staging.root}`" if staging is not None else ""
        name = upload.record.what.name
        explained = ArtifactError(f"upload of a version of {name} failed: {str(error) or repr(error)}{retry}")
        explained.__cause__ = error
        return explained

    # Logging.

    def _log(self, upload: Upload) -> Any:
        with self._turn:
            upload.begun = time.monotonic()
            base = self._base(upload)
            record = self._without_false_best(upload, base)
            assert record.staging is not None
            entries = list(record.entries)
            if base is not None:
                entries = carried(entries, known_entries(base))
            fill(upload.artifact, entries, record.staging.root)
            upload.record = record.sent_as(upload.artifact.digest, entries)
            upload.record.write()
            artifact = self.run.log_artifact(
                upload.artifact, aliases=list(record.what.aliases), tags=list(record.what.tags) or None
            )
            self.accepted += 1
            if not self.run.offline:
                with self._changed:
                    self._unsettled.append(upload)
                threading.Thread(target=self._await, args=(upload,), name="lamina-wait", daemon=True).start()
            return artifact

    def _without_false_best(self, upload: Upload, base: Any | None) -> Record:
        """The record without ``best`` if an earlier version is better: a new callback does not know earlier ones."""
        record, what = upload.record, upload.record.what
        if not upload.judged or "best" not in what.aliases:
            return record
        holders = [self._best.get(what.name), *self._best_versions(what.name, base)]
        if any(holder and alias_order.is_as_good(holder, what.metadata) for holder in holders):
            aliases = tuple(alias for alias in what.aliases if alias != "best")
            return replace(record, what=replace(what, aliases=aliases))
        self._best[what.name] = what.metadata
        return record

    def _best_versions(self, name: str, base: Any | None) -> list[Mapping[str, Any]]:
        """Metadata of what else is called ``best``."""
        if self.run.offline:
            return self._best_beside(name)
        # While a model improves, the newest version is also the best: no second request is needed.
        newest_is_best = base is not None and "best" in base.aliases
        holder = base if newest_is_best else self.server.committed(name, "best")
        return [] if holder is None else [dict(holder.metadata)]

    def _best_beside(self, name: str) -> list[Mapping[str, Any]]:
        """Of the offline runs in the same folder, perhaps of other processes: there is nobody else to ask."""
        if name not in self._beside:
            root = Staging.of_run(self.run).root
            others = sorted(folder for folder in root.parent.glob("offline-run-*") if folder != root)
            found = [record for folder in others for record in _records_of(folder)]
            self._beside[name] = [
                record.what.metadata
                for record in found
                if record.run["project"] == self.run.project
                and record.what.name == name
                and "best" in record.what.aliases
            ]
        return self._beside[name]

    def _base(self, upload: Upload) -> Any | None:
        """The newest committed version. Packs that it has are not sent again."""
        if self.run.offline or not upload.has_packs:
            return None
        name = upload.record.what.name
        return self.server.committed(name, self._newest.get(name, "latest"))


def _records_of(folder: Path) -> list[Record]:
    """What a directory of another run holds; nothing, where that is not what lamina writes."""
    with contextlib.suppress(LaminaError, OSError):
        return list(records(Staging(folder, folder / "lamina")))
    return []


_creating = threading.Lock()


def publisher_of(run: Any) -> Publisher:
    """The publisher of a run. There is one per run, so that its versions keep their order."""
    state = state_of(run)
    with _creating:
        if state.publisher is None:
            state.publisher = Publisher(run)
        return state.publisher  # type: ignore[no-any-return]
