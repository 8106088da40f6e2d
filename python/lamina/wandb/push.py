"""`push`: upload what did not reach W&B, from this machine or from another one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import wandb

from lamina import _core, sources
from lamina.errors import ArtifactError, InvalidInputError, NotFoundError
from lamina.files.listing import source_files
from lamina.repository import repository
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.schemes import local_path
from lamina.units import count
from lamina.wandb.description import Description, aliases_or_error, layout_or_error
from lamina.wandb.log_checkpoint import FILE_LAYOUT, log_checkpoint
from lamina.wandb.manifest import refer
from lamina.wandb.server import Server, full_name, reason
from lamina.wandb.upload import alias_order
from lamina.wandb.upload.draft import new_draft, packs_upload
from lamina.wandb.upload.find import find
from lamina.wandb.upload.journal import Record, records
from lamina.wandb.upload.publisher import Upload, publisher_of
from lamina.wandb.upload.staging import Staging

#: The server may take a moment to show what it has committed.
QUESTIONS = 4
#: The word in wandb's output for a log that it cannot read to the end.
_CUT_OFF = "transactionlog"


def push(
    source: str | os.PathLike[str] | Repository | Snapshot,
    *,
    entity: str | None = None,
    project: str | None = None,
    name: str | None = None,
    **options: Any,
) -> list[str]:
    """Upload the pending versions of a run or a repository, or log a checkpoint as a new version.

    Args:
        source: the directory of a run (an offline run is synced whole); a repository (its pending uploads are sent); or
            a checkpoint file, ``DIR@ALIAS`` or a snapshot (logged in a new run).
        entity: W&B entity; default: the one the run was meant for, or the user's default.
        project: W&B project; default: likewise.
        name: for a file or a snapshot: the collection.
        options: for a file or a snapshot: further arguments of `log_checkpoint`.

    Examples:
        >>> import keras, lamina, wandb
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> snapshot = lamina.save(model, "runs/a")
        >>> lamina.wandb.push(snapshot, project="digits", name="digits")  # doctest: +ELLIPSIS
        ['.../digits/digits:v0']

    Returns:
        Full names of the versions that are now on the server, ``entity/project/name:vN``.

    Raises:
        InvalidInputError: if ``source`` is none of these.
        ArtifactError: if a file is missing or damaged (then nothing was sent), or an upload failed.
        CorruptDataError: if a snapshot is damaged; nothing was sent.
    """
    if isinstance(source, Snapshot):
        return [_log(source, entity, project, name, options)]
    if isinstance(source, Repository):
        source = source.path
    path = local_path(source, "a path, a repository or a snapshot")
    if os.path.isdir(path) and list(path.glob("run-*.wandb")):
        return _push_run(path, entity, project)
    if os.path.isdir(path) and (runs := sorted(run.parent for run in path.glob("*run-*/run-*.wandb"))):
        raise InvalidInputError(f"{path} contains run directories; push one of them, for example {runs[-1]}")
    if repository.stands_in(path):
        return _resend(Staging.of_repository(repository.open(path)), entity, project)
    if os.path.isfile(path):
        source_files(path)  # raises an error if an index names a file that it may not name
        return [_log(path, entity, project, name, options)]
    snapshot = sources.resolve(os.fspath(source)).snapshot
    return [_log(snapshot, entity, project, name, options)]


def _log(source: Any, entity: str | None, project: str | None, name: str | None, options: dict[str, Any]) -> str:
    _check_what_is_logged(source, name, options)
    with (
        tempfile.TemporaryDirectory(prefix="lamina-push-", ignore_cleanup_errors=True) as folder,
        _run(entity=entity, project=project, job_type="lamina-push") as run,
    ):
        if not isinstance(source, Snapshot):  # not into a repository beside the file, which belongs to the user
            options = {"repository": Path(folder) / "repository"} | options
        return _arrived(log_checkpoint(source, run=run, name=name, **options))


def _check_what_is_logged(source: Any, name: str | None, options: dict[str, Any]) -> None:
    """Refuse what cannot be logged, before a run is created that would stay empty."""
    new_draft(Description(name or "model", options.get("type", "model")))
    aliases_or_error(options.get("aliases", ()))
    layout = layout_or_error(options.get("layout", "packs"))
    if isinstance(source, Snapshot):
        if source._repository is None:
            raise InvalidInputError("push takes the directory of a run, a repository, DIR@ALIAS or a checkpoint file")
        if layout == "file":
            raise InvalidInputError(FILE_LAYOUT)
        source._opened().verify(int(source._body["state"]["length"]))  # do not upload damaged data


def _arrived(artifact: Any) -> str:
    try:
        return full_name(artifact.wait())
    except Exception as error:
        raise ArtifactError(f"upload of {artifact.name} failed: {reason(error)}") from error


@contextlib.contextmanager
def _run(**arguments: Any) -> Iterator[Any]:
    """A new run, also beside an active one; its directory is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="lamina-push-", ignore_cleanup_errors=True) as folder:
        try:
            run = wandb.init(reinit="create_new", mode="online", dir=folder, **arguments)
        except Exception as error:
            raise ArtifactError(f"cannot start a W&B run: {reason(error)}") from error
        try:
            yield run
        except Exception:
            run.finish(exit_code=1)
            raise
        # Not after Ctrl-C: wandb would first finish all uploads. The run ends with the process.
        run.finish()


# Pending uploads of a journal.


def _resend(staging: Staging, entity: str | None, project: str | None) -> list[str]:
    waiting = _claimed(staging)
    try:
        for number, upload in enumerate(waiting):
            waiting[number] = _completed(upload, staging)
        _check([upload.record for upload in waiting])
        return _sent(waiting, entity, project)
    finally:
        for upload in waiting:
            upload.release()


def _claimed(staging: Staging) -> list[Upload]:
    """Claim the pending uploads, without those that another live process (a training, another push) is sending."""
    free, busy = [], 0
    for record in records(staging):
        claim = staging.claim(record.key)
        if claim is None:
            busy += 1
        elif record.waits:
            free.append(Upload(None, record, claim=claim))
        else:  # another process has just sent it
            staging.remove(record.key)
    if busy:
        warnings.warn(f"skipped {count(busy, 'version')} in {staging.root}: another process is sending", stacklevel=5)
    return free


def _sent(waiting: list[Upload], entity: str | None, project: str | None) -> list[str]:
    sent: list[str] = []
    watcher = _core.watcher() or _core.Progress()
    watcher.begin("sending", sum(_here(upload.record) for upload in waiting))
    with _Runs() as runs:
        for upload in waiting:
            record = upload.record
            server = Server(entity or record.run["entity"], project or record.run["project"])
            found = find(server, record) if record.digest else None
            sent.append(_again(upload, server, runs) if found is None else full_name(found))
            record.remove()
            watcher.advance(_here(record))
    return sent


class _Runs(contextlib.ExitStack):
    """The runs of the pending versions, each resumed once."""

    def __init__(self) -> None:
        super().__init__()
        self._open: dict[tuple[Any, ...], Any] = {}

    def of(self, record: Record, server: Server) -> Any:
        """The run that logged the version; it may be the active one."""
        run, name = wandb.run, record.run["id"]
        if run is not None and not (run.offline or run.disabled) and (run.id, run.project) == (name, server.project):
            return run
        key = (server.entity, server.project, name)
        if key not in self._open:
            again = _run(entity=server.entity, project=server.project, id=name, resume="allow")
            self._open[key] = self.enter_context(again)
        return self._open[key]


def _again(upload: Upload, server: Server, runs: _Runs) -> str:
    record = upload.record
    held = alias_order.held_by_others(server, record.what)
    what = alias_order.without(record.what, held)
    draft = new_draft(what)
    refer(draft, record.references)
    publisher = publisher_of(runs.of(record, server))
    name = _arrived(publisher.log_now(replace(upload, artifact=draft, record=replace(record, what=what))))
    publisher.settle(QUESTIONS)
    alias_order.put_back(server, what, held)
    return name


def _here(record: Record) -> int:
    """Bytes of the staged files, including those that the server may already have."""
    return sum(entry.size for entry in record.entries if entry.at is not None)


def _completed(upload: Upload, staging: Staging) -> Upload:
    """Stage what the process that wrote the record could not stage any more."""
    record = upload.record
    if record.complete:
        return upload
    home = repository.open(staging.root)
    found = [snapshot for snapshot in home.snapshots() if snapshot.id in record.snapshots]
    if not found:
        raise NotFoundError(f"{staging.root} no longer has the snapshot {record.snapshots[0]} of an unfinished upload")
    again = packs_upload(_Facts(record), new_draft(record.what), record.what, home, found[0])
    upload.release()
    record.remove()
    return again


class _Facts:
    """The run of a record, as far as `packs_upload` needs one."""

    def __init__(self, record: Record) -> None:
        self.id, self.entity, self.project = (record.run[key] for key in ("id", "entity", "project"))
        self.offline = False
        self.dir = "files"


def _check(waiting: list[Record]) -> None:
    missing = [path for record in waiting for path in record.missing()]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ArtifactError(f"nothing was sent: a file is missing or damaged: {missing[0]}{more}")


# The directory of a run.


def _push_run(folder: Path, entity: str | None, project: str | None) -> list[str]:
    staging = Staging(folder.resolve(), folder.resolve() / "lamina")
    waiting = list(records(staging))
    if waiting and not waiting[0].run["offline"]:
        return _resend(staging, entity, project)
    if not waiting and _is_there(staging.root) and not (entity or project):
        return []  # sent again, its versions would take aliases back from newer ones
    _check(waiting)
    _sync(staging.root, bool(waiting), entity, project)
    try:
        return _settled(staging, waiting, entity, project)
    except BaseException:
        _mark(staging.root, synced=False)
        raise


def _settled(staging: Staging, waiting: list[Record], entity: str | None, project: str | None) -> list[str]:
    """After a sync: send the versions that did not arrive with it."""
    names = {key: full_name(version) for key, version in _find(waiting, entity, project).items()}
    for record in waiting:
        if record.key in names:
            record.remove(files=False)  # the run's log still names them
    # The log lacks a version if the run was killed, and names old paths if its directory was moved.
    names |= _resend_offline(staging, entity, project)
    _mark(staging.root, synced=not list(records(staging)))
    return [names[record.key] for record in waiting if record.key in names]


def _resend_offline(staging: Staging, entity: str | None, project: str | None) -> dict[str, str]:
    """Send the remaining versions from their records; returns key → name."""
    waiting = _claimed(staging)
    try:
        return dict(zip([each.record.key for each in waiting], _sent(waiting, entity, project), strict=True))
    finally:
        for upload in waiting:
            upload.release()


def _mark(root: Path, *, synced: bool) -> None:
    """Mark a run as synced or not; `wandb sync` skips synced runs."""
    for log in root.glob("run-*.wandb"):
        marker = log.with_suffix(".wandb.synced")
        marker.touch() if synced else marker.unlink(missing_ok=True)


def _is_there(root: Path) -> bool:
    """Whether the server has the run: it was online, or wandb has marked it as synced."""
    return root.name.startswith("run-") or any(root.glob("*.wandb.synced"))


def _sync(root: Path, has_records: bool, entity: str | None, project: str | None) -> None:
    """Run `wandb sync`. A log that ends early is accepted if there are records, which hold all versions."""
    options = [*(["--entity", entity] if entity else []), *(["--project", project] if project else [])]
    command = [sys.executable, "-m", "wandb", "sync", "--include-synced", "--include-online", *options, str(root)]
    environment = {**os.environ, "WANDB_MODE": "online", "WANDB_SILENT": "false"}
    environment.pop("WANDB_SERVICE", None)
    _mark(root, synced=False)
    # Some releases leave files in the working directory.
    done = subprocess.run(command, cwd=root.parent.parent, env=environment, capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode == 0 and list(root.glob("*.wandb.synced")):  # without a network it exits with 0, too
        return
    if not (has_records and _CUT_OFF in said):
        raise ArtifactError(f"wandb sync failed: {_complaint(said)}")
    warnings.warn(
        f"wandb's log of the run {root.name} ends early (the run was probably killed): rows of the history may be "
        "missing. The versions are sent from their records",
        stacklevel=4,
    )


def _complaint(output: str) -> str:
    """The line of wandb's output with the error, if there is one."""
    lines = [line.removeprefix("wandb: ").removeprefix("ERROR ") for line in output.strip().splitlines()]
    return ([line for line in lines if "error" in line.lower()] or lines or ["no output"])[-1]


def _find(waiting: list[Record], entity: str | None, project: str | None) -> dict[str, Any]:
    """The versions that the server has now, by the keys of their records."""
    found: dict[str, Any] = {}
    for number in range(QUESTIONS):
        if number:
            time.sleep(1)
        for record in waiting:
            if record.digest is not None and record.key not in found:
                server = Server(entity or record.run["entity"], project or record.run["project"])
                version = find(server, record)
                if version is not None:
                    found[record.key] = version
        if len(found) == len(waiting):
            break
    return found
