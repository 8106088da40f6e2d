"""The GraphQL face of what the server remembers: every object, with the fields that clients ask for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import quote

from . import runs as run_views
from .artifacts import Artifacts, blob_key, to_hex
from .executor import Node
from .model import Artifact, Collection, Membership, Project, Run, Sweep, make_id
from .runs import Runs
from .state import ENTITY, State
from .sweeps import Sweeps

FEATURES = (
    "LARGE_FILENAMES",
    "ARTIFACT_TAGS",
    "CLIENT_IDS",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILES",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILE_DOWNLOAD_HANDLER",
    "PROJECT_ARTIFACT_COLLECTION_MEMBERSHIP",
    "ARTIFACT_MEMBERSHIP_IN_LINK_ARTIFACT_RESPONSE",
    "TOTAL_COUNT_IN_FILE_CONNECTION",
    "ARTIFACT_COLLECTIONS_FILTERING_SORTING",
    "ARTIFACT_V2_DOWNLOAD_HANDLER_SUPPORTS_ARTIFACT_ID",
    "FILESTREAM_GZIP",
    "MARK_RUN_FILES_UPLOADED",
)
ORGANIZATION = "test-org"
ORGANIZATION_ENTITY = "test-org-entity"


def connection(nodes: Iterable[Any], after: str | None = None, first: int | None = None, **extra: Any) -> Node:
    """A page of a relay connection; an item is a node, or (node, fields of its edge)."""
    items = list(nodes)
    start = int(after) if after else 0  # cursors are positions
    page = items[start : start + first] if first is not None else items[start:]
    edges = []
    for position, item in enumerate(page, start + 1):
        node, edge = item if isinstance(item, tuple) else (item, {})
        edges.append(Node("Edge", {"node": node, "cursor": str(position), **edge}))
    end = start + len(page)
    info = Node("PageInfo", {"endCursor": str(end) if page else None, "hasNextPage": end < len(items)})
    return Node("Connection", {"edges": edges, "pageInfo": info, "totalCount": len(items)})


class Schema:
    """Builds `Node`s on demand; what leads to other objects is a callable, so cycles are harmless."""

    def __init__(self, state: State, runs: Runs, sweeps: Sweeps, artifacts: Artifacts, url: str) -> None:
        self._state = state
        self._runs = runs
        self._sweeps = sweeps
        self._artifacts = artifacts
        self._url = url

    def root(self) -> dict[str, Callable[..., Any]]:
        return {
            "viewer": self.viewer,
            "serverInfo": self.server_info,
            "entity": self.entity,
            "organization": lambda name, **_: self.organization(),
            "project": self._project,
            "model": self._project,
            "artifact": lambda id: self._known_artifact(id),
            "artifactCollection": lambda id: self.collection(self._state.collection_by_id(id)),
            "clientIDMapping": self._client_id_mapping,
        }

    # --- people and servers -----------------------------------------------------------------------

    def viewer(self, **_: Any) -> Node:
        fields = {
            "id": make_id("User", 1),
            "name": ENTITY,
            "username": ENTITY,
            "entity": ENTITY,
            "email": f"{ENTITY}@example.com",
            "admin": False,
            "flags": "{}",
            "deletedAt": None,
            "apiKeys": lambda **_: connection([]),
            "teams": lambda **_: connection([Node("Entity", {"name": ENTITY})]),
            "organizations": [],
        }
        return Node("User", fields)

    def server_info(self) -> Node:
        enabled = {
            *FEATURES,
            *(["ARTIFACT_DIGEST_ALGORITHM"] if self._artifacts.policy.digest_algorithm else []),
        }
        features = [Node("ServerFeature", {"name": name, "isEnabled": True}) for name in sorted(enabled)]
        versions = {"max_cli_version": "99.0.0", "min_cli_version": "0.0.1"}
        return Node("ServerInfo", {"features": features, "cliVersionInfo": versions, "latestLocalVersionInfo": None})

    def entity(self, name: str) -> Node:
        fields = {
            "id": make_id("Entity", 1),
            "name": name,
            "xxhashDigestsEnabled": self._artifacts.policy.digest_algorithm,
            "organization": lambda: self.organization(),
            "user": lambda: self.viewer(),
        }
        return Node("Entity", fields)

    def organization(self) -> Node:
        owner = Node("Entity", {"id": make_id("Entity", 2), "name": ORGANIZATION_ENTITY, "entityType": "organization"})
        fields = {"id": make_id("Organization", 1), "name": ORGANIZATION, "orgEntity": owner}
        return Node("Organization", {**fields, "coreWeaveOrganizationId": None, "featureFlags": lambda **_: []})

    def _client_id_mapping(self, clientID: str) -> Node | None:
        artifact_id = self._state.client_ids.get(clientID)
        return Node("ClientIDMapping", {"serverID": artifact_id}) if artifact_id else None

    # --- projects and runs ------------------------------------------------------------------------

    def _project(self, name: str | None = None, entityName: str | None = None) -> Node | None:
        found = self._state.project(entityName, name)
        return self.project(found) if found else None

    def project(self, project: Project) -> Node:
        fields = {
            "id": project.id,
            "internalId": make_id("ProjectInternalId", project.number),
            "name": project.name,
            "entityName": project.entity,
            "entity": lambda: self.entity(project.entity),
            "createdAt": project.created_at,
            "isBenchmark": False,
            "readOnly": False,
            "user": self.viewer,
            "run": lambda name: self.run(self._runs.find(*project.key, name)),
            "bucket": lambda name, missingOk=False: self.run(self._runs.find(*project.key, name)),
            "runs": lambda after=None, first=None, **_: connection(
                [self.run(run) for run in self._runs_of(project)], after, first
            ),
            "sweep": lambda sweepName: self.sweep(self._sweeps.named(project, sweepName)),
            "runCount": lambda **_: len(self._runs_of(project)),
            "artifact": lambda name: self._artifact_named(project, name),
            "artifactType": lambda name: self._artifact_type(project, name),
            "artifactTypes": lambda after=None, first=None: connection(
                [self._artifact_type(project, name) for name in self._type_names(project)], after, first
            ),
            "artifactCollection": lambda name: self.collection(self._artifacts.collection(*project.key, name)),
            "artifactCollections": lambda **page: self._collections(project, None, **page),
            "artifactCollectionMembership": lambda name: self._membership_named(project, name),
        }
        return Node("Project", fields)

    def sweep(self, sweep: Sweep) -> Node:
        fields = {
            "id": sweep.id,
            "name": sweep.name,
            "state": sweep.state,
            "project": lambda: self.project(sweep.project),
        }
        return Node("Sweep", fields)

    def _runs_of(self, project: Project) -> list[Run]:
        return [run for run in self._state.runs.values() if run.project is project]

    def run(self, run: Run | None) -> Node | None:
        if run is None:
            return None
        outputs = [item for item in self._state.artifacts.values() if item.run is run and item.state == "COMMITTED"]
        inputs = [self._state.artifacts[item] for item in run.used_artifacts]
        fields = {
            **_run_scalars(run),
            "user": self.viewer,
            "project": lambda: self.project(run.project),
            "history": lambda **given: _history(run, **given),
            "events": lambda **_: run.events,
            "sampledHistory": lambda specs: [run_views.sampled(run, spec) for spec in specs],
            "parquetHistory": lambda liveKeys: _parquet_history(run),
            "historyKeys": lambda: run_views.history_keys(run),
            "outputArtifacts": lambda after=None, first=None: self._artifact_page(outputs, after, first),
            "inputArtifacts": lambda after=None, first=None: self._artifact_page(inputs, after, first),
            "fileCount": len(run.files),
            "files": lambda **given: self._run_files(run, **given),
        }
        return Node("Run", fields)

    def _run_files(
        self,
        run: Run,
        names: list[str] | None = None,
        after: str | None = None,
        first: int | None = None,
        pattern: str | None = None,
    ) -> Node:
        like = (pattern or "%").replace("%", "*")
        wanted = [name for name in sorted(run.files) if not names or name in names]
        return connection([self._run_file(run, name) for name in wanted if fnmatchcase(name, like)], after, first)

    def _run_file(self, run: Run, name: str) -> Node:
        url = self.storage_url(run_file_key(run, name))
        fields = {
            "id": f"{run.id}:{name}",
            "name": name,
            "url": lambda upload=False: url,
            "directUrl": url,
            "sizeBytes": run.files[name],
            "mimetype": None,
            "updatedAt": run.heartbeat_at,
            "md5": None,
        }
        return Node("File", fields)

    # --- reading artifacts ------------------------------------------------------------------------

    def _artifact_named(self, project: Project, name: str) -> Node | None:
        found = self._artifacts.member(*project.key, name)
        return self.artifact(self._state.artifacts[found[1].artifact_id]) if found else None

    def _membership_named(self, project: Project, name: str) -> Node | None:
        found = self._artifacts.member(*project.key, name)
        return self.membership(*found) if found else None

    def _known_artifact(self, artifact_id: str) -> Node | None:
        artifact = self._state.artifacts.get(artifact_id)
        return self.artifact(artifact) if artifact else None

    def _artifact_page(self, artifacts: Iterable[Artifact], after: str | None, first: int | None) -> Node:
        return connection([self.artifact(artifact) for artifact in artifacts], after, first)

    def artifact(self, artifact: Artifact) -> Node:
        fields = {
            **_artifact_scalars(artifact),
            "artifactSequence": lambda: self.collection(artifact.collection),
            "artifactType": Node("ArtifactType", {"name": artifact.collection.type_name}),
            "tags": [_tag(name) for name in artifact.tags],
            "aliases": lambda: self._aliases(artifact),
            "artifactMemberships": lambda: connection(
                [self.membership(item, item.member(artifact.id)) for item in self._state.memberships(artifact)]
            ),
            "createdBy": lambda: self.run(artifact.run),
            "usedBy": lambda: connection([self.run(run) for run in artifact.used_by]),
            "currentManifest": lambda: self._current_manifest(artifact),
            "files": lambda **given: self._files(artifact, **given),
        }
        return Node("Artifact", fields)

    def _memberships(self, artifact: Artifact) -> Node:
        collections = self._state.memberships(artifact)
        return connection([self.membership(item, item.member(artifact.id)) for item in collections])

    def _aliases(self, artifact: Artifact) -> list[Node]:
        collections = self._state.memberships(artifact)
        return [self._alias(item, alias) for item in collections for alias in item.aliases_of(artifact.id)]

    def _alias(self, collection: Collection, alias: str) -> Node:
        fields = {
            "id": f"{collection.id}:{alias}",
            "alias": alias,
            "artifactCollection": lambda: self.collection(collection),
        }
        return Node("ArtifactAlias", fields)

    def _current_manifest(self, artifact: Artifact) -> Node | None:
        if artifact.manifest_key is None:
            return None
        url = self.storage_url(f"{artifact.manifest_key}/wandb_manifest.json")
        return Node("ArtifactManifest", {"file": Node("File", {"directUrl": url})})

    def membership(self, collection: Collection, member: Membership | None) -> Node | None:
        if member is None:
            return None
        artifact = self._state.artifacts[member.artifact_id]
        fields = {
            "id": member.id,
            "versionIndex": member.version_index,
            "createdAt": member.created_at,
            "aliases": [self._alias(collection, alias) for alias in collection.aliases_of(artifact.id)],
            "artifactCollection": lambda: self.collection(collection),
            "artifact": lambda: self.artifact(artifact),
            "files": lambda **given: self._files(artifact, **given),
        }
        return Node("ArtifactCollectionMembership", fields)

    def _files(
        self,
        artifact: Artifact,
        names: list[str] | None = None,
        after: str | None = None,
        first: int | None = None,
    ) -> Node:
        wanted = set(names) if names else None
        entries = sorted(artifact.contents.items())
        files = [
            self._file(artifact, path, entry)
            for path, entry in entries
            if not entry.get("ref") and (wanted is None or path in wanted)
        ]
        return connection(files, after, first)

    def _file(self, artifact: Artifact, path: str, entry: dict[str, Any]) -> Node:
        key = blob_key(entry["birthArtifactID"], entry["digest"])
        url = self.storage_url(f"{key}/{path}")
        fields = {
            "id": f"{artifact.id}:{path}",
            "name": path,
            "displayName": path,
            "url": url,
            "directUrl": url,
            "sizeBytes": entry.get("size") or 0,
            "storagePath": key,
            "mimetype": "application/octet-stream",
            "updatedAt": artifact.updated_at,
            "digest": entry["digest"],
            "md5": to_hex(entry["digest"]),
        }
        return Node("File", fields)

    def _type_names(self, project: Project) -> list[str]:
        return sorted({item.type_name for item in self._state.collections.values() if item.project is project})

    def _artifact_type(self, project: Project, name: str) -> Node | None:
        if name not in self._type_names(project):
            return None
        fields = {
            "id": f"{project.id}:{name}",
            "name": name,
            "description": None,
            "createdAt": project.created_at,
            "artifactCollection": lambda name: self.collection(self._artifacts.collection(*project.key, name)),
            "artifactCollections": lambda **page: self._collections(project, name, **page),
        }
        return Node("ArtifactType", fields)

    def _collections(
        self,
        project: Project,
        type_name: str | None,
        after: str | None = None,
        first: int | None = None,
        **_: Any,
    ) -> Node:
        found = [
            self.collection(item)
            for item in self._state.collections.values()
            if item.project is project and type_name in (None, item.type_name)
        ]
        return connection(found, after, first)

    def collection(self, collection: Collection | None) -> Node | None:
        if collection is None:
            return None
        type_node = Node("ArtifactType", {"name": collection.type_name})
        fields = {
            "id": collection.id,
            "name": collection.name,
            "description": collection.description,
            "createdAt": collection.created_at,
            "updatedAt": collection.updated_at,
            "state": "READY",
            "digestAlgorithm": collection.digest_algorithm,
            "project": lambda: self.project(collection.project),
            "defaultArtifactType": type_node,
            "tags": lambda **_: connection([_tag(name) for name in collection.tags]),
            "aliases": lambda after=None, first=None: connection(
                [self._alias(collection, alias) for alias in sorted(collection.aliases)], after, first
            ),
            "artifacts": lambda **page: self._versions(collection, **page),
            "latestArtifact": lambda: self._member_artifact(collection, "latest"),
            "artifactMembership": lambda aliasName: self.membership(collection, collection.find(aliasName)),
        }
        return Node(collection.typename, fields)

    def _member_artifact(self, collection: Collection, alias: str) -> Node | None:
        member = collection.find(alias)
        return self.artifact(self._state.artifacts[member.artifact_id]) if member else None

    def _versions(self, collection: Collection, after: str | None = None, first: int | None = None, **_: Any) -> Node:
        """Newest first, which is the order clients ask for."""
        items = [
            (
                self.artifact(self._state.artifacts[member.artifact_id]),
                {"version": f"v{member.version_index}"},
            )
            for member in reversed(collection.members)
        ]
        return connection(items, after, first)

    def storage_url(self, key: str, wanted_md5: str | None = None) -> str:
        """The URL of a blob; a wanted MD5 rides along, as in a signed URL."""
        return f"{self._url}/storage/{quote(key)}" + (f"?md5={wanted_md5}" if wanted_md5 else "")


def run_file_key(run: Run, name: str) -> str:
    return f"runs/{run.project.entity}/{run.project.name}/{run.name}/{name}"


def _tag(name: str) -> Node:
    return Node("Tag", {"id": f"Tag:{name}", "name": name})


def _run_scalars(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "projectId": run.project.number,
        "name": run.name,
        "displayName": run.display_name,
        "description": run.description,
        "notes": run.notes,
        "tags": run.tags,
        "group": run.group,
        "jobType": run.job_type,
        "sweepName": run.sweep,
        "commit": run.commit,
        "state": run.state,
        "readOnly": False,
        "createdAt": run.created_at,
        "heartbeatAt": run.heartbeat_at,
        "config": json.dumps(run.config),
        "wandbConfig": lambda keys: json.dumps(run.config.get("_wandb", {}).get("value", {})),
        "summaryMetrics": json.dumps(run.summary),
        "systemMetrics": run.events[-1] if run.events else "{}",
        "historyLineCount": len(run.history),
        "eventsLineCount": len(run.events),
        "logLineCount": len(run.output),
        "historyTail": json.dumps(run.history[-1:]),
        "eventsTail": json.dumps(run.events[-1:]),
    }


def _history(run: Run, minStep: int = 0, maxStep: int | None = None, samples: int | None = None) -> list[str]:
    rows = []
    for position, line in enumerate(run.history):
        step = json.loads(line).get("_step", position) if line else position
        if step >= minStep and (maxStep is None or step < maxStep):
            rows.append(line)
    return rows[:samples]


def _parquet_history(run: Run) -> Node:
    live = [json.loads(line) for line in run.history if line]
    return Node("ParquetHistory", {"parquetUrls": [], "liveData": live})


def _artifact_scalars(artifact: Artifact) -> dict[str, Any]:
    return {
        "id": artifact.id,
        "versionIndex": artifact.version_index,
        "description": artifact.description,
        "metadata": artifact.metadata,
        "ttlDurationSeconds": artifact.ttl_seconds or -1,
        "ttlIsInherited": artifact.ttl_inherited,
        "historyStep": artifact.history_step,
        "state": artifact.state,
        "size": artifact.size,
        "digest": artifact.digest,
        "digestAlgorithm": artifact.digest_algorithm,
        "commitHash": None,
        "fileCount": len(artifact.contents),
        "createdAt": artifact.created_at,
        "updatedAt": artifact.updated_at,
    }
