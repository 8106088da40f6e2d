"""Captures the model where Keras decides to save it, and commits the save while training goes on."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from lamina.errors import BusyError, UnsupportedFormatError
from lamina.keras.capture import training_state
from lamina.keras.capture.planner import Planner
from lamina.keras.capture.training_state import SavedState, TrainingTensors
from lamina.keras.capture.walk import NotPlannable
from lamina.keras.messages import tell
from lamina.keras.remote import is_remote
from lamina.keras.processes import saves_here
from lamina.keras.saving.commit import Commit
from lamina.keras.saving.filepath import Target
from lamina.keras.saving.job import Content, Facts, Place, SaveJob
from lamina.keras.saving.keras_file import KeptFile
from lamina.keras.saving.pipeline import Pipeline
from lamina.keras.saving.saved_model import SavedModelFolder, check_replaceable
from lamina.keras.saving.summary import Tally, line
from lamina.keras.schedule.batch_ends import Arrivals
from lamina.keras.schedule.decision import Decision, Intercepted
from lamina.keras.schedule.direction import scalar
from lamina.keras.schedule.frequency import is_due
from lamina.keras.schedule.monitoring import Monitoring
from lamina.repository.keep import Keep
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.writing import as_repository, threads_or_default


class Saves(Monitoring):
    """A save from Keras's decision to its commit; `ModelCheckpoint` gives it its arguments."""

    repository: str | os.PathLike[str] | Repository | None
    codec: str
    keep: Keep | None
    keep_file: bool
    on_backlog: str
    blocking: bool
    track: Sequence[Any]
    threads: int | None
    on_commit: Callable[[Commit], None] | None
    verbose: int
    target: Target

    _file_stands_in = True  # where a snapshot finds no room
    _noticed: set[str]
    _last_saved: tuple[int, int | None] | None
    _last_snapshot: Snapshot | None
    _best_snapshot: Snapshot | None
    _open_repository: Repository | None
    _decision: Decision | None
    _tracked_later: SavedState | None
    _later: Sequence[Any]
    _replaced: int
    _tally: Tally
    _arrivals: Arrivals
    _planner: Planner
    _pipeline: Pipeline

    @property
    def model(self) -> Any:
        """The model; while Keras decides on a save, with the two methods that save replaced."""
        model = super().model
        if self._decision is None or not self._decision.here:
            return model
        return Intercepted(model, self._save)

    # What a subclass may change.

    def _series_name(self) -> str:
        """Which series the snapshots belong to."""
        return os.path.basename(str(self.filepath))

    def _run_id(self) -> str | None:
        """Which run they belong to."""
        return None

    def _committed(self, commit: Commit) -> None:
        """Called on the thread that saved, after each commit and before ``on_commit``."""

    def _summary(self) -> str:
        """What is said of all saves at the end of training with ``verbose=1``."""
        return self._tally.summary()

    def _apply_keep(self, commit: Commit) -> None:
        """Retention, after ``_committed``."""
        if self.keep is None or commit.snapshot is None:
            return
        try:
            self._repository().prune(self.keep, series=commit.snapshot.series)
        except BusyError:
            pass  # another process prunes just now; the next save does this one's part
        except UnsupportedFormatError as error:  # file locks do not work there; saves need none
            warnings.warn(f"keep= deletes nothing here: {error}", stacklevel=2)

    # The way of a save.

    def _save_model(self, epoch: int, batch: int | None, logs: dict[str, Any] | None) -> None:
        if is_due(self.save_freq, epoch):
            super()._save_model(epoch, batch, logs)

    @contextmanager
    def _deciding(self, epoch: int, batch: int | None, logs: dict[str, Any] | None) -> Iterator[None]:
        """Let Keras decide; where it would save, `_save` captures. Keras's "finished saving" would come too early."""
        verbose: int = self.verbose
        best = self.best, self._best_value
        self._decision = Decision(epoch, batch, dict(logs or {}), verbose)
        try:
            yield
        except BaseException:
            self.best, self._best_value = best  # nothing was saved
            raise
        finally:
            self._decision = None
            self.verbose = verbose

    def _save(self, path: str, weights_only: bool, *, keep_file: bool | None = None) -> None:
        """Capture the model and hand it to the pipeline."""
        if not saves_here():
            return
        started = time.perf_counter()
        decision = self._decision
        assert decision is not None
        if self.target.saved_model:
            check_replaceable(path)
        elif os.path.isdir(path):
            raise IsADirectoryError(f"Is a directory: {path}")
        facts = self._facts(decision)
        training = TrainingTensors()
        if self.repository is not None and not self.target.saved_model:
            facts.training, training = self._training_state(decision)
        self._pipeline.admit(self._planner.nbytes)
        content = self._capture(path, weights_only, training)
        facts.blocked_seconds = time.perf_counter() - started
        message = f"\nEpoch {decision.epoch + 1}: finished saving model to {path}" if decision.verbose > 0 else ""

        def committed(commit: Commit) -> None:
            costs = f"\n{line(commit, time.perf_counter() - started)}" if message else ""
            self._note(commit, message + costs)

        place = self._place(self.keep_file if keep_file is None else keep_file)
        self._pipeline.submit(SaveJob(path, facts, content, place, committed, self._take_replaced(facts)))
        self._last_saved = (decision.epoch, decision.batch)
        self.verbose = 0
        if self.blocking:
            self.wait()

    def _capture(self, path: str, weights_only: bool, training: TrainingTensors) -> Content:
        """What Keras would write to ``path``, held in memory; Keras writes it where lamina cannot."""
        model = super().model
        if self.target.saved_model:
            beside = self._temporary_place(path)
            return SavedModelFolder(model, path, beside=beside, options=self.target.options)
        try:
            if (reason := _unplannable(model, path, weights_only)) is not None:
                raise NotPlannable(reason)
            return self._planner.capture(
                model,
                path,
                training,
                weights_only=weights_only,
                threads=threads_or_default(self.threads),
            )
        except NotPlannable as refusal:
            self._notice(str(refusal))
        return KeptFile(
            model,
            path,
            weights_only=weights_only,
            beside=self._temporary_place(path),
            training=training,
            captured=self._planner.capture_values(training, threads_or_default(self.threads)),
        )

    def _prepare(self) -> None:
        """Do what the first save would otherwise keep training waiting for."""
        model = super().model
        if saves_here() and _unplannable(model, self.filepath, self.save_weights_only) is None:
            self._planner.prepare(model)

    def _notice(self, reason: str) -> None:
        if reason not in self._noticed:
            self._noticed.add(reason)
            warnings.warn(
                f"{type(self).__name__} lets Keras itself save this model, and training waits for it: {reason}",
                stacklevel=2,
            )

    def _temporary_place(self, path: str) -> Path:
        if self.keep_file and not is_remote(path):
            return Path(path).absolute().parent
        return self._repository().path if self.repository is not None else Path.cwd()

    def _facts(self, decision: Decision) -> Facts:
        value, best = self._judge(decision.logs)
        return Facts(
            epoch=decision.epoch,
            batch=decision.batch,
            step=_steps(super().model),
            logs=decision.logs,
            monitor=self.monitor,
            mode=self.direction,
            value=value,
            best=best,
            series=self._series_name(),
            run=self._run_id(),
            metadata={},
            training={},
        )

    def _training_state(self, decision: Decision) -> tuple[dict[str, Any], TrainingTensors]:
        later = self._later if decision.batch is None else ()
        fields, tensors = training_state.take(super().model, self.track, later)
        fields["checkpoint"] = {
            "best": training_state.packed(scalar(self.best)),
            "best_value": training_state.packed(self._best_value),
            "batches_seen": self._batches_seen_since_last_saving,
        }
        return fields, tensors

    def _take_replaced(self, facts: Facts) -> int:
        """How many saves have given way since the last one; never silently."""
        count, self._replaced = self._pipeline.replaced - self._replaced, self._pipeline.replaced
        if count:
            facts.metadata["replaced"] = count
            tell(f"\n{type(self).__name__}: the disk is slower than the saves; {count} gave way to this one")
        return count

    def _place(self, keep_file: bool) -> Place:
        repository = None if self.repository is None else self._repository()
        return Place(repository, keep_file, self.codec, threads_or_default(self.threads), self._file_stands_in)

    def _repository(self) -> Repository:
        if self._open_repository is None:
            given = self.repository
            assert given is not None
            # The process may go to another directory while a save is on its way.
            self._open_repository = as_repository(given if isinstance(given, Repository) else os.path.abspath(given))
        return self._open_repository

    def _note(self, commit: Commit, message: str) -> None:
        """On the pipeline's thread: the save is on disk; everyone who waits for it is told."""
        if commit.snapshot is not None:
            self._last_snapshot = commit.snapshot
        if commit.best:
            self._best_committed = commit.value
            self._best_snapshot = commit.snapshot
        self._tally.add(commit)
        if message:
            tell(message)
        self._committed(commit)
        self._apply_keep(commit)
        if self.on_commit is not None:
            self.on_commit(commit)

    def _sum_up(self) -> None:
        """Training has ended, and every save is committed."""
        if self.verbose > 0 and self._tally.saves:
            tell(f"\n{self._summary()}")

    def _raise_failure(self) -> None:
        failure = self._pipeline.take_failure()
        if failure is None:
            return
        self._pipeline.wait()
        self._give_best_back()
        raise failure

    def __getstate__(self) -> dict[str, Any]:
        """A copy starts its own pipeline, learns its own plans, and opens the repository anew."""
        state = {name: value for name, value in self.__dict__.items() if name not in self._of_this_process()}
        if isinstance(self.repository, Repository):
            state["repository"] = self.repository.path
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__dict__.update(self._of_this_process())

    def _of_this_process(self) -> dict[str, Any]:
        """What is never copied, as it is before training."""
        return {
            "_last_snapshot": None,
            "_best_snapshot": None,
            "_open_repository": None,
            "_decision": None,
            "_tracked_later": None,
            "_later": (),
            "_replaced": 0,
            "_tally": Tally(),
            "_arrivals": Arrivals(),
            "_planner": Planner(),
            "_pipeline": Pipeline(replace=self.on_backlog == "replace"),
        }


def _unplannable(model: Any, path: str, weights_only: bool) -> str | None:
    """Why no plan is made for a file of this name; None if one is."""
    method = "save_weights" if weights_only else "save"
    saves = getattr(model, method, None)
    if getattr(saves, "__func__", saves) is not getattr(keras.Model, method):
        return f"the model has a `{method}` of its own"
    if is_remote(path):
        return "the file is not on this machine"
    if not path.endswith(".weights.h5" if weights_only else ".keras"):
        return "the legacy .h5 format depends on more than the model"
    return None


def _steps(model: Any) -> int | None:
    try:
        return int(model.optimizer.iterations)
    except (AttributeError, TypeError, ValueError):
        return None
