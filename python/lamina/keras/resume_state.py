"""What other callbacks need to know about a resumed `fit`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

from lamina.keras.steps import steps_done

_steps: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_replaying: ContextVar[bool] = ContextVar("replaying", default=False)


def note_step(model: Any, step: int | None) -> None:
    """Note that a model was restored to its state after ``step`` training steps."""
    if step is not None:
        _steps[model] = step


def step_of(model: Any) -> int | None:
    """The training steps of a model that was restored and not trained since; None for any other."""
    step = _steps.get(model)
    return step if step is not None and steps_done(model) == step else None


@contextmanager
def replaying() -> Iterator[None]:
    """While an ``on_epoch_end`` is called again for an epoch that was already logged."""
    token = _replaying.set(True)
    try:
        yield
    finally:
        _replaying.reset(token)


def is_replaying() -> bool:
    """Whether callbacks must not log now."""
    return _replaying.get()
