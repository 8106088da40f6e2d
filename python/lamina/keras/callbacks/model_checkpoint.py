"""`ModelCheckpoint`: Keras's callback, except that training does not wait for the disk."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras

from lamina import _core
from lamina.errors import InvalidInputError
from lamina.keras import arguments
from lamina.keras.callbacks import resuming
from lamina.keras.messages import tell
from lamina.keras.saving import sigterm
from lamina.keras.saving.commit import Commit
from lamina.keras.saving.filepath import check_model, check_repository, refuse_unknown, target_of
from lamina.keras.saving.saved_model import check_replaceable
from lamina.keras.saving.saver import Saves
from lamina.keras.saving.summary import Tally
from lamina.repository.keep import Keep
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.writing import threads_or_default

CODECS = ("auto", "raw", "zstd", "planes", "delta")


class ModelCheckpoint(Saves):
    """`keras.callbacks.ModelCheckpoint` that captures the model in memory and saves it while training goes on.

    The first eight arguments are Keras's; ``verbose=1`` also tells what each save, and in the end what all of them
    cost. Files are those that Keras writes, and each is there whole or not at all; all of them exist when ``fit``
    returns. ``save_freq`` is also `EveryNEpochs`, and a ``filepath`` that ends in a separator, or in no extension,
    becomes a SavedModel for inference, exported while training waits.

    Args:
        repository: None writes plain files alone; a directory (made where it is new) also gets a snapshot per save,
            deduplicated against the ones before it.
        codec: ``"auto"``, ``"raw"``, ``"zstd"``, ``"planes"`` or ``"delta"``: how snapshots are compressed.
        keep: `lamina.Keep`: which snapshots of this series stay in the repository.
        keep_file: with a repository, also leave the plain file at ``filepath``.
        on_backlog: where saves outrun the disk, ``"wait"`` for it, so that every save is kept, or let a newer save
            ``"replace"`` the one that still waits, though never one that is the best.
        blocking: return from a save only when it is committed.
        resume: where the series has a snapshot, continue from it: weights, optimizer, random seeds, ``track``, best
            value and the initial epoch.
        track: callbacks whose state travels with the snapshot, such as EarlyStopping.
        save_on_preempt: on SIGTERM save at the next batch end before the process ends.
        threads: threads of the engine; otherwise ``LAMINA_THREADS``, or what the machine has.
        on_commit: called with a `Commit` after each save, on the thread that saved.
        options: `tf.saved_model.SaveOptions` for a SavedModel.
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
        *,
        repository: str | os.PathLike[str] | Repository | None = None,
        codec: str = "auto",
        keep: Keep | None = None,
        keep_file: bool = True,
        on_backlog: str = "wait",
        blocking: bool = False,
        resume: bool = False,
        track: Sequence[keras.callbacks.Callback] = (),
        save_on_preempt: bool = False,
        threads: int | None = None,
        on_commit: Callable[[Commit], None] | None = None,
        options: Any = None,
        **unknown: Any,
    ) -> None:
        caller = type(self).__name__
        refuse_unknown(caller, unknown)
        self.target = target_of(filepath, weights_only=save_weights_only, options=options, caller=caller)
        super().__init__(
            self.target.for_keras,
            monitor,
            verbose,
            save_best_only,
            save_weights_only,
            mode,
            save_freq,
            initial_value_threshold,
        )
        self.filepath = self.target.filepath
        self.repository = repository
        self.codec = arguments.choice("codec", codec, CODECS)
        self.keep = keep
        self.keep_file = arguments.flag("keep_file", keep_file)
        self.on_backlog = arguments.choice("on_backlog", on_backlog, ("wait", "replace"))
        self.blocking = arguments.flag("blocking", blocking)
        self.resume = arguments.flag("resume", resume)
        self.track = arguments.callbacks("track", track)
        self.save_on_preempt = arguments.flag("save_on_preempt", save_on_preempt)
        self.threads = threads
        self.on_commit = on_commit
        self._check_arguments()
        self._noticed: set[str] = set()
        self._resumed = False
        self._last_saved: tuple[int, int | None] | None = None
        self._current_epoch = 0
        self.preempted = False
        self.__dict__.update(self._of_this_process())

    def _check_arguments(self) -> None:
        if threads_or_default(self.threads) == 0:
            _core.default_threads()  # it refuses a wrong LAMINA_THREADS now, not at the first save
        check_repository(self.repository, self.target, resume=self.resume)
        if self.target.early:
            check_replaceable(self.filepath)
        if self.keep is not None and not isinstance(self.keep, Keep):
            raise InvalidInputError(f"keep must be a lamina.Keep. Received: {self.keep!r}")
        if self.on_commit is not None and not callable(self.on_commit):
            raise InvalidInputError(f"on_commit must be a function. Received: {self.on_commit!r}")
        for name in ("keep", "resume"):
            if self.repository is None and getattr(self, name):
                raise InvalidInputError(f"{name} needs a repository: pass repository=DIRECTORY")
        if self.repository is None and not self.keep_file:
            raise InvalidInputError("keep_file=False without a repository would save nothing")

    # What the user asks.

    @property
    def last_snapshot(self) -> Snapshot | None:
        """The snapshot that was committed last; None without a repository."""
        return self._last_snapshot

    @property
    def best_snapshot(self) -> Snapshot | None:
        """The committed snapshot with the best value of the monitored metric."""
        return self._best_snapshot

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every save so far is committed; False if that takes longer than ``timeout`` seconds.

        Raises:
            Exception: what a save has failed with, if one has.
        """
        if self._pipeline.runs_here:
            raise InvalidInputError("wait() inside on_commit would wait for its own end: wait where training goes on")
        done = self._pipeline.wait(timeout)
        self._raise_failure()
        return done

    def wait_until_finished(self) -> None:
        """Wait until every save so far is committed."""
        self.wait()

    # What Keras calls.

    def set_model(self, model: Any) -> None:
        check_model(model, type(self).__name__)
        super().set_model(model)

    def set_params(self, params: Any) -> None:
        """Take the parameters of ``fit``; who of ``track`` has not got them yet stands behind this callback."""
        super().set_params(params)
        self._later = [callback for callback in self.track if callback.params is not params]

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._raise_failure()
        super().on_train_begin(logs)
        self.preempted = False
        self._last_saved = None
        self._leave_strangers()
        self._tally = Tally()
        self._arrivals.start()
        sigterm.enter(self)
        if self.resume and not self._resumed:
            self._resume()
        self._prepare()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._forget_initial_epoch()
        state, self._tracked_later = self._tracked_later, None
        if state is not None:
            state.put_into_callbacks(self.track)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._raise_failure()
        if self._looks_at_batches:
            self._catch_up()
            self._arrivals.begin()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._looks_at_batches and self._arrivals.arrive(batch, logs):
            self._batch_ended(batch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._raise_failure()
        if self._looks_at_batches:
            self._catch_up()
        with self._deciding(epoch, None, logs):
            super().on_epoch_end(epoch, logs)
        if self.preempted:
            self._save_and_end(epoch, None, logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_end(logs)
        self._forget_initial_epoch()
        try:
            self.wait()
            self._sum_up()
            if self.preempted:  # too late for a batch end
                self.preempted = False
                sigterm.finish()
        finally:
            sigterm.leave(self)
            self._pipeline.close()
            self._planner.end()
            self._finish()

    @property
    def async_safe(self) -> bool:
        """Whether Keras may report batches on other threads: nothing is captured there."""
        return not self._looks_at_batches and type(self).on_train_batch_end is ModelCheckpoint.on_train_batch_end

    @property
    def _looks_at_batches(self) -> bool:
        return self.save_freq != "epoch" or self.save_on_preempt

    def _catch_up(self) -> None:
        for batch, logs in self._arrivals.due():
            self._batch_ended(batch, logs)

    def _batch_ended(self, batch: int, logs: dict[str, Any] | None) -> None:
        self._raise_failure()
        self._prepare_monitor(logs)
        with self._deciding(self._current_epoch, batch, logs):
            super().on_train_batch_end(batch, logs)
        if self.preempted:
            self._save_and_end(self._current_epoch, batch, logs)

    def _leave_strangers(self) -> None:
        """Of ``track``, who is not among the callbacks of this `fit` sees none of it."""
        strange = [callback for callback in self.track if callback._model is not self._model]
        self._later = [callback for callback in self._later if callback not in strange]
        if strange:
            warnings.warn(
                f"`track` names {', '.join(type(callback).__name__ for callback in strange)}, not among the callbacks "
                "of this fit, so what the snapshots hold of it never changes; pass it to fit(callbacks=) as well",
                stacklevel=2,
            )

    def _forget_initial_epoch(self) -> None:
        """Keras would let every later `fit` of the model begin there."""
        if self._resumed and self._model is not None and getattr(self._model, "_initial_epoch", None):
            self._model._initial_epoch = None

    # What a subclass may change.

    def _resume_from(self) -> Snapshot | None:
        """What ``resume=True`` continues from."""
        return resuming.latest(self._repository(), self._series_name())

    def _ending(self) -> None:
        """Called on SIGTERM, when the saves are committed or the time for them is over."""

    def _finish(self) -> None:
        """Called when training has ended and every save is committed or has failed."""

    # Resuming, and ending early.

    def _resume(self) -> None:
        self._resumed = True
        snapshot, model = self._resume_from(), super().model
        if snapshot is None:
            tell(f"\nNothing to resume from: {self._series_name()!r} has no snapshot yet")
            resuming.warn_if_unbuilt(model)
            return
        went_on = not resuming.is_older(model, snapshot)
        state = resuming.resume(model, snapshot) if went_on else resuming.leave(snapshot)
        noted = state.checkpoint()
        self._take_best_over(snapshot, noted.get("best_value"))
        self._batches_seen_since_last_saving = noted.get("batches_seen", 0)
        self._last_snapshot = snapshot
        self._tracked_later = state if self.track and went_on else None

    def _take_best_over(self, snapshot: Snapshot, value: float | None) -> None:
        if value is None or snapshot.monitor != self.monitor or self.direction not in (None, snapshot.mode):
            return  # another metric's says nothing
        self._best_value = self._best_committed = value
        self._best_snapshot = resuming.latest(self._repository(), snapshot.series, "best")
        if self.save_best_only:
            self.best = value

    def _save_and_end(self, epoch: int, batch: int | None, logs: dict[str, Any] | None) -> None:
        """SIGTERM has come: save this step, whatever was decided, and let the process end."""
        path, keep_file = self._preempt_path(epoch, batch, logs or {})
        if self._last_saved != (epoch, batch):
            with self._deciding(epoch, batch, logs):
                self._save(path, self.save_weights_only, keep_file=keep_file)
        self.preempted = False
        sigterm.finish()

    def _preempt_path(self, epoch: int, batch: int | None, logs: dict[str, Any]) -> tuple[str, bool]:
        """Where the step goes, and whether as a plain file; never over the best one."""
        keep_file = self.keep_file or self.repository is None
        if not self.save_best_only:
            try:
                return self._get_file_path(epoch, batch, logs), keep_file
            except KeyError:
                pass  # a placeholder that only the end of an epoch fills
        folder = os.path.dirname(self.filepath).partition("{")[0]
        return os.path.join(folder, f"preempted{self.target.suffix}"), self.repository is None

    def _end_early(self, timeout: float) -> None:
        done = self._pipeline.wait(timeout)
        self._ending()
        tell(
            f"\n{type(self).__name__}: SIGTERM; "
            + ("every captured save is committed" if done else "a save could not be committed in time")
        )
