"""`Checkpointer`: the engine of the callbacks for training loops of one's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import keras

from lamina.errors import InvalidInputError
from lamina.keras import arguments
from lamina.keras.callbacks.model_checkpoint import ModelCheckpoint
from lamina.keras.saving.commit import Commit
from lamina.repository.keep import Keep
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.writing import DEFAULT_SERIES


class Checkpointer:
    """Saves a model into a repository from a training loop that is not `Model.fit`.

    `save` returns when the weights are captured; the rest happens behind it. Use it as a context manager, or call
    `close` at the end.

    Args:
        model: a built Keras model.
        repository: directory of the repository, made where it is new.
        weights_only: save ``model.weights.h5`` instead of ``model.keras``.
        series: which series the snapshots belong to.
        monitor: the metric in ``logs`` that decides what is best.
        mode: ``"min"``, ``"max"`` or ``"auto"``: which way it is better.

    The other arguments are those of `lamina.keras.ModelCheckpoint`.
    """

    def __init__(
        self,
        model: Any,
        repository: str | os.PathLike[str] | Repository,
        *,
        weights_only: bool = False,
        series: str = DEFAULT_SERIES,
        monitor: str = "val_loss",
        mode: str = "auto",
        codec: str = "auto",
        keep: Keep | None = None,
        on_backlog: str = "wait",
        threads: int | None = None,
        track: Sequence[keras.callbacks.Callback] = (),
        on_commit: Callable[[Commit], None] | None = None,
    ) -> None:
        if not hasattr(model, "save_weights"):
            raise InvalidInputError(f"expected a Keras model. Received: {model!r} of type {type(model).__name__}")
        self._path = "model.weights.h5" if weights_only else "model.keras"
        self._weights_only = weights_only
        self._callback = _Loop(
            self._path,
            monitor=monitor,
            mode=mode,
            save_weights_only=weights_only,
            repository=repository,
            codec=codec,
            keep=keep,
            keep_file=False,
            on_backlog=on_backlog,
            threads=threads,
            track=track,
            on_commit=on_commit,
        )
        self._callback.series = series
        self._callback.set_model(model)
        self._callback._prepare()

    def save(
        self, *, epoch: int, logs: Mapping[str, Any] | None = None, batch: int | None = None, blocking: bool = False
    ) -> Snapshot | None:
        """Save the model as it is now.

        Args:
            epoch: 0-based.
            logs: metrics by name.
            batch: 0-based, for a save inside an epoch.
            blocking: return only when the snapshot is committed; then it is returned, otherwise None.

        Raises:
            LaminaError: what an earlier save has failed with, or this one if it is ``blocking``.
        """
        self._callback.save_now(self._path, self._weights_only, epoch, batch, logs)
        if not blocking:
            return None
        self.wait()
        return self.last_snapshot

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every save so far is committed; False if that takes longer than ``timeout`` seconds."""
        return self._callback.wait(timeout)

    @property
    def last_snapshot(self) -> Snapshot | None:
        """The snapshot that was committed last."""
        return self._callback.last_snapshot

    @property
    def best_snapshot(self) -> Snapshot | None:
        """The committed snapshot with the best value of the monitored metric."""
        return self._callback.best_snapshot

    def close(self) -> None:
        """Wait for what is under way and give all memory back."""
        self._callback.on_train_end()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Loop(ModelCheckpoint):
    """The callback without Keras's decisions."""

    series = DEFAULT_SERIES
    _file_stands_in = False  # nobody has named a file

    def save_now(
        self, path: str, weights_only: bool, epoch: int, batch: int | None, logs: Mapping[str, Any] | None
    ) -> None:
        if not (self._model.built or self._model.variables):
            raise InvalidInputError("the model has no variables yet; build it, or call it on data, before saving")
        if not isinstance(logs, Mapping | None):
            raise arguments.refuse("logs", "a dict of metrics", logs)
        epoch, batch = arguments.integer("epoch", epoch, 0), arguments.optional_integer("batch", batch, 0)
        self._raise_failure()
        self._prepare_monitor(logs)
        with self._deciding(epoch, batch, dict(logs or {})):
            self._save(path, weights_only)

    def _series_name(self) -> str:
        return self.series


_Loop.__name__ = "Checkpointer"  # what warnings call it
