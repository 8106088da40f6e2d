"""Handles SIGTERM during `fit`: commits all pending saves, then passes the signal on."""

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

#: Seconds from SIGTERM to the end of the process, for the last save and all commits. Spot machines give 30 or more.
BUDGET_SECONDS = 20.0
#: Seconds for printing the last line.
_PRINT_SECONDS = 1.0


class TrainingCallback(Protocol):
    """A callback in `fit`."""

    save_on_preempt: bool
    preempted: bool

    _saver: Saver

    def _before_exit(self, seconds: float) -> None:
        """Called when the saves are committed or out of time; ``seconds`` are left."""


#: Callback → the id of the frame that trains. If an exception ends `fit`, no hook is called, but the frame is gone.
_training: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
_previous: Any = None
_installed = False
_deadline = 0.0  # by `time.monotonic`; 0 before SIGTERM


def register(callback: TrainingCallback) -> None:
    """Training begins. Only the main thread can install the handler."""
    global _previous, _installed
    _training[callback] = _trainer()
    if not _installed and threading.current_thread() is threading.main_thread():
        _previous = signal.signal(signal.SIGTERM, _on_sigterm)
        _installed = True


def unregister(callback: TrainingCallback) -> None:
    """Training has ended; the last callback restores the previous handler."""
    _training.pop(callback, None)
    if not _training and threading.current_thread() is threading.main_thread():
        _restore()


def shut_down(frame: Any = None) -> None:
    """Commit all pending saves within the budget, and pass the signal on, when no callback has a step to save."""
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
    """Commit pending saves until ``deadline`` (of `time.monotonic`), and print the outcome."""
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
        callback.preempted = True  # it saves at the next batch end, then calls `shut_down`
    if due:
        _remind()
    else:  # a second SIGTERM, and no batch has ended since the first
        for callback in list(_training):
            callback.preempted = False
        shut_down(frame)


def _remind() -> None:
    """Send SIGTERM again when the time is over, in case no batch ends until then."""
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
        # None: the handler was not installed from Python, and cannot be restored.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if _previous is None else _previous)
    _installed, _previous = False, None


# A forked worker has nothing to commit, so SIGTERM must kill it. A SIGTERM during the fork would only set a flag that
# Python then clears, and the worker would never end. So the signal is blocked during the fork.

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
