"""`ModelCheckpoint`: Keras's callback, but training does not wait for the disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from datetime import timedelta
from typing import Any

import keras

from lamina.errors import InvalidInputError
from lamina.keras import arguments
from lamina.keras.arguments import Codec, DeviceCopy, Mode, OnBacklog
from lamina.keras.callbacks import resume
from lamina.keras.callbacks.resume import Resumption
from lamina.keras.capture.model_identity import saved_variables
from lamina.keras.capture.tracked import Tracked
from lamina.keras.messages import print_message
from lamina.keras.processes import saves_here
from lamina.keras.saving import sigterm
from lamina.keras.saving.commit import Commit
from lamina.keras.saving.filepath import check_destination, check_model, refuse_unknown, target_of
from lamina.keras.saving.job import Facts, SaveSettings
from lamina.keras.saving.output import print_queued, queue_message
from lamina.keras.saving.saver import Saver, SaveSpec
from lamina.keras.saving.series import default_series
from lamina.keras.saving.summary import Totals, line
from lamina.keras.schedule import frequency, monitoring
from lamina.keras.schedule.batch_ends import BatchEnds
from lamina.keras.schedule.decision import Decision, InterceptedModel
from lamina.keras.schedule.direction import scalar
from lamina.keras.schedule.monitoring import MetricHistory
from lamina.repository.keep import Keep
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot

_NOT_PICKLED = ("_saver", "_decision", "_pace", "_batch_ends")


class ModelCheckpoint(keras.callbacks.ModelCheckpoint):  # type: ignore[misc]
    """`keras.callbacks.ModelCheckpoint` that captures the model in memory and saves it while training continues.

    The first eight arguments are Keras's. ``verbose=1`` also prints the size and the times of each save, and of all
    saves at the end. The files are those that Keras writes. A file appears whole or not at all, and all of them exist
    when ``fit`` returns. ``save_freq`` also takes `EveryNEpochs`, `EveryMinutes`, a `datetime.timedelta` and
    `Overhead`. A ``filepath`` without an extension, or with a separator at its end, becomes a SavedModel for
    inference; training waits while it is exported.

    Examples:
        >>> import keras, numpy as np
        >>> from lamina.keras import ModelCheckpoint
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile(loss="mse")
        >>> x, y = np.zeros((8, 4)), np.zeros((8, 1))
        >>> checkpoint = ModelCheckpoint("best.keras", monitor="loss", repository="runs/a")
        >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[checkpoint])
        >>> checkpoint.last_snapshot.epoch
        1

    Args:
        repository: a directory that gets a deduplicated snapshot per save, and is created if it is missing. None
            writes plain files only.
        remote: a bucket that gets what the repository gets, while training continues: ``"s3://BUCKET/PREFIX"``,
            ``"gs://…"``, ``"az://…"`` or ``"file:///FOLDER"``. Trouble with it never ends training; what did not arrive
            waits in the repository for ``lamina push DIR``.
        codec: how snapshots are compressed: ``"auto"``, ``"raw"``, ``"zstd"``, ``"planes"`` or ``"delta"``.
        keep: `lamina.Keep`: which snapshots of this series stay in the repository.
        keep_file: with a repository, also write the plain file at ``filepath``.
        on_backlog: if saving is slower than the save interval, ``"wait"`` blocks training, so every save is kept;
            ``"replace"`` skips the oldest queued save, but never one that is the best.
        blocking: return from a save only when it is committed.
        series: the series of the snapshots. None takes the whole path template, such as ``fold1/m.keras``.
        resume: continue from the newest snapshot of the series, if there is one: weights, optimizer, random seeds,
            ``track``, best value and initial epoch.
        track: callbacks whose state is saved in the snapshots, such as EarlyStopping.
        save_on_preempt: on SIGTERM, save at the next batch end before the process ends.
        device_copy: for weights on a GPU or TPU. ``"auto"`` first copies them on the device if it has room, so training
            does not wait for the bus; ``"always"`` does not ask whether it has room; ``"never"`` uses no memory there.
            Weights in the host's memory are not affected.
        threads: threads of the engine; None takes ``LAMINA_THREADS``, or all cores.
        on_commit: called with a `Commit` after each save, on the saving thread.
        options: `tf.saved_model.SaveOptions` for a SavedModel.

    Raises:
        InvalidInputError: if an argument is wrong, or nothing could be written there.
        StorageError: from a hook of `fit`, if an earlier save could not be written.
    """

    best: Any
    verbose: int

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: Mode = "auto",
        save_freq: str | int | timedelta = "epoch",
        initial_value_threshold: float | None = None,
        *,
        repository: str | os.PathLike[str] | Repository | None = None,
        remote: str | None = None,
        codec: Codec = "auto",
        keep: Keep | None = None,
        keep_file: bool = True,
        on_backlog: OnBacklog = "wait",
        blocking: bool = False,
        series: str | None = None,
        resume: bool = False,
        track: Sequence[keras.callbacks.Callback] = (),
        save_on_preempt: bool = False,
        device_copy: DeviceCopy = "auto",
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
            frequency.frequency(save_freq),
            initial_value_threshold,
        )
        self.filepath = self.target.filepath
        self.repository = repository
        self.remote = remote
        self._address = arguments.remote(remote, repository)
        self.codec = arguments.codec(codec)
        self.keep = arguments.keep(keep)
        self.keep_file = arguments.flag("keep_file", keep_file)
        self.on_backlog = arguments.backlog(on_backlog)
        self.blocking = arguments.flag("blocking", blocking)
        self.series = None if series is None else arguments.text("series", series)
        self.resume = arguments.flag("resume", resume)
        self.track = Tracked(arguments.callbacks("track", track))
        self.save_on_preempt = arguments.flag("save_on_preempt", save_on_preempt)
        self.device_copy = arguments.device_copy(device_copy)
        self.threads = arguments.threads(threads)
        self.on_commit = arguments.function("on_commit", on_commit)
        check_destination(self.target, repository, keep_file=self.keep_file, resume=self.resume)
        self._check_keep()
        if monitoring.UNKNOWN_IS_LOSS:
            monitoring.use_newer_rules(self, mode, initial_value_threshold)
        shown = [self.monitor] if save_best_only or monitor != "val_loss" else []
        monitoring.warn_of_validation_metric(caller, self.save_freq, shown, self.filepath)
        self._metrics = MetricHistory(scalar(self.best))
        self._resumption = Resumption(caller, self.track)
        self._last_saved: tuple[int, int | None] | None = None
        self._current_epoch = 0
        self.preempted = False
        self._reset_process_state()

    def _reset_process_state(self) -> None:
        """Make the parts that a copy does not share, in their state before training."""
        self._saver = Saver(
            type(self).__name__,
            self.repository,
            replace=self.on_backlog == "replace",
            remote=self._address,
            device_copy=self.device_copy,
        )
        self._decision: Decision | None = None
        self._pace = frequency.Pace(self.save_freq)
        self._batch_ends = BatchEnds()

    def __getstate__(self) -> dict[str, Any]:
        """A copy has its own pipeline and plans, and opens the repository again."""
        state = {name: value for name, value in self.__dict__.items() if name not in _NOT_PICKLED}
        if isinstance(self.repository, Repository):
            state["repository"] = self.repository.path
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._resumption, self._metrics = copy(self._resumption), deepcopy(self._metrics)  # not shared by `copy.copy`
        self._reset_process_state()

    def _check_keep(self) -> None:
        if self.keep is not None and self.repository is None:
            raise InvalidInputError("keep needs a repository: pass repository=DIRECTORY")

    # Public methods.

    @property
    def last_snapshot(self) -> Snapshot | None:
        """The newest committed snapshot; None without a repository."""
        return self._saver.last_snapshot

    @property
    def best_snapshot(self) -> Snapshot | None:
        """The committed snapshot with the best value of the monitored metric."""
        return self._saver.best_snapshot

    def wait(self, timeout: float | None = None, *, uploads: bool = False) -> bool:
        """Wait until every save so far is committed; False if that takes longer than ``timeout`` seconds.

        Args:
            timeout: seconds; None waits without a limit.
            uploads: also wait until the server has every version.

        Raises:
            Exception: the error of a save that failed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        done = self._saver.wait(timeout)
        self._raise_failure()
        return done and (not uploads or self._uploaded(deadline))

    def wait_until_finished(self) -> None:
        """Wait until every save so far is committed."""
        self.wait()

    # Hooks of Keras.

    def set_model(self, model: Any) -> None:
        check_model(model, type(self).__name__)
        super().set_model(model)

    def set_params(self, params: Any) -> None:
        """Take the parameters of ``fit``."""
        super().set_params(params)
        self._resumption.note_params(params)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._raise_failure()
        super().on_train_begin(logs)
        self.preempted = False
        self._last_saved = None
        self._resumption.begin(self._model)
        if self.repository is not None:
            resume.warn_of_swapped_weights(self, self.track)
        self._saver.totals = Totals()
        self._batch_ends.start()
        self._pace.begin(saved_variables(super().model))
        sigterm.register(self)
        if self.resume and not self._resumption.done:
            self._resume()
        if saves_here():
            self._saver.prepare(self._spec(self.save_weights_only), self.filepath)
        self._resumption.restore_callbacks_before()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._resumption.begin_epoch(self._model, epoch)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._raise_failure()
        if self._uses_batch_hooks:
            self._catch_up()
            self._batch_ends.begin()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._uses_batch_hooks and self._batch_ends.ended(batch, logs):
            self._batch_ended(batch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._raise_failure()
        if self._uses_batch_hooks:
            self._catch_up()
        with self._intercepting_save(epoch, None, logs):
            if self.monitor_op is None:  # as Keras does from 3.11 on
                self._set_monitor_op()
            super().on_epoch_end(epoch, logs)
            self._metrics.note_epoch(self.monitor, logs or {}, marks_best=self._marks_best())
        if self.preempted:
            self._save_preempted(epoch, None, logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_end(logs)
        self._resumption.forget_initial_epoch(self._model)
        try:
            self.wait()
            if self.verbose > 0 and self._saver.totals.saves:
                share = self._pace.summary()
                print_message(f"\n{self._summary()}{f'; {share}' if share else ''}")
            if self.preempted:  # no further batch will end
                self.preempted = False
                sigterm.shut_down()
        finally:
            sigterm.unregister(self)
            self._saver.close()
            self._finish()

    @property
    def async_safe(self) -> bool:
        """Whether Keras may call batch hooks on other threads: only if none of them captures the model."""
        return not self._uses_batch_hooks and type(self).on_train_batch_end is ModelCheckpoint.on_train_batch_end

    @property
    def _uses_batch_hooks(self) -> bool:
        return self.save_freq != "epoch" or self.save_on_preempt

    def _catch_up(self) -> None:
        for batch, logs in self._batch_ends.due():
            self._batch_ended(batch, logs)

    def _batch_ended(self, batch: int, logs: dict[str, Any] | None) -> None:
        self._raise_failure()
        if self.monitor_op is None and self.monitor in (logs or {}):  # as soon as the metric has a value
            self._set_monitor_op()
        with self._intercepting_save(self._current_epoch, batch, logs):
            super().on_train_batch_end(batch, logs)
        if self.preempted:
            self._save_preempted(self._current_epoch, batch, logs)

    # Hooks for subclasses.

    def _series_name(self) -> str:
        """The series of the snapshots."""
        if named := self.series or self._resumption.old_series:
            return named
        return default_series(self.filepath, self._repository.path if self.repository is not None else None)

    def _run_id(self) -> str | None:
        """The id of the run that the snapshots belong to."""
        return None

    def _committed(self, commit: Commit) -> None:
        """Called on the saving thread, after each commit and before ``on_commit``."""

    def _summary(self) -> str:
        """The line that ``verbose=1`` prints at the end of training."""
        return self._saver.totals.summary()

    def _resume_from(self) -> Snapshot | None:
        """The snapshot that ``resume=True`` continues from."""
        template = self.filepath if self.series is None else None
        return self._resumption.find(self._repository, self._series_name(), template)

    def _before_exit(self, seconds: float) -> None:
        """Called on SIGTERM, when the saves are committed or out of time; ``seconds`` are left."""
        self._saver.end_sending(seconds)

    def _uploaded(self, deadline: float | None) -> bool:
        """Wait until all committed saves are uploaded; False if that takes longer than until ``deadline``."""
        return self._saver.sent(deadline)

    def _finish(self) -> None:
        """Called at the end of training, when every save is committed or has failed."""
        self._saver.finish_sending()

    # Keras decides whether to save.

    @property
    def model(self) -> Any:
        """The model; while Keras decides on a save, a proxy whose `save` and `save_weights` capture it."""
        model = super().model
        if self._decision is None or not self._decision.here:
            return model
        return InterceptedModel(model, self._save)

    @property
    def direction(self) -> str | None:
        """``"min"``, ``"max"``, or None if it is unknown."""
        return monitoring.direction_for(self.monitor_op)

    def _marks_best(self) -> bool:
        """Whether the best save is marked anywhere besides the file."""
        return self.repository is not None

    def _set_monitor_op(self) -> None:
        finds = None if monitoring.UNKNOWN_IS_LOSS else super()._set_monitor_op
        effect = "every save counts as an improvement" if self.save_best_only else "no save is marked as the best"
        monitoring.set_monitor_op(self, super().model, finds, effect)

    def _is_improvement(self, monitor_value: Any, reference_value: Any) -> bool:
        return monitoring.improves(monitor_value, reference_value, self.direction, getattr(self, "min_delta", 0.0))

    def _get_file_path(self, epoch: int, batch: int | None, logs: Mapping[str, Any]) -> str:
        """Keras's path; between epochs, validation metrics are those of the last epoch (nan in the first)."""
        if batch is not None and self.save_freq != "epoch":
            logs = self._metrics.with_validation(self.filepath, logs or {})
        path: str = super()._get_file_path(epoch, batch, logs)
        return path

    def _save_model(self, epoch: int, batch: int | None, logs: dict[str, Any] | None) -> None:
        if self._pace.due(epoch):
            super()._save_model(epoch, batch, logs)

    @contextmanager
    def _intercepting_save(self, epoch: int, batch: int | None, logs: dict[str, Any] | None) -> Iterator[None]:
        """Let Keras decide; where it saves, `_save` captures. Keras's own "finished saving" would come too early."""
        verbose: int = self.verbose
        best = self.best, self._metrics.best.decided
        self._decision = Decision(epoch, batch, dict(logs or {}), verbose)
        try:
            yield
        except BaseException:
            self.best, self._metrics.best.decided = best  # nothing was saved
            raise
        finally:
            self._decision = None
            self.verbose = verbose

    # The saver saves.

    def _save(self, path: str, weights_only: bool, *, keep_file: bool | None = None) -> None:
        """Hand a save that Keras has decided on to the saver."""
        if not saves_here():
            return
        started, begun, decision = time.perf_counter(), frequency.clock(), self._decision
        assert decision is not None
        keep_file = self.keep_file if keep_file is None else keep_file

        def after_commit(commit: Commit) -> None:
            if commit.best:
                self._metrics.best.committed = commit.value
            if decision.verbose > 0:
                costs = line(commit, time.perf_counter() - started)
                queue_message(f"\nEpoch {decision.epoch + 1}: finished saving model to {path}\n{costs}")
            self._committed(commit)

        self._saver.save(
            self._spec(weights_only, self._resumption.callbacks_after if decision.batch is None else ()),
            SaveSettings(path, keep_file, codec=self.codec, threads=self.threads or 0),
            self._facts(decision),
            after_commit=after_commit,
            keep=self.keep,
            on_commit=self.on_commit,
        )
        self._last_saved = (decision.epoch, decision.batch)
        self.verbose = 0
        if self.blocking:
            self.wait()
        self._pace.add_wait(frequency.clock() - begun)
        if decision.verbose > 0 and (share := self._pace.summary()):
            print_message(f"  {share}")

    def _spec(self, weights_only: bool, callbacks_after: Sequence[Any] = ()) -> SaveSpec:
        target = self.target
        return SaveSpec(super().model, weights_only, target.saved_model, target.options, self.track, callbacks_after)

    def _facts(self, decision: Decision) -> Facts:
        value = scalar(decision.logs.get(self.monitor))
        direction = self.direction
        improves = None if self.save_best_only else self._is_improvement  # Keras has compared
        best = direction is not None and self._metrics.best.judge(value, improves)
        return Facts(
            epoch=decision.epoch,
            batch=decision.batch,
            logs=decision.logs,
            monitor=self.monitor,
            mode=direction,
            value=value,
            best=best,
            series=self._series_name(),
            run=self._run_id(),
            checkpoint={
                "best": scalar(self.best),
                "best_value": self._metrics.best.decided,
                "batches_seen": self._batches_seen_since_last_saving,
                "template": self._resumption.old_series is None,  # false: the series has its old name
            },
        )

    @property
    def _repository(self) -> Repository:
        found = self._saver.repository
        assert found is not None
        return found

    def _raise_failure(self) -> None:
        """At each hook: print what the saving thread has queued, and raise the error of a failed save."""
        print_queued()
        failure = self._saver.take_failure()
        if failure is None:
            return
        self._metrics.best.roll_back()
        if self.save_best_only:
            self.best = self._metrics.best.committed
            monitoring.set_initial_best(self)
        raise failure

    # Resume, and preemption.

    def _resume(self) -> None:
        self._resumption.done = True
        snapshot, model = self._resume_from(), super().model
        if snapshot is None:
            print_message(f"\nNothing to resume from: {self._series_name()!r} has no snapshot yet")
            resume.warn_if_unbuilt(model)
            return
        saved = self._resumption.restore(model, snapshot, self.params)
        self._restore_best(snapshot, saved.get("best_value"))
        self._batches_seen_since_last_saving = saved.get("batches_seen", 0)
        self._saver.last_snapshot = snapshot

    def _restore_best(self, snapshot: Snapshot, value: float | None) -> None:
        if value is None or snapshot.monitor != self.monitor or self.direction not in (None, snapshot.mode):
            return  # the best value of another metric
        self._metrics.best = monitoring.BestValue(value)
        self._saver.best_snapshot = resume.latest(self._repository, snapshot.series, "best")
        if self.save_best_only:
            self.best = value

    def _save_preempted(self, epoch: int, batch: int | None, logs: dict[str, Any] | None) -> None:
        """After SIGTERM: save this step, even if none was due, and let the process end."""
        path, keep_file = self._preempt_path(epoch, batch, logs or {})
        if self._last_saved != (epoch, batch):
            with self._intercepting_save(epoch, batch, logs):
                self._save(path, self.save_weights_only, keep_file=keep_file)
        self.preempted = False
        sigterm.shut_down()

    def _preempt_path(self, epoch: int, batch: int | None, logs: dict[str, Any]) -> tuple[str, bool]:
        """Where this step is saved, and whether as a plain file; it never replaces the best one."""
        keep_file = self.keep_file or self.repository is None
        if not self.save_best_only:
            try:
                return self._get_file_path(epoch, batch, logs), keep_file
            except KeyError:
                pass  # a placeholder that has a value only at the end of an epoch
        return self.target.preempted, self.repository is None
