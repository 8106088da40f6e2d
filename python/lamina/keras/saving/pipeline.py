"""Commits saves one after the other, on a thread, while training continues."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from lamina.keras.priority import lower_priority
from lamina.keras.saving.job import SaveJob

#: Small saves may queue up to this total size; a larger one waits until the save before it is committed.
SMALL_BYTES = 128 << 20
#: A limit for tiny models that are saved at each step.
MAX_JOBS = 64


class Pipeline:
    """Runs jobs in order on one thread; the interpreter ends only after all of them.

    With ``replace``, queued jobs are discarded to make room for a new one, except the best ones.
    """

    def __init__(self, *, replace: bool = False) -> None:
        self.replace = replace
        self.replaced = 0  # jobs discarded so far
        self._reset()
        _pipelines.add(self)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._queued: deque[SaveJob] = deque()
        self._running: SaveJob | None = None
        self._runner: int | None = None
        self._failure: BaseException | None = None
        self._executor: ThreadPoolExecutor | None = None

    @property
    def busy(self) -> bool:
        """Whether a save is pending."""
        return bool(self._queued) or self._running is not None

    @property
    def runs_here(self) -> bool:
        """Whether this thread is committing a save."""
        return self._runner == threading.get_ident()

    @property
    def failure(self) -> BaseException | None:
        """The first failure that was not taken yet."""
        return self._failure

    def admit(self, nbytes: int) -> None:
        """Wait until a save of ``nbytes`` may be captured; with ``replace``, discard queued jobs instead."""
        with self._changed:
            while not self._fits(nbytes):
                if not (self.replace and self._discard_one()):
                    self._changed.wait()

    def submit(self, job: SaveJob) -> None:
        with self._changed:
            self._queued.append(job)
        try:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, thread_name_prefix="lamina-save", initializer=lower_priority)
            self._executor.submit(self._run_next)
        except RuntimeError:  # the interpreter is shutting down and starts no more threads
            self._run_next()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every save is committed or has failed; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.busy, timeout)

    def take_failure(self) -> BaseException | None:
        """The first failure since the last call."""
        with self._changed:
            failure, self._failure = self._failure, None
        return failure

    def close(self) -> None:
        """End the thread after its last job; a later save starts another."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)

    def _fits(self, nbytes: int) -> bool:
        held = [*self._queued, *([self._running] if self._running is not None else [])]
        if not held:
            return True
        room = max(SMALL_BYTES, 2 * nbytes if self.replace else 0)
        return len(held) < MAX_JOBS and sum(job.nbytes for job in held) + nbytes <= room

    def _discard_one(self) -> bool:
        for job in self._queued:
            if not job.best:
                self._queued.remove(job)
                self.replaced += 1
                job.discard()
                return True
        return False

    def _run_next(self) -> None:
        with self._changed:
            if not self._queued:  # it was discarded
                return
            job = self._running = self._queued.popleft()
            self._runner = threading.get_ident()
        failure: BaseException | None = None
        try:
            job.run()
        except BaseException as error:
            failure = error
        finally:
            del job
            with self._changed:
                self._running = self._runner = None
                self._failure = self._failure or failure
                self._changed.notify_all()


_pipelines: weakref.WeakSet[Pipeline] = weakref.WeakSet()


@atexit.register  # runs after the thread has ended
def _tell() -> None:
    """Print failures that no hook can raise any more."""
    for pipeline in list(_pipelines):
        failure = pipeline.take_failure()
        if failure is not None:
            print(f"lamina: a save failed after training had ended: {failure!r}", file=sys.stderr, flush=True)


def _forget() -> None:
    """A forked child has no such thread; the parent commits the saves."""
    for pipeline in list(_pipelines):
        pipeline._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
