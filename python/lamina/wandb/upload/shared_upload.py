"""Uploading one version from several processes: each upserts its share; one finishes, checks and describes it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from lamina.errors import ArtifactError, InvalidInputError
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.wandb.description import Description, metadata_for_wandb
from lamina.wandb.manifest import FileEntry, carried, fill, known_entries
from lamina.wandb.server import reason
from lamina.wandb.upload.draft import new_draft, packs_upload
from lamina.wandb.upload.publisher import Publisher, Upload, publisher_of
from lamina.wandb.upload.writers import Plan, Writers


def log_shared(run: Any, what: Description, home: Repository, snapshot: Snapshot, writers: Writers) -> Any | None:
    """Upload a version together; every process must call it. On return the version is committed and checked.

    Returns:
        The artifact, in the process that finished it; None in the others.
    """
    if run is None or run.offline or run.disabled:
        _take_part(writers)
        return None
    try:
        publisher = publisher_of(run)
        publisher.drain(None)
        upload = packs_upload(run, new_draft(what), what, home, snapshot)
    except Exception:
        _take_part(writers)  # the others send everything
        raise
    try:
        return _agreed(publisher, upload, writers)
    finally:
        upload.release()


def _agreed(publisher: Publisher, upload: Upload, writers: Writers) -> Any | None:
    try:
        plan = writers.agree(_identity(publisher, upload), _newest(publisher, upload.record.what.name))
    except InvalidInputError:
        upload.record.remove()
        raise
    except ArtifactError as error:
        raise _kept(upload, str(error)) from error
    if plan.finishes:
        return _finish_with(publisher, upload, writers, plan)
    # The finishing process has a record of the whole version. A second record would be sent a second time.
    upload.record.remove(files=False)
    try:
        _contribute(publisher, upload, writers, plan)
    finally:
        upload.record.remove()
    return None


def _take_part(writers: Writers) -> None:
    """Take part in the collectives without a run: they need every process."""
    plan = writers.agree(None)
    for _ in range(2):
        if failed := writers.all_did(plan, True):
            raise _failed(failed)


def _contribute(publisher: Publisher, upload: Upload, writers: Writers, plan: Plan) -> None:
    _upsert(publisher, upload, writers, plan)
    if failed := writers.all_did(plan, True):
        raise _failed(failed)


def _finish_with(publisher: Publisher, upload: Upload, writers: Writers, plan: Plan) -> Any:
    error: Exception | None = None
    with publisher.sending(upload):
        entries = _upsert(publisher, upload, writers, plan)
        try:
            upload.artifact = _commit(publisher, upload, plan, entries)
        except Exception as failure:
            error = failure
        # The version is on the server, whether or not the others are told.
        with contextlib.suppress(ArtifactError):
            writers.all_did(plan, error is None)
        if error is not None:
            raise _kept(upload, reason(error)) from error
    return upload.artifact


def _upsert(publisher: Publisher, upload: Upload, writers: Writers, plan: Plan) -> list[FileEntry]:
    """Send this process's share. On return all processes have sent theirs."""
    unfinished, error = None, None
    entries: list[FileEntry] = []
    try:
        entries = _carry(publisher, upload, plan)
        if plan.finishes:
            upload.record = upload.record.sent_as(_digest_of(upload, entries), entries)
            upload.record.write()
        if share := plan.share(entries):
            unfinished = publisher.run.upsert_artifact(
                _filled(upload, share), aliases=["latest"], distributed_id=plan.distributed_id
            )
            unfinished.wait()
    except Exception as failure:
        error = failure
    try:
        failed = writers.all_did(plan, error is None)
    except ArtifactError as missing:
        raise _left(upload, plan, f"{missing}{_name_of(unfinished)}") from missing
    if error is not None:
        raise _left(upload, plan, reason(error)) from error
    if failed:
        raise _left(upload, plan, f"{_failed(failed)}{_name_of(unfinished)}")
    return entries


def _carry(publisher: Publisher, upload: Upload, plan: Plan) -> list[FileEntry]:
    """Mark the files that the base has. All processes use the same base and get the same result."""
    entries = list(upload.record.entries)
    if plan.base is None:
        return entries
    base = publisher.server.committed(upload.record.what.name, f"v{plan.base}")
    if base is None:
        raise ArtifactError(
            f"W&B no longer has the version {upload.record.what.name}:v{plan.base}, or did not answer; try again"
        )
    return carried(entries, known_entries(base))


def _commit(publisher: Publisher, upload: Upload, plan: Plan, entries: list[FileEntry]) -> Any:
    what = upload.record.what
    draft = _filled(upload, plan.rest(entries))
    finished = publisher.run.finish_artifact(draft, aliases=list(what.aliases), distributed_id=plan.distributed_id)
    finished.wait()
    _check(publisher, finished, entries)
    # wandb drops the tags of such versions, and it is not documented whose metadata it uses.
    finished.metadata = metadata_for_wandb(what.metadata)
    finished.description = what.description
    finished.tags = list(what.tags)
    if what.ttl is not None:
        finished.ttl = what.ttl
    finished.save()
    return finished


def _check(publisher: Publisher, finished: Any, entries: Iterable[FileEntry]) -> None:
    """Check that the server has every file, and delete the version if it does not."""
    name = f"{finished.name.split(':')[0]}:{finished.version}"
    there = publisher.server.artifact(publisher.server.qualified(name)).manifest.entries
    lost = [entry.path for entry in entries if not _is_there(entry, there.get(entry.path))]
    if lost:
        with contextlib.suppress(Exception):  # an incomplete version must not stay ``latest``
            finished.delete(delete_aliases=True)
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise ArtifactError(f"{name} arrived without {lost[0]}{more}; the version was deleted")


def _is_there(entry: FileEntry, other: Any) -> bool:
    return other is not None and (entry.digest, entry.size) == (other.digest, other.size)


def _filled(upload: Upload, entries: list[FileEntry]) -> Any:
    staging = upload.record.staging
    assert staging is not None
    draft = new_draft(upload.record.what)
    fill(draft, entries, staging.root)
    return draft


def _digest_of(upload: Upload, entries: list[FileEntry]) -> str:
    """The digest of the whole manifest, as one process would send it."""
    return str(_filled(upload, entries).digest)


def _identity(publisher: Publisher, upload: Upload) -> str:
    """What must be equal in all processes: the files, and where they go."""
    record, server = upload.record, publisher.server
    files = sorted((entry.path, entry.digest, entry.size) for entry in record.entries)
    return repr((server.base_url, server.entity, server.project, record.what.name, record.what.type, files))


def _newest(publisher: Publisher, name: str) -> int | None:
    found = publisher.server.committed(name, "latest")
    return None if found is None else int(found.version[1:])


def _failed(ranks: list[int]) -> ArtifactError:
    return ArtifactError(f"upload of the version failed in process {', '.join(map(str, ranks))}")


def _left(upload: Upload, plan: Plan, why: str) -> ArtifactError:
    return _kept(upload, why) if plan.finishes else ArtifactError(f"upload of the version failed: {why}")


def _kept(upload: Upload, why: str) -> ArtifactError:
    staging = upload.record.staging
    assert staging is not None
    name = upload.record.what.name
    return ArtifactError(f"upload of a version of {name} failed: {why}; retry with `lamina push {staging.root}`")


def _name_of(unfinished: Any) -> str:
    """The id of the unfinished version, which has no number, so that the user can find it on the server."""
    with contextlib.suppress(Exception):
        return f"; the unfinished version has the id {unfinished.id}"
    return ""
