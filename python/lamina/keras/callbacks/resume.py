"""Resumes a training from a snapshot, inside `fit`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from lamina.errors import InvalidInputError, NotFoundError
from lamina.keras import private, resume_state
from lamina.keras.built import check_built, why_unbuilt
from lamina.keras.capture.tracked import Tracked
from lamina.keras.capture.training_state import SavedState
from lamina.keras.messages import print_message
from lamina.keras.restoring.restore import restore
from lamina.keras.saving.series import old_default_series
from lamina.keras.steps import steps_done
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.sources import resolve

_OTHER = (
    "resume=True continues training the same model. For a changed model, pass another series or repository and call "
    "lamina.restore(SOURCE, model, skip_mismatch=True) before fit"
)


def latest(repository: Repository, series: str, ref: str = "latest") -> Snapshot | None:
    """The newest snapshot of a series, or another one of it; None if there is none."""
    try:
        return repository.snapshot(ref, series=series)
    except NotFoundError:
        return None


def _latest_of_old_series(repository: Repository, template: str, series: str) -> Snapshot | None:
    """The newest snapshot of a series that an earlier lamina named after the base name of ``template``."""
    name = old_default_series(template)
    if name == series or (found := latest(repository, name)) is None:
        return None
    saved = found.training.get("checkpoint")
    if isinstance(saved, dict) and saved.get("template"):  # the series of another file
        return None
    return found


def warn_if_unbuilt(model: Any) -> None:
    """Warn in the first run, because the resumed one would fail."""
    if why := why_unbuilt(model):
        warnings.warn(f"build the model before fit, or a later run cannot resume this one: {why}", stacklevel=2)


def warn_of_swapped_weights(checkpoint: Any, track: Sequence[Any]) -> None:
    """Warn of averaged weights that are in the model when it is saved, and would be trained on after a resume."""
    swaps = [
        one for one in _before(checkpoint) if isinstance(one, keras.callbacks.SwapEMAWeights) and one.swap_on_epoch
    ]
    if any(all(swap is not one for one in track) for swap in swaps):
        warnings.warn(
            f"SwapEMAWeights comes before {type(checkpoint).__name__} in callbacks=, so snapshots hold averaged "
            "weights, and a resumed run would train on from them. Pass track=[the SwapEMAWeights callback] to resume "
            "from the trained weights",
            stacklevel=3,
        )


def _before(callback: Any) -> list[Any]:
    """The callbacks before this one in ``callbacks=``; Keras has no API for it, so the list is found on the stack."""
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList) and callback in caller.callbacks:
            return list(caller.callbacks[: caller.callbacks.index(callback)])
        frame = frame.f_back
    return []


class Resumption:
    """Resumes a training from a snapshot: the model, the first epoch of `fit`, and the tracked callbacks."""

    def __init__(self, caller: str, track: Tracked) -> None:
        self.done = False
        self.old_series: str | None = None  # the old name of the series that is continued
        self.callbacks_after: Sequence[Any] = ()  # those of `track` that Keras calls after the checkpoint callback
        self._caller = caller
        self._track = track
        self._continues = False  # `fit` must begin with the epoch after the snapshot
        self._state: SavedState | None = None  # not restored into all tracked callbacks yet

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"callbacks_after": (), "_state": None}

    def note_params(self, params: Any) -> None:
        """Keras sets ``params`` on one callback after the other: those without it are called after this one."""
        self.callbacks_after = [callback for callback in self._track if callback.params is not params]

    def begin(self, model: Any) -> None:
        """Begin a `fit` of ``model``; warn of tracked callbacks that are not in it."""
        self._continues = False
        outside = [callback for callback in self._track if callback._model is not model]
        self.callbacks_after = [callback for callback in self.callbacks_after if callback not in outside]
        if outside:
            warnings.warn(
                f"`track` lists {', '.join(type(callback).__name__ for callback in outside)}, which was not passed to "
                "fit(callbacks=), so its state never changes: pass it there too",
                stacklevel=3,
            )

    def find(self, repository: Repository, series: str, template: str | None) -> Snapshot | None:
        """The newest snapshot of the series or, with a template, of the series with its old name."""
        found = latest(repository, series)
        if found is None and template is not None:
            found = _latest_of_old_series(repository, template, series)
            self.old_series = None if found is None else found.series
        return found

    def restore(self, model: Any, snapshot: Snapshot, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """Restore a snapshot, unless the model has a newer state; return the checkpoint callback's own saved fields."""
        continues = not is_older(model, snapshot)
        epochs = (params or {}).get("epochs")
        state = resume(model, snapshot, epochs) if continues else keep_newer_state(snapshot)
        self._continues = continues
        self._state = state if self._track and continues else None
        return state.checkpoint()

    def restore_callbacks_before(self) -> None:
        """Restore the tracked callbacks before the checkpoint callback; their ``on_train_begin`` has run."""
        if self._state is not None:
            before = [callback for callback in self._track if callback not in self.callbacks_after]
            self._state.put_into_callbacks(self._track, before)

    def begin_epoch(self, model: Any, epoch: int) -> None:
        """Check the first epoch, and restore the other tracked callbacks."""
        self._check_first_epoch(model, epoch)
        self.forget_initial_epoch(model)
        state, self._state = self._state, None
        if state is not None:
            state.put_into_callbacks(self._track, self.callbacks_after)

    def _check_first_epoch(self, model: Any, epoch: int) -> None:
        """Raise if `fit` begins with another epoch than expected: it trains another model."""
        expected = getattr(model, "_initial_epoch", None) if self._continues else None
        self._continues = False
        if expected is not None and epoch != expected:
            raise InvalidInputError(
                f"training must continue at epoch {expected + 1}, but it began at epoch {epoch + 1}: the model that "
                f"{self._caller} resumed is not the one in fit. Pass initial_epoch={expected} to fit"
            )

    def forget_initial_epoch(self, model: Any) -> None:
        """Clear the initial epoch, or every later `fit` of the model would begin there."""
        if self.done and model is not None and getattr(model, "_initial_epoch", None):
            model._initial_epoch = None


def is_older(model: Any, snapshot: Snapshot) -> bool:
    """Whether another callback of this `fit` has already restored a newer state."""
    begins = getattr(model, "_initial_epoch", None)
    if begins is None:
        return False
    return (begins, steps_done(model) or 0) > (snapshot.next_epoch or 0, snapshot.step or 0)


def keep_newer_state(snapshot: Snapshot) -> SavedState:
    """Keep the model as it is; return the state of an older snapshot."""
    print_message(
        f"\nSnapshot {snapshot.id[:12]} of {snapshot.series!r} is older than the state already resumed: "
        "only its best value is used"
    )
    return SavedState(resolve(snapshot))


def resume(model: Any, snapshot: Snapshot, epochs: int | None = None) -> SavedState:
    """Restore a snapshot into the model in `fit`, and let `fit` begin after it."""
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
