"""`WandbModelCheckpoint`: each save also becomes a version of a W&B artifact, uploaded in the background."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import keras

from lamina.errors import ArtifactError, InvalidInputError, NotFoundError
from lamina.keras import arguments
from lamina.keras.arguments import Codec, DeviceCopy, Layout, Mode, OnBacklog, OnError
from lamina.keras.callbacks.active_run import active_run, mark_feature
from lamina.keras.callbacks.model_checkpoint import ModelCheckpoint
from lamina.keras.processes import is_first
from lamina.keras.remote import is_remote
from lamina.keras.saving.commit import Commit
from lamina.keras.schedule.direction import scalars
from lamina.repository.keep import Keep
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.writing import software

#: Logged of each checkpoint; the summary has the sums.
_STATS = ("blocked_seconds", "bytes_total", "bytes_stored")
#: Time for uploads after SIGTERM; `lamina push` can upload what is left.
EXIT_SECONDS = 5.0


class WandbModelCheckpoint(ModelCheckpoint):
    """`lamina.keras.ModelCheckpoint` that logs each save as a version of the artifact ``run_<id>_model``.

    A version has the aliases ``latest`` and ``epoch_N`` or ``epoch_N_batch_B`` (both count from 0). ``best`` moves to
    each version whose monitored value improved. A failure of W&B never ends training, unless ``on_error="raise"``.

    Examples:
        >>> import keras, numpy as np, wandb
        >>> from lamina.keras import WandbModelCheckpoint
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile(loss="mse")
        >>> x, y = np.zeros((8, 4)), np.zeros((8, 1))
        >>> with wandb.init(project="digits") as run:
        ...     checkpoint = WandbModelCheckpoint("best.keras", monitor="loss", layout="packs")
        ...     history = model.fit(x, y, epochs=2, verbose=0, callbacks=[checkpoint])

    Args:
        layout: ``"file"`` uploads the whole file each time, as wandb's own callback does. ``"packs"`` uploads only
            what changed, compressed, from the snapshots in ``repository`` (by default ``.lamina`` beside the files).
        name: name of the artifact collection; None takes ``run_<id>_model``.
        series: the series of the snapshots; None takes the name of the artifact collection.
        artifact: ``tags``, ``ttl``, ``description``, ``metadata``, ``type`` and more ``aliases`` of each version.
        on_error: what to do when W&B fails: ``"warn"`` once and call `run.alert`, or ``"raise"`` at the next hook.
        log_stats: also log the size and the blocked time of checkpoints to the history. Each row of the run gets the
            sums since the row before. They take no step of their own, so they never conflict with your ``step=``.
        options: as in `ModelCheckpoint`. It may also be passed before ``initial_value_threshold``, as wandb's
            documentation has it.

    The other arguments are those of `lamina.keras.ModelCheckpoint`. ``keep`` also applies to the versions on the
    server, but never deletes one with an alias that you set or a link. To change the artifacts, override
    `make_artifact` and `make_aliases`.

    Raises:
        InvalidInputError: if an argument is wrong.
        wandb.Error: if `wandb.init` was not called. Only the first process of a distributed training needs a run.
        ArtifactError: from a hook of `fit`, with ``on_error="raise"``, if an upload failed.
    """

    #: Seconds that the end of training waits at most until the run has accepted all versions.
    accept_seconds = 60.0

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: Mode = "auto",
        save_freq: str | int | timedelta = "epoch",
        initial_value_threshold: Any = None,
        *documented_threshold: float | None,
        layout: Layout = "file",
        name: str | None = None,
        artifact: Mapping[str, Any] | None = None,
        on_error: OnError = "warn",
        log_stats: bool = False,
        options: Any = None,
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
        **unknown: Any,
    ) -> None:
        options, threshold = _options_and_threshold(initial_value_threshold, documented_threshold, options)
        run = active_run("WandbModelCheckpoint", required=is_first())
        from lamina.wandb import description

        self.layout = description.layout_or_error(layout)
        self.name = name
        self.artifact = description.artifact_options(artifact)
        self.on_error = arguments.choice("on_error", on_error, get_args(OnError))
        self.log_stats = arguments.flag("log_stats", log_stats)
        if self.layout == "packs" and repository is None:
            repository = default_repository(os.fspath(filepath)).absolute()
        super().__init__(
            filepath,
            monitor,
            verbose,
            save_best_only,
            save_weights_only,
            mode,
            save_freq,
            threshold,
            repository=repository,
            remote=remote,
            codec=codec,
            keep=keep,
            keep_file=keep_file,
            on_backlog=on_backlog,
            blocking=blocking,
            series=series,
            resume=resume,
            track=track,
            save_on_preempt=save_on_preempt,
            device_copy=device_copy,
            threads=threads,
            on_commit=on_commit,
            options=options,
            **unknown,
        )
        self._run: Any = run
        self._failures: list[ArtifactError] = []
        self._alerted = False
        self._stats: list[dict[str, float]] = []  # not logged yet
        self._row: dict[str, float] = {}  # logged in the row of step `_logged_at`
        self._logged_at: int | None = None
        if run is not None:
            self._check_artifact()
            mark_feature(run, "keras_model_checkpoint")
        elif self.resume and name is None:
            raise InvalidInputError("resume=True in a process without a W&B run needs `name`: the series to continue")

    def _check_keep(self) -> None:
        """``keep`` applies to the versions on the server, so it needs no repository."""

    def _check_artifact(self) -> None:
        """Let wandb refuse wrong arguments now, not at the first save."""
        from lamina.wandb.upload.draft import new_draft

        new_draft(self._describe({}))

    @property
    def is_old_tf_keras_version(self) -> bool:
        """An attribute of wandb's own callback; always False with Keras 3."""
        return False

    # Hooks for subclasses.

    def make_artifact(self, commit: Commit) -> Any:
        """Make the `wandb.Artifact` of a save; lamina then adds the checkpoint's files.

        Override this method to change what ``super().make_artifact(commit)`` returns: add files, metadata or a
        description. Return None to skip the upload of this save. It is called on the saving thread.
        """
        from lamina.wandb.upload.draft import new_draft

        return new_draft(self._describe(self._metadata(commit)))

    def make_aliases(self, commit: Commit) -> list[str]:
        """The aliases of the version of a save."""
        from lamina.wandb import description

        usual = description.aliases_of(commit.epoch, commit.batch, best=commit.best)
        return list(dict.fromkeys([*usual, *self.artifact.get("aliases", ())]))

    # Hooks of Keras.

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        import wandb

        run = wandb.run or self._run
        if run is not self._run:
            self._run, self._alerted, self._logged_at = run, False, None
        if self._uploads():
            from lamina.wandb.upload.publisher import publisher_of

            publisher_of(self._run).before_end(self._finish_saves)
            if self.log_stats:  # the summary has its own sums
                for name in _STATS:
                    self._run.define_metric(f"checkpoint/{name}", summary="none")
        super().on_train_begin(logs)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._flush_reports()
        super().on_train_batch_begin(batch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._flush_reports()
        super().on_epoch_end(epoch, logs)

    # Hooks of `ModelCheckpoint`.

    def _resume_from(self) -> Snapshot | None:
        """The newest snapshot in the repository or, on a new machine, the newest version on the server."""
        found = super()._resume_from()
        if found is not None or self.layout != "packs" or not self._uploads() or self._run.offline:
            return found
        from lamina import wandb
        from lamina.wandb.upload.publisher import publisher_of

        try:
            newest = publisher_of(self._run).server.artifact(f"{self._qualified_name()}:latest")
        except NotFoundError:
            return None
        return wandb.pull(newest, self._repository)

    def _qualified_name(self) -> str:
        from lamina.wandb.upload.publisher import publisher_of

        return publisher_of(self._run).server.qualified(self._collection_name())

    def _series_name(self) -> str:
        return self.series or self._collection_name()

    def _marks_best(self) -> bool:
        return self._uploads() or super()._marks_best()

    def _run_id(self) -> str | None:
        return None if self._run is None else self._run.id

    def _committed(self, commit: Commit) -> None:
        """On the saving thread: stage the version's files. Another thread uploads them."""
        if not self._uploads():
            return
        try:
            self._publish(commit)
        except Exception as error:
            self._report_failure(
                ArtifactError(f"could not queue the checkpoint of epoch {commit.epoch} for upload: {error}")
            )
        self._note_stats(commit)

    def _summary(self) -> str:
        return super()._summary() + (self._saver.totals.as_packs() if self.layout == "file" else "")

    def _uploaded(self, deadline: float | None) -> bool:
        sent = super()._uploaded(deadline)
        if not self._uploads():
            return sent
        from lamina.wandb.upload.publisher import publisher_of

        publisher = publisher_of(self._run)
        done = all(wait(_remaining(deadline)) for wait in (publisher.drain, publisher.settle))
        self._flush_reports()
        return done and sent

    def _finish(self) -> None:
        super()._finish()
        if not self._uploads():
            return
        from lamina.wandb.upload.publisher import publisher_of

        publisher = publisher_of(self._run)
        if not publisher.drain(self.accept_seconds):
            where = self._repository.path if self.layout == "packs" and self.last_snapshot else "the run"
            self._report_failure(
                ArtifactError(f"W&B has not confirmed all uploads yet. If some stay missing, run: lamina push {where}")
            )
        self._flush_reports()

    def _finish_saves(self, limit: float) -> None:
        """The run ends. If `fit` ended with an exception, saves may still be pending."""
        self._saver.wait(limit)
        self._flush_reports()

    def _before_exit(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        if self._uploads():
            from lamina.wandb.upload.publisher import publisher_of

            publisher_of(self._run).drain(min(EXIT_SECONDS, seconds))
        super()._before_exit(max(deadline - time.monotonic(), 0.0))

    # Upload.

    def _uploads(self) -> bool:
        """Whether there is a run to upload to; only the first process of a distributed training uploads."""
        return self._run is not None and not self._run.disabled and is_first()

    def _publish(self, commit: Commit) -> None:
        from lamina.wandb import description
        from lamina.wandb.upload.draft import file_upload, packs_upload
        from lamina.wandb.upload.publisher import publisher_of

        draft = self.make_artifact(commit)
        if draft is None:
            return
        what = description.Description(
            draft.name,
            draft.type,
            tuple(self.make_aliases(commit)),
            dict(draft.metadata),
            draft.description,
            tuple(self.artifact.get("tags", ())),
            self.artifact.get("ttl"),
        )
        if self.layout == "packs" and commit.snapshot is not None:
            upload = packs_upload(self._run, draft, what, self._repository, commit.snapshot)
        else:
            upload = file_upload(self._run, draft, what, self._file_name(commit), _copy_to(commit))
        upload.judged = "best" not in self.artifact.get("aliases", ())
        upload.on_trouble = self._report_failure
        upload.on_committed = self._after_upload
        publisher_of(self._run).submit(upload)

    def _after_upload(self, artifact: Any) -> None:
        """On the upload thread, after the server has committed a version."""
        if self.keep is not None:
            from lamina.wandb.upload.publisher import publisher_of
            from lamina.wandb.upload.retention import apply

            apply(self.keep, artifact, publisher_of(self._run))

    def _file_name(self, commit: Commit) -> str:
        return os.path.basename(self.filepath if commit.path is None else commit.path)

    def _collection_name(self) -> str:
        from lamina.wandb import description

        if self.name is None and self._run is None:  # a further process, which uploads nothing
            return super()._series_name()
        return self.name or description.default_name(self._run)

    def _describe(self, metadata: Mapping[str, Any]) -> Any:
        from lamina.wandb import description

        return description.Description(
            self._collection_name(),
            self.artifact.get("type", "model"),
            metadata={**metadata, **self.artifact.get("metadata", {})},
            description=self.artifact.get("description"),
            ttl=self.artifact.get("ttl"),
        )

    def _metadata(self, commit: Commit) -> dict[str, Any]:
        names = ("epoch", "batch", "step", "monitor", "mode", "value", "best", "blocked_seconds")
        metadata = {name: getattr(commit, name) for name in names}
        metadata["logs"] = scalars(commit.logs)
        metadata |= {"bytes_total": commit.bytes, "layout": self.layout, "software": software()}
        if commit.snapshot is not None:
            snapshot = commit.snapshot
            metadata |= {"snapshot": snapshot.id, "series": snapshot.series, "kind": snapshot.kind}
            metadata |= {"bytes_new": snapshot.bytes_new, "bytes_stored": snapshot.bytes_stored}
            metadata |= snapshot.metadata
        return metadata

    # Statistics and failures.

    def _note_stats(self, commit: Commit) -> None:
        stats = {"blocked_seconds": commit.blocked_seconds, "bytes_total": commit.bytes}
        if commit.snapshot is not None:
            stats["bytes_stored"] = commit.snapshot.bytes_stored
        if self.log_stats:
            self._stats.append(stats)
        from lamina.wandb.upload import totals

        with contextlib.suppress(Exception):  # a run that has ended
            totals.add(self._run, {"versions": 1, "bytes_stored": 0} | stats)

    def _flush_reports(self) -> None:
        """On the training thread, which keeps the order of the rows: log statistics, and raise a failure."""
        with contextlib.suppress(Exception):
            if self._stats:
                self._log_stats()
        if self.on_error == "raise" and self._failures:
            failures, self._failures = self._failures, []
            raise failures[0]

    def _log_stats(self) -> None:
        """Add to the current row of the run: a step of our own would shift the user's steps."""
        if self._run.step != self._logged_at:
            self._logged_at, self._row = self._run.step, {}
        waiting, self._stats = self._stats, []
        for stats in waiting:
            for name, value in stats.items():
                self._row[f"checkpoint/{name}"] = self._row.get(f"checkpoint/{name}", 0) + value
        self._run.log(dict(self._row), commit=False)

    def _report_failure(self, error: Exception) -> None:
        """Called on any thread when W&B fails; training continues."""
        self._failures.append(error if isinstance(error, ArtifactError) else ArtifactError(str(error)))
        if self._alerted or self.on_error == "raise":
            return
        self._alerted = True
        with contextlib.suppress(Exception):  # the run may have ended
            self._run.alert("Checkpoint not uploaded", str(error), level="WARN")
        with contextlib.suppress(Exception):
            warnings.warn(f"{error}; training continues", stacklevel=2)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return state | {"_run": None, "_failures": [], "_stats": [], "_row": {}, "_logged_at": None}


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)


def default_repository(filepath: str) -> Path:
    """``.lamina`` in the deepest folder of the path that has no placeholder."""
    if is_remote(filepath):
        raise InvalidInputError(
            "layout='packs' needs a repository on this machine, but filepath is remote: pass repository=DIRECTORY. "
            f"Received: {filepath!r}"
        )
    folder = Path()
    for part in Path(filepath).parent.parts:
        if "{" in part:
            break
        folder /= part
    return folder / ".lamina"


def _copy_to(commit: Commit) -> Any:
    """A function that copies the plain file, so that no later save changes the copy."""
    from lamina.fetching.copies import reflink

    def write(target: Path) -> None:
        if not isinstance(commit.path, Path) or not reflink(commit.path, target):
            commit.copy_to(target)

    return write


def _options_and_threshold(eighth: Any, ninth: tuple[Any, ...], options: Any) -> tuple[Any, float | None]:
    """(options, threshold), which may be passed in either order."""
    if len(ninth) > 1:
        raise TypeError(f"WandbModelCheckpoint takes 9 positional arguments at most. Received: {8 + len(ninth)}")
    if ninth:
        return eighth if options is None else options, ninth[0]
    if eighth is None or isinstance(eighth, (int, float)) or hasattr(eighth, "__float__"):
        return options, eighth
    return eighth, None
