"""What tests see of the server's memory: copies, so nothing here changes it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import timedelta
from threading import RLock
from typing import Any

from .artifacts import Policy, blob_key
from .model import Artifact, Collection, Membership, Run
from .schema import run_file_key
from .state import ENTITY, State
from .storage import Storage


@dataclass(frozen=True)
class EntryView:
    path: str
    digest: str  # base64, as in manifests
    size: int
    birth_artifact_id: str | None = None
    ref: str | None = None
    local_path: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ArtifactView:
    id: str
    name: str
    version: str | None  # None until it is committed
    type: str
    state: str
    digest: str
    aliases: list[str]
    tags: list[str]
    metadata: dict[str, Any]
    description: str | None
    ttl: timedelta | None
    ttl_inherited: bool
    entries: dict[str, EntryView]
    created_by: str | None  # run id
    used_by: list[str]
    history_step: int | None


@dataclass(frozen=True)
class RunView:
    id: str
    project: str
    entity: str
    name: str
    state: str
    exit_code: int | None
    config: dict[str, Any]
    tags: list[str]
    group: str | None
    sweep: str | None
    files: dict[str, int]


class Store:
    """Typed, read-only access to runs, artifacts and files."""

    def __init__(self, state: State, storage: Storage, policy: Policy, lock: RLock) -> None:
        self.policy = policy  # may be changed at any time
        self._state = state
        self._storage = storage
        self._lock = lock

    @property
    def runs(self) -> list[RunView]:
        with self._lock:
            return [_run_view(run) for run in self._state.runs.values()]

    def run(self, run_id: str) -> RunView:
        with self._lock:
            return _run_view(self._run(run_id))

    def _run(self, run_id: str) -> Run:
        found = [run for run in self._state.runs.values() if run.name == run_id]
        if len(found) != 1:
            raise LookupError(f"Expected one run {run_id!r}. Received: {len(found)}")
        return found[0]

    def history(self, run_id: str) -> list[dict[str, Any]]:
        with self._lock:
            return [json.loads(line) for line in self._run(run_id).history if line]

    def events(self, run_id: str) -> list[dict[str, Any]]:
        with self._lock:
            return [json.loads(line) for line in self._run(run_id).events if line]

    def summary(self, run_id: str) -> dict[str, Any]:
        with self._lock:
            return dict(self._run(run_id).summary)

    def output(self, run_id: str) -> list[str]:
        with self._lock:
            return list(self._run(run_id).output)

    def run_file(self, run_id: str, name: str) -> bytes:
        with self._lock:
            return self._storage.read(run_file_key(self._run(run_id), name))

    def artifact(self, name: str) -> ArtifactView:
        """A committed version, by "[[entity/]project/]collection:alias"."""
        path, _, alias = name.partition(":")
        with self._lock:
            collection = self._collection(path)
            member = collection.find(alias or "latest")
            if member is None:
                raise LookupError(f"no version {name!r}")
            return self._view(self._state.artifacts[member.artifact_id], collection, member)

    def artifacts(self, collection: str) -> list[ArtifactView]:
        """The committed versions of a collection, oldest first."""
        with self._lock:
            found = self._collection(collection)
            return [self._view(self._state.artifacts[member.artifact_id], found, member) for member in found.members]

    def pending(self, collection: str) -> list[ArtifactView]:
        """The versions of a collection that were begun and not committed."""
        with self._lock:
            found = self._collection(collection)
            artifacts = self._state.artifacts.values()
            return [
                self._view(item, found, None)
                for item in artifacts
                if item.collection is found and item.state == "PENDING"
            ]

    @property
    def collections(self) -> list[str]:
        with self._lock:
            return ["/".join(key) for key in self._state.collections]

    def _collection(self, path: str) -> Collection:
        parts = path.split("/")
        found = [
            collection
            for collection in self._state.collections.values()
            if list(collection.key)[-len(parts) :] == parts
        ]
        if len(found) != 1:
            raise LookupError(f"Expected one collection {path!r}. Received: {len(found)}")
        return found[0]

    def _view(self, artifact: Artifact, collection: Collection, member: Membership | None) -> ArtifactView:
        version = f"v{member.version_index}" if member else None
        return ArtifactView(
            id=artifact.id,
            name=f"{collection.name}:{version}" if version else collection.name,
            version=version,
            type=collection.type_name,
            state=artifact.state,
            digest=artifact.digest,
            aliases=collection.aliases_of(artifact.id),
            tags=list(artifact.tags),
            metadata=json.loads(artifact.metadata or "{}") or {},
            description=artifact.description,
            ttl=timedelta(seconds=artifact.ttl_seconds) if artifact.ttl_seconds else None,
            ttl_inherited=artifact.ttl_inherited,
            entries={path: _entry_view(path, entry) for path, entry in artifact.contents.items()},
            created_by=artifact.run.name if artifact.run else None,
            used_by=[run.name for run in artifact.used_by],
            history_step=artifact.history_step,
        )

    def file_bytes(self, artifact: str, path: str) -> bytes:
        """A file as it is stored, by the artifact's "collection:alias" and its path in there."""
        entry = self.artifact(artifact).entries[path]
        assert entry.birth_artifact_id is not None, f"{path} is a reference"
        return self._storage.read(blob_key(entry.birth_artifact_id, entry.digest))

    def stored_files(self) -> list[str]:
        """The addresses of all artifact files in the bucket."""
        return sorted(self._storage.keys("artifacts"))


def _run_view(run: Run) -> RunView:
    config = {key: value.get("value") if isinstance(value, dict) else value for key, value in run.config.items()}
    config.pop("_wandb", None)
    return RunView(
        id=run.name,
        project=run.project.name,
        entity=run.project.entity,
        name=run.display_name,
        state=run.state,
        exit_code=run.exit_code,
        config=config,
        tags=list(run.tags),
        group=run.group,
        sweep=run.sweep,
        files=dict(run.files),
    )


def _entry_view(path: str, entry: dict[str, Any]) -> EntryView:
    return EntryView(
        path=path,
        digest=entry["digest"],
        size=entry.get("size") or 0,
        birth_artifact_id=entry.get("birthArtifactID"),
        ref=entry.get("ref"),
        local_path=entry.get("local_path"),
        extra=entry.get("extra") or {},
    )


__all__ = ["ENTITY", "ArtifactView", "EntryView", "RunView", "Store"]
