"""`Saver`: captures a model, and commits the save while training continues."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import keras

from lamina import units
from lamina.errors import BusyError, InvalidInputError, UnsupportedFormatError
from lamina.files.replacing import behind_links
from lamina.keras.capture import training_state
from lamina.keras.capture.planner import Planner
from lamina.keras.capture.tracked import Tracked
from lamina.keras.capture.training_state import TrainingTensors
from lamina.keras.capture.walk import FallbackToKeras
from lamina.keras.messages import print_message
from lamina.keras.priority import lower_priority
from lamina.keras.remote import is_remote
from lamina.keras.saving.commit import Commit
from lamina.keras.saving.job import Facts, PendingCheckpoint, SaveJob, SaveSettings
from lamina.keras.saving.keras_file import KerasFile
from lamina.keras.saving.output import queue_message
from lamina.keras.saving.pipeline import Pipeline
from lamina.keras.saving.summary import Totals
from lamina.keras.saving.tf_saved_model import SavedModelFolder, check_replaceable
from lamina.keras.steps import steps_done
from lamina.remote.address import Address
from lamina.remote.sender import Sender
from lamina.repository.keep import Keep
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.writing import as_repository

#: So long the end of training waits for a bucket without a word.
_QUIET_SECONDS = 3.0


@dataclass(frozen=True)
class SaveSpec:
    """What to save."""

    model: Any
    weights_only: bool = False
    saved_model: bool = False
    options: Any = None  # tf.saved_model.SaveOptions, for a SavedModel
    track: Tracked = field(default_factory=Tracked)
    callbacks_after: Sequence[Any] = ()  # those of `track` that Keras calls after the save, at this epoch's end


class Saver:
    """Saves what its owner has decided to save; ``caller`` names the owner in warnings."""

    def __init__(
        self,
        caller: str,
        repository: str | os.PathLike[str] | Repository | None,
        *,
        replace: bool = False,
        remote: Address | None = None,
        device_copy: str = "auto",
    ) -> None:
        self._caller = caller
        self._repository_argument = repository
        self._opened: Repository | None = None
        self._planner = Planner(device_copy)
        self._pipeline = Pipeline(replace=replace)
        self._sender = None if remote is None else Sender(caller, remote, lower_priority)
        self._prune_again: Callable[[], None] | None = None  # once the bucket has what retention left alone
        self._replaced = 0  # how many of the pipeline's were reported
        self._warned: set[str] = set()
        self.last_snapshot: Snapshot | None = None
        self.best_snapshot: Snapshot | None = None
        self.totals = Totals()

    @property
    def repository(self) -> Repository | None:
        """The repository, opened at the first use."""
        if self._opened is None and (argument := self._repository_argument) is not None:
            # An absolute path: the process may change its directory while a save is pending.
            self._opened = as_repository(argument if isinstance(argument, Repository) else os.path.abspath(argument))
        return self._opened

    def prepare(self, spec: SaveSpec, path: str) -> None:
        """Prepare the first save, so that it blocks training less."""
        if _fallback_reason(spec, path) is None:
            self._planner.prepare(spec.model)

    def save(
        self,
        spec: SaveSpec,
        settings: SaveSettings,
        facts: Facts,
        *,
        after_commit: Callable[[Commit], None],
        keep: Keep | None = None,
        on_commit: Callable[[Commit], None] | None = None,
    ) -> None:
        """Capture the model and queue its save.

        After the commit, the saving thread calls ``after_commit``, applies ``keep``, and calls ``on_commit``.
        """
        started = time.perf_counter()
        _check_path(spec, settings.path)
        facts.step = steps_done(spec.model)
        tensors = self._take_training(spec, facts)
        waits = time.perf_counter()
        self._pipeline.admit(self._planner.nbytes)
        facts.wait_seconds = time.perf_counter() - waits
        checkpoint = self._capture(spec, settings, tensors)
        facts.blocked_seconds = time.perf_counter() - started
        facts.capture_seconds = facts.blocked_seconds - facts.wait_seconds

        def committed(commit: Commit) -> None:
            self._record(commit)
            after_commit(commit)
            self._send(commit)
            self._apply_keep(keep, commit)
            if on_commit is not None:
                on_commit(commit)

        self._pipeline.submit(
            SaveJob(self.repository, settings, facts, checkpoint, committed, self._take_replaced(facts))
        )

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every save so far is committed or has failed; False if that takes longer."""
        if self._pipeline.runs_here:
            raise InvalidInputError("wait() inside on_commit would deadlock: call it from the training thread")
        return self._pipeline.wait(timeout)

    @property
    def failure(self) -> BaseException | None:
        """The error of a failed save that was not taken yet."""
        return self._pipeline.failure

    def take_failure(self) -> BaseException | None:
        """The error of a save that failed since the last call; waits for the saves behind it."""
        failure = self._pipeline.take_failure()
        if failure is not None:
            self._pipeline.wait()
        return failure

    def sent(self, deadline: float | None) -> bool:
        """Wait until the bucket has what is committed, or does not take it; False if that takes longer."""
        if self._sender is None:
            return True
        return self._sender.drain(None if deadline is None else max(deadline - time.monotonic(), 0.0))

    def finish_sending(self) -> None:
        """Training has ended: wait for the bucket, and say so if that takes a while, or what does not reach it."""
        if self._sender is None:
            return
        if not self._sender.drain(_QUIET_SECONDS):
            url = self._sender.address.url
            print_message(f"\nlamina: training has ended, and the last snapshots are on their way to {url}")
            self._sender.drain(None)
        if (left := self._sender.left()) is not None:
            print_message(f"\nlamina: {left}")
        elif self._prune_again is not None:
            self._prune_again()

    def end_sending(self, seconds: float) -> None:
        """The process ends: wait so long at most, and say what is left."""
        if self._sender is not None:
            self._sender.drain(seconds)
            if (left := self._sender.left()) is not None:
                queue_message(f"\nlamina: {left}")

    def close(self) -> None:
        """Training has ended: free threads and memory; a later save gets new ones."""
        self._pipeline.close()
        self._planner.release()

    def _take_training(self, spec: SaveSpec, facts: Facts) -> TrainingTensors:
        """Take the training state that Keras's files do not hold; only snapshots store it."""
        if self._repository_argument is None or spec.saved_model:
            return TrainingTensors()
        facts.training, tensors = training_state.take(spec.model, spec.track, spec.callbacks_after)
        facts.training["checkpoint"] = {name: training_state.packed(value) for name, value in facts.checkpoint.items()}
        return tensors

    def _capture(self, spec: SaveSpec, settings: SaveSettings, training: TrainingTensors) -> PendingCheckpoint:
        """Capture in memory what Keras would write; Keras itself writes a file if lamina cannot."""
        model, path, threads = spec.model, settings.path, settings.threads
        if spec.saved_model:
            return SavedModelFolder(model, path, beside=self._staging_folder(settings), options=spec.options)
        try:
            if (reason := _fallback_reason(spec, path)) is not None:
                raise FallbackToKeras(reason)
            return self._planner.capture(model, path, training, weights_only=spec.weights_only, threads=threads)
        except FallbackToKeras as refusal:
            self._warn_of_fallback(str(refusal))
        return KerasFile(
            model,
            path,
            weights_only=spec.weights_only,
            beside=self._staging_folder(settings),
            training=training,
            captured=self._planner.capture_values(training, threads),
        )

    def _warn_of_fallback(self, reason: str) -> None:
        if reason not in self._warned:
            self._warned.add(reason)
            warnings.warn(
                f"{self._caller} falls back to Keras's own save, which blocks training: {reason}", stacklevel=2
            )

    def _staging_folder(self, settings: SaveSettings) -> Path:
        if settings.keep_file and not is_remote(settings.path):
            return behind_links(Path(settings.path).absolute()).parent  # a link may point to another disk
        repository = self.repository
        return Path.cwd() if repository is None else repository.path

    def _take_replaced(self, facts: Facts) -> int:
        """Report and count the saves that were skipped since the last one."""
        count, self._replaced = self._pipeline.replaced - self._replaced, self._pipeline.replaced
        if count:
            facts.metadata["replaced"] = count
            skipped = units.count(count, "queued save")
            print_message(f"\n{self._caller}: skipped {skipped}, because saving is slower than the save interval")
        return count

    def _record(self, commit: Commit) -> None:
        if commit.snapshot is not None:
            self.last_snapshot = commit.snapshot
        if commit.best:
            self.best_snapshot = commit.snapshot
        self.totals.add(commit)

    def _send(self, commit: Commit) -> None:
        if self._sender is not None and commit.snapshot is not None and self.repository is not None:
            self._sender.submit(self.repository, commit.snapshot)

    def _apply_keep(self, keep: Keep | None, commit: Commit) -> None:
        if keep is None or commit.snapshot is None or self.repository is None:
            return
        self._prune_again = partial(self._prune, keep, commit.snapshot.series)
        self._prune(keep, commit.snapshot.series)

    def _prune(self, keep: Keep, series: str) -> None:
        assert self.repository is not None
        try:
            self.repository.prune(keep, series=series)
        except BusyError:
            pass  # another process is pruning; the next save prunes again
        except UnsupportedFormatError as error:  # no file locks there; saves work without them
            warnings.warn(f"keep= cannot delete old snapshots here: {error}", stacklevel=2)


def _check_path(spec: SaveSpec, path: str) -> None:
    if spec.saved_model:
        check_replaceable(path)
    elif os.path.isdir(path):
        raise IsADirectoryError(f"Is a directory: {path}")


def _fallback_reason(spec: SaveSpec, path: str) -> str | None:
    """Why only Keras can write this file; None if lamina can."""
    method = "save_weights" if spec.weights_only else "save"
    saves = getattr(spec.model, method, None)
    if getattr(saves, "__func__", saves) is not getattr(keras.Model, method):
        return f"the model overrides `{method}`"
    if is_remote(path):
        return "the path is remote"
    if not path.endswith(".weights.h5" if spec.weights_only else ".keras"):
        return "lamina does not write the legacy .h5 format"
    return None
