"""What other callbacks have to know of a `fit` that resumes."""

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
    """A model has been put back to where it had taken ``step`` training steps."""
    if step is not None:
        _steps[model] = step


def step_of(model: Any) -> int | None:
    """The training steps of a model that has resumed and not been trained since; None for any other."""
    step = _steps.get(model)
    return step if step is not None and steps_done(model) == step else None


@contextmanager
def replaying() -> Iterator[None]:
    """Meanwhile callbacks hear once more of the end of an epoch whose rows and tables were logged when it ended."""
    token = _replaying.set(True)
    try:
        yield
    finally:
        _replaying.reset(token)


def is_replaying() -> bool:
    """Whether a callback must write nothing now."""
    return _replaying.get()
