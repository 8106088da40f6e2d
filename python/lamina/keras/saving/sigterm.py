"""SIGTERM while models train: what is captured is committed, then the signal goes where it would have gone."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Any, Protocol

from lamina.keras.saving.output import print_with_timeout
from lamina.keras.saving.saver import Saver

#: Seconds from SIGTERM to the end, for the step that is saved and for commits; spot machines give 30 and more.
BUDGET_SECONDS = 20.0
#: For the last line that is printed.
_PRINT_SECONDS = 1.0


class TrainingCallback(Protocol):
    """A callback in `fit`."""

    save_on_preempt: bool
    preempted: bool

    _saver: Saver

    def _before_exit(self, seconds: float) -> None:
        """Called when the saves are committed or the time for them is over; at most this time is left."""


#: Callback → the id of the frame that trains. An exception that ends `fit` calls no hook; the frame is gone then.
_training: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
_previous: Any = None
_installed = False
_deadline = 0.0  # by `time.monotonic`; 0 while no SIGTERM has come


def register(callback: TrainingCallback) -> None:
    """Training begins; outside the main thread Python takes no handlers."""
    global _previous, _installed
    _training[callback] = _trainer()
    if not _installed and threading.current_thread() is threading.main_thread():
        _previous = signal.signal(signal.SIGTERM, _on_sigterm)
        _installed = True


def unregister(callback: TrainingCallback) -> None:
    """Training has ended; the last one restores the handler that was there before."""
    _training.pop(callback, None)
    if not _training and threading.current_thread() is threading.main_thread():
        _restore()


def shut_down(frame: Any = None) -> None:
    """Commit what is captured within the budget, and pass the signal on; once nobody has a step to save."""
    global _deadline
    if any(callback.preempted for callback in _training):
        return
    deadline = _deadline or time.monotonic() + BUDGET_SECONDS
    for callback in list(_training):
        _commit(callback, deadline)
    previous, _deadline = _previous, 0.0
    if callable(previous):
        previous(signal.SIGTERM, frame)
    elif previous == signal.SIG_DFL:
        _training.clear()
        _restore()
        os.kill(os.getpid(), signal.SIGTERM)


def _commit(callback: TrainingCallback, deadline: float) -> None:
    """Commit what is captured until then, by `time.monotonic`, and print the outcome."""
    done = callback._saver.wait(max(deadline - time.monotonic(), 0.0))
    callback._before_exit(max(deadline - time.monotonic(), 0.0))
    outcome = "all pending saves were written" if done else "not all pending saves were written in time"
    if (failure := callback._saver.failure) is not None:
        outcome = f"a save failed: {failure!r}"
    print_with_timeout(f"\n{type(callback).__name__}: received SIGTERM; {outcome}", _PRINT_SECONDS)


def _on_sigterm(signum: int, frame: Any) -> None:
    global _deadline
    _deadline = _deadline or time.monotonic() + BUDGET_SECONDS
    stack = set(_frames(frame))
    alive = [callback for callback, trainer in _training.items() if trainer in stack]
    due = [callback for callback in alive if callback.save_on_preempt and not callback.preempted]
    for callback in due:
        callback.preempted = True  # it saves at the next batch end and calls `shut_down`
    if due:
        _remind()
    else:  # or they have been asked before, and no batch has ended since
        for callback in list(_training):
            callback.preempted = False
        shut_down(frame)


def _remind() -> None:
    """Whoever has not saved a step when the time is over, because none ends, ends without it."""
    deadline = _deadline

    def again() -> None:
        if _deadline == deadline and any(callback.preempted for callback in list(_training)):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    timer = threading.Timer(max(deadline - time.monotonic(), 0.0), again)
    timer.daemon = True
    timer.start()


def _trainer() -> int:
    """The id of the frame that called ``on_train_begin``."""
    frame = sys._getframe(2)
    while frame.f_code.co_name == "on_train_begin" and frame.f_back is not None:
        frame = frame.f_back
    return id(frame)


def _frames(frame: FrameType | None) -> Iterator[int]:
    while frame is not None:
        yield id(frame)
        frame = frame.f_back


def _restore() -> None:
    global _previous, _installed
    if _installed and signal.getsignal(signal.SIGTERM) is _on_sigterm:
        # None stands for a handler that was not installed from Python; it cannot be put back.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if _previous is None else _previous)
    _installed, _previous = False, None


# A forked worker has nothing to commit, and must die of SIGTERM as without us: one that comes before the child is ready
# would set a flag that Python then clears, and whoever waits for the worker's end would wait for ever.

_masks = threading.local()


def _hold_back() -> None:
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}) if _installed else None


def _let_through() -> None:
    before, _masks.before = _masks.before, None
    if before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _forget() -> None:
    _training.clear()
    _restore()
    _let_through()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_forget)
