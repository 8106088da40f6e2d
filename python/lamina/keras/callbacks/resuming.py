"""Continuing from a snapshot inside `fit`."""

from __future__ import annotations

import warnings
from typing import Any

from lamina.errors import InvalidInputError, NotFoundError
from lamina.keras import private, resumed
from lamina.keras.capture.training_state import SavedState
from lamina.keras.messages import tell
from lamina.keras.restoring.restore import restore
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.sources import resolve

_HOW = "give it an Input, call it on data, or build it before fit"


def latest(repository: Repository, series: str, ref: str = "latest") -> Snapshot | None:
    """The newest snapshot of a series, or another one of it; None if there is none."""
    try:
        return repository.snapshot(ref, series=series)
    except NotFoundError:
        return None


def warn_if_unbuilt(model: Any) -> None:
    """Tell it in the first run; the one that has something to resume would fail."""
    if not getattr(model, "built", False):
        warnings.warn(f"a later run can only resume this one if the model has its variables: {_HOW}", stacklevel=2)


def is_older(model: Any, snapshot: Snapshot) -> bool:
    """Whether another callback of this `fit` has already put a newer state into the model."""
    begins = getattr(model, "_initial_epoch", None)
    if begins is None:
        return False
    optimizer = getattr(model, "optimizer", None)
    steps = 0 if optimizer is None else int(optimizer.iterations)
    return (begins, steps) > (snapshot.next_epoch or 0, snapshot.step or 0)


def leave(snapshot: Snapshot) -> SavedState:
    """The state of a snapshot whose weights are not wanted."""
    tell(
        f"\nSnapshot {snapshot.id[:12]} of {snapshot.series!r} is older than what the model has resumed from: "
        "only its best value is taken over"
    )
    return SavedState(resolve(snapshot))


def resume(model: Any, snapshot: Snapshot) -> SavedState:
    """Put a snapshot into a model that is about to be trained, and let `fit` begin where it ended."""
    if not getattr(model, "built", False):
        raise InvalidInputError(f"resume=True needs a model with variables: {_HOW}")
    opened = resolve(snapshot)
    restore(opened, model)
    private.begin_with(model, snapshot.next_epoch)
    resumed.note_step(model, snapshot.step)
    what = "the end of epoch" if snapshot.batch is None else f"batch {snapshot.batch + 1} of epoch"
    tell(
        f"\nResuming from {what} {(snapshot.epoch or 0) + 1} (snapshot {snapshot.id[:12]}): "
        f"training begins with epoch {(snapshot.next_epoch or 0) + 1}"
    )
    return SavedState(opened)
