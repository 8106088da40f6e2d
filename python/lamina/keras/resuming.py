"""Continuing from a snapshot inside `fit`."""

from __future__ import annotations

from typing import Any

from keras.src.utils import io_utils

from lamina.errors import InvalidInputError, NotFoundError
from lamina.keras.restoring import restore
from lamina.keras.training_state import SavedState
from lamina.reference import resolve
from lamina.repository import Repository
from lamina.snapshot import Snapshot


def latest(repository: Repository, series: str) -> Snapshot | None:
    """The newest snapshot of a series."""
    try:
        return repository.snapshot("latest", series=series)
    except NotFoundError:
        return None


def resume(model: Any, snapshot: Snapshot) -> SavedState:
    """Put a snapshot into a model that is about to be trained, and let `fit` begin where it ended."""
    if not getattr(model, "built", False):
        raise InvalidInputError("resume=True needs a model with variables: build it before fit")
    opened = resolve(snapshot)
    restore(opened, model)
    model._initial_epoch = snapshot.next_epoch
    what = "the end of epoch" if snapshot.batch is None else f"batch {snapshot.batch + 1} of epoch"
    io_utils.print_msg(
        f"\nResuming from {what} {(snapshot.epoch or 0) + 1} (snapshot {snapshot.id[:12]}): "
        f"training begins with epoch {(snapshot.next_epoch or 0) + 1}"
    )
    return SavedState(opened)
