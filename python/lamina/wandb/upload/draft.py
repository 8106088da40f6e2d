"""From a saved state to an upload that a publisher can log."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import wandb

from lamina import _core
from lamina.errors import InvalidInputError
from lamina.fetching.copies import own_copy
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.wandb.description import Description, metadata_for_wandb, stamped
from lamina.wandb.manifest import FileEntry, measured, references_of
from lamina.wandb.upload.journal import Record
from lamina.wandb.upload.publisher import Upload
from lamina.wandb.upload.staging import Staging

_numbers = itertools.count(time.time_ns())
#: Repository → MD5 digests of its packs by path in the artifact; packs never change.
_digests: dict[tuple[str, str], dict[str, str]] = {}


def new_draft(what: Description) -> Any:
    """An artifact without files.

    Raises:
        InvalidInputError: if W&B does not allow one of the names or values.
    """
    metadata = metadata_for_wandb(what.metadata)
    try:
        draft = wandb.Artifact(what.name, what.type, description=what.description, metadata=metadata)
        if what.ttl is not None:
            draft.ttl = what.ttl
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"W&B does not allow this artifact: {error}") from error
    return draft


def file_upload(run: Any, draft: Any, what: Description, name: str, write: Callable[[Path], None]) -> Upload:
    """The upload of a version with ``layout="file"``; ``write`` creates the plain file at a path."""
    staging, key = Staging.of_run(run), _new_key()
    with _claimed(run, staging, key) as claim:
        what = _stamp(draft, what, {"at": datetime.now(timezone.utc).isoformat(timespec="milliseconds")})
        return _upload(run, draft, what, staging, key, claim, staging.stage_file(key, name, write), ())


def packs_upload(run: Any, draft: Any, what: Description, repository: Repository, snapshot: Snapshot) -> Upload:
    """The upload of a version with ``layout="packs"``; of an offline run, with copies or links of the packs."""
    staging = Staging.of_run(run) if run.offline else Staging.of_repository(repository)
    key = _new_key()
    saved = {"repository": repository._core.id, "number": snapshot.number, "at": snapshot.created_at}
    what = _stamp(draft, what, saved)
    listed = repository._core.packs_of(snapshot._core)
    packs = tuple(FileEntry(f"packs/{name}.pack", "", size) for name, size in listed)
    with _claimed(run, staging, key) as claim:
        # First of all: from here on retention keeps the snapshot and its packs.
        if not run.offline:
            Record(key, _run_facts(run), what, packs, (snapshot.id,), staging=staging).write()
        known = _digests.setdefault((str(staging.root), repository._core.id), {})
        entries = staging.stage_packs(key, repository, snapshot, known)
        return _upload(run, draft, what, staging, key, claim, entries, (snapshot.id,))


@contextlib.contextmanager
def _claimed(run: Any, staging: Staging, key: str) -> Iterator[_core.Claim | None]:
    """Claim a version, and release the claim on an error; not needed offline, where only `push` sends."""
    claim = None if run.offline else staging.claim(key)
    try:
        yield claim
    except BaseException:
        if claim is not None:
            claim.release()
        raise


def _stamp(draft: Any, what: Description, saved: dict[str, Any]) -> Description:
    """Give the record the metadata as W&B stores it: the record could not hold some of the user's own values."""
    what = stamped(what, saved)
    draft.metadata = metadata_for_wandb(what.metadata)
    return replace(what, metadata=dict(draft.metadata))


def _upload(
    run: Any,
    draft: Any,
    what: Description,
    staging: Staging,
    key: str,
    claim: _core.Claim | None,
    entries: list[FileEntry],
    snapshots: tuple[str, ...],
) -> Upload:
    everything = (*entries, *_own_entries(draft, staging, key))
    facts, links = _run_facts(run), references_of(draft)
    record = Record(key, facts, what, everything, snapshots, links, next(_numbers), None, staging)
    record.write()
    return Upload(draft, record, claim=claim)


def _own_entries(draft: Any, staging: Staging, key: str) -> list[FileEntry]:
    """Stage files that the user added to the draft, so that a second attempt can send them too."""
    files = []
    for number, (path, entry) in enumerate(list(draft.manifest.entries.items())):
        if entry.ref is not None:
            continue
        if not entry.local_path or str(path) in ("lamina.json", "lamina.placement"):
            raise InvalidInputError(
                f"the artifact's file {str(path)!r} cannot be uploaded with a checkpoint: it needs a local file, and a "
                "name other than lamina.json and lamina.placement"
            )
        target = staging.new_folder(key) / f"own-{number}"
        own_copy(Path(entry.local_path), target)
        files.append((str(path), target))
        draft.manifest.remove_entry(entry)
    return measured(files, staging.root)


def _new_key() -> str:
    return os.urandom(16).hex()


def _run_facts(run: Any) -> dict[str, Any]:
    return {"id": run.id, "entity": run.entity or None, "project": run.project, "offline": bool(run.offline)}
