"""`Checkpointer`: saves models in custom training loops."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, get_args

import keras

from lamina.errors import InvalidInputError
from lamina.keras import arguments
from lamina.keras.arguments import Codec, DeviceCopy, Mode, OnBacklog
from lamina.keras.built import check_built
from lamina.keras.capture.tracked import Tracked
from lamina.keras.processes import saves_here
from lamina.keras.saving.commit import Commit
from lamina.keras.saving.filepath import check_model, check_repository
from lamina.keras.saving.job import Facts, SaveSettings
from lamina.keras.saving.saver import Saver, SaveSpec
from lamina.keras.schedule import monitoring
from lamina.keras.schedule.direction import scalar
from lamina.keras.schedule.monitoring import MetricHistory, improves
from lamina.repository.keep import Keep
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.writing import DEFAULT_SERIES


class Checkpointer:
    """Saves a model to a repository from a custom training loop.

    `save` returns when the weights are captured, and a thread writes them. Use the object as a context manager, or
    call `close` at the end.

    Args:
        model: a built Keras model.
        repository: directory of the repository; it is created if it is missing.
        weights_only: save ``model.weights.h5`` instead of ``model.keras``.
        series: the series of the snapshots; two loops that share a repository need two.
        monitor: the metric in ``logs`` that decides which snapshot is the best.
        mode: ``"min"`` or ``"max"``: whether a lower or a higher value is better; ``"auto"`` asks the metric, or
            guesses from its name.

    The other arguments are those of `lamina.keras.ModelCheckpoint`.

    Raises:
        InvalidInputError: if an argument is wrong.

    Examples:
        >>> import keras, lamina
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> with lamina.Checkpointer(model, "runs/a") as checkpointer:
        ...     for epoch in range(2):
        ...         checkpointer.save(epoch=epoch, logs={"val_loss": 1.0 / (epoch + 1)})
        >>> [snapshot.epoch for snapshot in lamina.open("runs/a").snapshots()]
        [0, 1]
    """

    __module__ = "lamina"

    def __init__(
        self,
        model: Any,
        repository: str | os.PathLike[str] | Repository,
        *,
        weights_only: bool = False,
        series: str = DEFAULT_SERIES,
        monitor: str = "val_loss",
        mode: Mode = "auto",
        remote: str | None = None,
        codec: Codec = "auto",
        keep: Keep | None = None,
        on_backlog: OnBacklog = "wait",
        device_copy: DeviceCopy = "auto",
        threads: int | None = None,
        track: Sequence[keras.callbacks.Callback] = (),
        on_commit: Callable[[Commit], None] | None = None,
    ) -> None:
        if not hasattr(model, "save_weights"):
            raise InvalidInputError(f"expected a Keras model. Received: {model!r} of type {type(model).__name__}")
        check_model(model, "Checkpointer")
        check_repository(repository)
        replace = arguments.backlog(on_backlog) == "replace"
        self._model = model
        self._spec = SaveSpec(model, weights_only, track=Tracked(arguments.callbacks("track", track)))
        self._settings = SaveSettings(
            "model.weights.h5" if weights_only else "model.keras",
            keep_file=False,
            file_as_fallback=False,  # the user named no file
            codec=arguments.codec(codec),
            threads=arguments.threads(threads) or 0,
        )
        self._keep = arguments.keep(keep)
        self._on_commit = arguments.function("on_commit", on_commit)
        self._series = arguments.text("series", series)
        self._monitor = monitor
        self._mode = _mode(mode)
        self._direction: str | None = None
        self._direction_looked_up = False
        self._metrics = MetricHistory()
        self._saver = Saver(
            "Checkpointer",
            repository,
            replace=replace,
            remote=arguments.remote(remote, repository),
            device_copy=arguments.device_copy(device_copy),
        )
        if saves_here():
            self._saver.prepare(self._spec, self._settings.path)

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
            InvalidInputError: if the model is not built, or an argument is wrong.
            LaminaError: if an earlier save failed, or this one with ``blocking=True``.
        """
        check_built(self._model, "saving")
        if not isinstance(logs, Mapping | None):
            raise arguments.refuse("logs", "a dict of metrics", logs)
        epoch, batch = arguments.integer("epoch", epoch, 0), arguments.optional_integer("batch", batch, 0)
        self._raise_failure()
        if saves_here():
            self._save(epoch, batch, dict(logs or {}))
        if not blocking:
            return None
        self.wait()
        return self.last_snapshot

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every save so far is committed; False if that takes longer than ``timeout`` seconds."""
        done = self._saver.wait(timeout)
        self._raise_failure()
        return done

    @property
    def last_snapshot(self) -> Snapshot | None:
        """The newest committed snapshot."""
        return self._saver.last_snapshot

    @property
    def best_snapshot(self) -> Snapshot | None:
        """The committed snapshot with the best value of the monitored metric."""
        return self._saver.best_snapshot

    def close(self) -> None:
        """Wait for all saves, also for those on their way to a bucket, and free the memory."""
        try:
            self.wait()
            self._saver.finish_sending()
        finally:
            self._saver.close()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _save(self, epoch: int, batch: int | None, logs: dict[str, Any]) -> None:
        before = self._metrics.best.decided
        try:
            facts = self._facts(epoch, batch, logs)
            self._saver.save(
                self._spec,
                self._settings,
                facts,
                after_commit=self._committed,
                keep=self._keep,
                on_commit=self._on_commit,
            )
        except BaseException:
            self._metrics.best.decided = before  # nothing was saved
            raise

    def _facts(self, epoch: int, batch: int | None, logs: dict[str, Any]) -> Facts:
        if self._monitor in logs:
            self._find_direction()
        value = scalar(logs.get(self._monitor))
        direction = self._direction
        best = direction is not None and self._metrics.best.judge(value, partial(improves, direction=direction))
        return Facts(
            epoch=epoch,
            batch=batch,
            logs=logs,
            monitor=self._monitor,
            mode=direction,
            value=value,
            best=best,
            series=self._series,
            checkpoint={"best": None, "best_value": self._metrics.best.decided, "batches_seen": 0},
        )

    def _find_direction(self) -> None:
        """Find the direction once, when the metric has a value."""
        if self._direction_looked_up:
            return
        self._direction_looked_up = True
        known = None if self._mode == "auto" else self._mode
        self._direction = known or monitoring.find_direction(self._model, self._monitor)
        if self._direction is None:
            monitoring.warn_of_unknown_direction(self._monitor, "no save is marked as the best")

    def _committed(self, commit: Commit) -> None:
        if commit.best:
            self._metrics.best.committed = commit.value

    def _raise_failure(self) -> None:
        failure = self._saver.take_failure()
        if failure is not None:
            self._metrics.best.roll_back()
            raise failure


def _mode(given: Mode) -> Mode:
    if given in get_args(Mode):
        return given
    warnings.warn(f"Checkpointer mode {given!r} is unknown, fallback to auto mode.", stacklevel=3)
    return "auto"
