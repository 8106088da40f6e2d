"""Continuing from a snapshot inside `fit`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import keras

from lamina.errors import NotFoundError
from lamina.keras import private, resume_state
from lamina.keras.built import check_built, why_unbuilt
from lamina.keras.capture.training_state import SavedState
from lamina.keras.messages import print_message
from lamina.keras.restoring.restore import restore
from lamina.keras.steps import steps_done
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.sources import resolve

_OTHER = (
    "resume=True continues the same model: for a changed one name another series or repository, and begin with "
    "lamina.restore(SOURCE, model, skip_mismatch=True) before fit"
)


def latest(repository: Repository, series: str, ref: str = "latest") -> Snapshot | None:
    """The newest snapshot of a series, or another one of it; None if there is none."""
    try:
        return repository.snapshot(ref, series=series)
    except NotFoundError:
        return None


def warn_if_unbuilt(model: Any) -> None:
    """Tell it in the first run; the one that has something to resume would fail."""
    if why := why_unbuilt(model):
        warnings.warn(f"a later run can only resume this one if the model is built before fit: {why}", stacklevel=2)


def warn_of_swapped_weights(checkpoint: Any, track: Sequence[Any]) -> None:
    """Averaged weights that stand in the model when it is saved must be swapped back before training goes on."""
    swaps = [
        one for one in _before(checkpoint) if isinstance(one, keras.callbacks.SwapEMAWeights) and one.swap_on_epoch
    ]
    if any(all(swap is not one for one in track) for swap in swaps):
        warnings.warn(
            f"SwapEMAWeights stands before {type(checkpoint).__name__}, so the snapshots hold averaged weights, and a "
            "resumed run would go on from these: with track=[…] of this SwapEMAWeights it goes on from the right ones",
            stacklevel=3,
        )


def _before(callback: Any) -> list[Any]:
    """The callbacks that stand before this one in the list that calls it; Keras tells it to no callback."""
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList) and callback in caller.callbacks:
            return list(caller.callbacks[: caller.callbacks.index(callback)])
        frame = frame.f_back
    return []


def is_older(model: Any, snapshot: Snapshot) -> bool:
    """Whether another callback of this `fit` has already put a newer state into the model."""
    begins = getattr(model, "_initial_epoch", None)
    if begins is None:
        return False
    return (begins, steps_done(model) or 0) > (snapshot.next_epoch or 0, snapshot.step or 0)


def keep_newer_state(snapshot: Snapshot) -> SavedState:
    """The state of a snapshot whose weights are not wanted."""
    print_message(
        f"\nSnapshot {snapshot.id[:12]} of {snapshot.series!r} is older than what the model has resumed from: "
        "only its best value is taken over"
    )
    return SavedState(resolve(snapshot))


def resume(model: Any, snapshot: Snapshot, epochs: int | None = None) -> SavedState:
    """Put a snapshot into a model that is about to be trained, and let `fit` begin where it ended."""
    check_built(model, "fit with resume=True")
    opened = resolve(snapshot)
    state = SavedState(opened)
    restore(opened, model, advice=_OTHER)
    private.set_initial_epoch(model, snapshot.next_epoch)
    resume_state.note_step(model, snapshot.step)
    what = "the end of epoch" if snapshot.batch is None else f"batch {snapshot.batch + 1} of epoch"
    print_message(
        f"\nResuming from {what} {(snapshot.epoch or 0) + 1} (snapshot {snapshot.id[:12]}): "
        + _next(snapshot.next_epoch or 0, epochs)
    )
    return state


def _next(begins: int, epochs: int | None) -> str:
    if epochs is not None and begins >= epochs:
        return f"already at epoch {begins} of {epochs}, nothing to train"
    return f"training begins with epoch {begins + 1}"
