"""Artifacts: from CreateArtifact to a committed version, and what happens to versions later."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import md5
from typing import Any

from .executor import GraphQLError
from .model import Artifact, Collection, Manifest, Membership, Run, Upload, now
from .state import State
from .storage import Storage

TTL_INHERIT = -1
TTL_OFF = -2


@dataclass
class Policy:
    """Guesses about the real server that a test may want to turn."""

    dedup: str = "sequence"  # where a file's content is looked for: sequence, latest, entity, none
    require_files: bool = True  # a commit is refused when a file of the manifest was never stored
    digest_algorithm: bool = False  # the server knows XXH128
    merged_digest: bool = True  # a version that several made gets the digest of its files, else that of its first part
    check_md5: bool = True  # uploads are checked; benchmarks may want the processor time


def to_hex(digest: str) -> str:
    return base64.b64decode(digest).hex()


def blob_key(birth: str, digest: str) -> str:
    """Where a file is stored; `digest` is base64, as in manifests."""
    return f"artifacts/{birth}/{to_hex(digest)}"


@dataclass(frozen=True)
class FileGrant:
    """The answer for one file of CreateArtifactFiles: already stored, or where to put it."""

    artifact: Artifact | None
    birth: str
    name: str
    md5: str
    mimetype: str
    storage_path: str
    stored: bool
    upload: Upload | None = None


class Artifacts:
    def __init__(self, state: State, storage: Storage, policy: Policy) -> None:
        self._state = state
        self._storage = storage
        self.policy = policy

    # --- looking up -------------------------------------------------------------------------------

    def collection(self, entity: str | None, project: str | None, name: str) -> Collection | None:
        found = self._state.project(entity, project)
        return self._state.collections.get((*found.key, name)) if found else None

    def member(self, entity: str | None, project: str | None, name: str) -> tuple[Collection, Membership] | None:
        """The version that "collection:alias" names."""
        base, _, alias = name.partition(":")
        collection = self.collection(entity, project, base)
        member = collection.find(alias or "latest") if collection else None
        return (collection, member) if collection and member else None

    # --- writing a version ------------------------------------------------------------------------

    def create(self, given: dict[str, Any], run: Run | None) -> Artifact:
        collection = self._ensure_sequence(given)
        aliases = [item["alias"] for item in given.get("aliases") or ()]
        if pending := self._pending(collection, given):
            pending.wanted_aliases = sorted({*pending.wanted_aliases, *aliases})
            return pending
        if same := self._committed_twin(collection, given):
            for alias in aliases:
                collection.aliases[alias] = same.id
            self._remember_client(given, same)
            return same
        return self._new_artifact(collection, given, run, aliases)

    def _ensure_sequence(self, given: dict[str, Any]) -> Collection:
        names = given.get("artifactCollectionNames") or [given.get("artifactCollectionName")]
        project = self._state.ensure_project(given.get("entityName"), given.get("projectName"))
        key = (*project.key, names[0])
        collection = self._state.collections.get(key)
        type_name = given["artifactTypeName"]
        if collection is None:
            collection = Collection(self._state.next_serial(), "ArtifactSequence", project, names[0], type_name)
            collection.digest_algorithm = given.get("digestAlgorithm")
            self._state.collections[key] = collection
        if collection.type_name != type_name or collection.typename != "ArtifactSequence":
            raise GraphQLError(f"{names[0]} is a collection of type {collection.type_name}, not {type_name}")
        return collection

    def _pending(self, collection: Collection, given: dict[str, Any]) -> Artifact | None:
        """The version on its way that this request means: another writer's, or its own, asked for again."""
        for artifact in self._state.artifacts.values():
            if artifact.collection is not collection or artifact.state != "PENDING":
                continue
            for name, known in (("distributedID", artifact.distributed_id), ("clientID", artifact.client_id)):
                if given.get(name) and given[name] == known:
                    return artifact
        return None

    def _committed_twin(self, collection: Collection, given: dict[str, Any]) -> Artifact | None:
        if not given.get("enableDigestDeduplication"):
            return None
        for member in reversed(collection.members):
            artifact = self._state.artifacts[member.artifact_id]
            if artifact.digest == given["digest"]:
                return artifact
        return None

    def _new_artifact(
        self, collection: Collection, given: dict[str, Any], run: Run | None, aliases: list[str]
    ) -> Artifact:
        artifact = Artifact(
            self._state.next_serial(),
            collection,
            given["digest"],
            given.get("digestAlgorithm") or "MANIFEST_MD5",
            description=given.get("description"),
            metadata=given.get("metadata"),
            tags=[item["tagName"] for item in given.get("tags") or ()],
            wanted_aliases=aliases,
            history_step=given.get("historyStep"),
            client_id=given.get("clientID"),
            distributed_id=given.get("distributedID"),
            run=run,
        )
        _set_ttl(artifact, given.get("ttlDurationSeconds"))
        self._state.artifacts[artifact.id] = artifact
        self._remember_client(given, artifact)
        return artifact

    def _remember_client(self, given: dict[str, Any], artifact: Artifact) -> None:
        if given.get("clientID"):
            self._state.client_ids[given["clientID"]] = artifact.id

    def create_manifest(self, given: dict[str, Any]) -> Manifest:
        """A FULL manifest is asked for twice, the second time with its digest: the same record."""
        artifact = self._writable(given["artifactID"])
        if given["type"] == "FULL":
            for manifest in artifact.manifests:
                if manifest.type == "FULL":
                    manifest.digest = given["digest"]
                    return manifest
        manifest = Manifest(
            self._state.next_serial(),
            artifact.id,
            given["name"],
            given["type"],
            given["digest"],
            given.get("baseArtifactID"),
        )
        artifact.manifests.append(manifest)
        self._state.manifests[manifest.id] = manifest
        return manifest

    def update_manifest(self, given: dict[str, Any]) -> Manifest:
        manifest = self._state.manifests.get(given["artifactManifestID"])
        if manifest is None:
            raise GraphQLError(f"manifest {given['artifactManifestID']!r} not found")
        manifest.digest = given.get("digest") or manifest.digest
        manifest.base_artifact_id = given.get("baseArtifactID") or manifest.base_artifact_id
        return manifest

    def create_files(self, files: Iterable[dict[str, Any]]) -> list[FileGrant]:
        return [self._grant(given) for given in files]

    def _grant(self, given: dict[str, Any]) -> FileGrant:
        artifact = self._writable(given["artifactID"])
        digest = given.get("digest") or given["md5"]
        birth = self._find_stored(artifact.collection, digest)
        stored = birth is not None
        storage_path = blob_key(birth or artifact.id, digest)
        parts = given.get("uploadPartsInput")
        upload = self._start_upload(storage_path, parts) if parts and not stored else None
        mimetype = given.get("mimetype") or "application/octet-stream"
        return FileGrant(
            self._state.artifacts[birth] if birth else artifact,
            birth or artifact.id,
            given["name"],
            to_hex(given["md5"]),
            mimetype,
            storage_path,
            stored,
            upload,
        )

    def _find_stored(self, collection: Collection, digest: str) -> str | None:
        """The version that first stored this content, where the policy looks for it."""
        wanted = to_hex(digest)
        if self.policy.dedup == "sequence":
            return self._state.births.get((*collection.key, wanted))
        if self.policy.dedup == "latest" and (member := collection.find("latest")):
            for entry in self._state.artifacts[member.artifact_id].contents.values():
                if entry["digest"] == digest and not entry.get("ref"):
                    return str(entry["birthArtifactID"])
        if self.policy.dedup == "entity":
            for (entity, _, _, known), birth in self._state.births.items():
                if (entity, known) == (collection.project.entity, wanted):
                    return birth
        return None

    def _start_upload(self, storage_path: str, parts: list[dict[str, Any]]) -> Upload:
        wanted = {int(part["partNumber"]): part["hexMD5"] for part in parts}
        upload = Upload(f"upload-{self._state.next_serial()}", storage_path, wanted)
        self._state.uploads[upload.id] = upload
        return upload

    def complete_upload(self, upload_id: str, parts: list[dict[str, Any]]) -> str:
        """Join the parts; the answer is the base64 MD5 of the whole."""
        upload = self._state.uploads.get(upload_id)
        if upload is None:
            raise GraphQLError(f"upload {upload_id!r} not found")
        named = {int(part["partNumber"]): part["hexMD5"].strip('"') for part in parts}
        if named != upload.parts:
            raise GraphQLError("the completed parts are not those that were announced")
        keys = [f"parts/{upload.id}/{number}" for number in sorted(upload.parts)]
        if missing := [key for key in keys if not self._storage.exists(key)]:
            raise GraphQLError(f"parts never stored: {missing}")
        digest = self._storage.join(keys, upload.storage_path)
        del self._state.uploads[upload_id]
        return base64.b64encode(bytes.fromhex(digest)).decode()

    def _writable(self, artifact_id: str) -> Artifact:
        artifact = self._state.artifact(artifact_id)
        if artifact.state != "PENDING":
            raise GraphQLError(f"artifact {artifact_id} is {artifact.state}, not PENDING")
        return artifact

    # --- committing -------------------------------------------------------------------------------

    def commit(self, artifact_id: str) -> Artifact:
        artifact = self._state.artifact(artifact_id)
        if artifact.state == "COMMITTED":  # the answer to the first request was lost
            return artifact
        self._writable(artifact_id)
        contents, document = self._merged(artifact)
        artifact.contents = {path: self._placed(artifact, path, entry) for path, entry in contents.items()}
        self._store_manifest(artifact, document)
        artifact.state = "COMMITTED"
        artifact.updated_at = now()
        collection = artifact.collection
        collection.add(self._state.next_serial(), artifact.id)
        for alias in artifact.wanted_aliases:
            collection.aliases[alias] = artifact.id
        self._index(artifact)
        return artifact

    def _merged(self, artifact: Artifact) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """A full manifest's contents, or the base's with the patches over them, the later one winning."""
        stored = [manifest for manifest in artifact.manifests if self._storage.exists(manifest.key)]
        if not stored:
            raise GraphQLError(f"artifact {artifact.id} has no manifest")
        documents = [json.loads(self._storage.read(manifest.key)) for manifest in stored]
        contents: dict[str, dict[str, Any]] = {}
        for manifest, document in zip(stored, documents, strict=True):
            if manifest.type == "INCREMENTAL" and manifest.base_artifact_id:
                contents.update(self._state.artifact(manifest.base_artifact_id).contents)
            contents.update(document["contents"])
        return contents, documents[-1]

    def _placed(self, artifact: Artifact, path: str, entry: dict[str, Any]) -> dict[str, Any]:
        """The entry with its birth version filled in; its file has to be there, with the size it claims."""
        if entry.get("ref"):
            return entry
        digest = entry["digest"]
        birth = entry.get("birthArtifactID") or artifact.id
        if not self._storage.exists(blob_key(birth, digest)) and not entry.get("birthArtifactID"):
            birth = self._find_stored(artifact.collection, digest) or birth
        if self.policy.require_files:
            self._check_stored(artifact, path, birth, entry)
        return {**entry, "birthArtifactID": birth}

    def _check_stored(self, artifact: Artifact, path: str, birth: str, entry: dict[str, Any]) -> None:
        if self._state.artifact(birth).collection is not artifact.collection and self.policy.dedup != "entity":
            raise GraphQLError(f"{path}: birth artifact {birth} belongs to another collection")
        key = blob_key(birth, entry["digest"])
        if not self._storage.exists(key):
            raise GraphQLError(f"{path}: the file was never stored ({key})")
        if self._storage.size(key) != (entry.get("size") or 0):
            raise GraphQLError(f"{path}: {entry.get('size')} bytes announced, {self._storage.size(key)} stored")

    def _store_manifest(self, artifact: Artifact, document: dict[str, Any]) -> None:
        """One full manifest is served as it came; of several, or of a part, the merged one."""
        if all(manifest.type == "FULL" for manifest in artifact.manifests):
            artifact.manifest_key = artifact.manifests[0].key
            return
        if self.policy.merged_digest:
            artifact.digest = manifest_digest(artifact.contents)
        artifact.manifest_key = f"manifests/merged-{artifact.id}"
        merged = {**document, "contents": artifact.contents}
        self._storage.write(artifact.manifest_key, json.dumps(merged).encode())

    def _index(self, artifact: Artifact) -> None:
        for entry in artifact.contents.values():
            if not entry.get("ref"):
                key = (*artifact.collection.key, to_hex(entry["digest"]))
                self._state.births.setdefault(key, entry["birthArtifactID"])

    # --- editing, deleting, linking ---------------------------------------------------------------

    def update(self, given: dict[str, Any]) -> Artifact:
        artifact = self._state.artifact(given["artifactID"])
        if "description" in given:
            artifact.description = given["description"]
        if given.get("metadata") is not None:
            artifact.metadata = given["metadata"]
        _set_ttl(artifact, given.get("ttlDurationSeconds"))
        added = [item["tagName"] for item in given.get("tagsToAdd") or ()]
        removed = {item["tagName"] for item in given.get("tagsToDelete") or ()}
        artifact.tags = [tag for tag in dict.fromkeys([*artifact.tags, *added]) if tag not in removed]
        artifact.updated_at = now()
        return artifact

    def add_aliases(self, artifact_id: str, aliases: list[dict[str, Any]]) -> None:
        artifact = self._state.artifact(artifact_id)
        for item in aliases:
            collection = self._aliased(artifact, item)
            collection.aliases[item["alias"]] = artifact.id

    def delete_aliases(self, artifact_id: str, aliases: list[dict[str, Any]]) -> None:
        artifact = self._state.artifact(artifact_id)
        for item in aliases:
            collection = self._aliased(artifact, item)
            if collection.aliases.get(item["alias"]) == artifact.id:
                del collection.aliases[item["alias"]]

    def _aliased(self, artifact: Artifact, item: dict[str, Any]) -> Collection:
        collection = self.collection(item.get("entityName"), item.get("projectName"), item["artifactCollectionName"])
        if collection is None or collection.member(artifact.id) is None:
            raise GraphQLError(f"artifact is not in collection {item['artifactCollectionName']}")
        return collection

    def delete(self, artifact_id: str, delete_aliases: bool) -> Artifact:
        artifact = self._state.artifact(artifact_id)
        collections = self._state.memberships(artifact)
        if not delete_aliases and any(item.aliases_of(artifact.id) for item in collections):
            raise GraphQLError("cannot delete an artifact that has aliases")
        for collection in collections:
            collection.remove(artifact.id)
        contents, artifact.contents, artifact.state = artifact.contents, {}, "DELETED"
        self._collect_garbage(artifact, contents)
        return artifact

    def _collect_garbage(self, artifact: Artifact, contents: dict[str, dict[str, Any]]) -> None:
        """Files that no version holds any more go at once (the real server takes its time)."""
        held = {
            place
            for other in self._state.artifacts.values()
            if other.collection is artifact.collection or self.policy.dedup == "entity"
            for place in _places(other.contents)
        }
        for place in _places(contents) - held:
            self._storage.delete(blob_key(*place))
        home = artifact.collection.key
        self._state.births = {key: birth for key, birth in self._state.births.items() if key[:3] != home}
        for member in artifact.collection.members:
            self._index(self._state.artifacts[member.artifact_id])

    def delete_collection(self, collection_id: str) -> Collection:
        collection = self._state.collection_by_id(collection_id)
        if collection.typename == "ArtifactSequence":
            for member in list(collection.members):
                self.delete(member.artifact_id, delete_aliases=True)
        del self._state.collections[collection.key]
        return collection

    def link(self, given: dict[str, Any]) -> tuple[Collection, Membership]:
        artifact = self._state.artifact(self._linked_id(given))
        if artifact.state != "COMMITTED":
            raise GraphQLError(f"cannot link an artifact that is {artifact.state}")
        project = self._state.ensure_project(given.get("entityName"), given.get("projectName"))
        key = (*project.key, given["artifactPortfolioName"])
        if key not in self._state.collections:
            self._state.collections[key] = Collection(
                self._state.next_serial(), "ArtifactPortfolio", project, key[2], artifact.collection.type_name
            )
        portfolio = self._state.collections[key]
        if portfolio.typename != "ArtifactPortfolio" or portfolio.type_name != artifact.collection.type_name:
            raise GraphQLError(f"{key[2]} cannot take artifacts of type {artifact.collection.type_name}")
        member = portfolio.member(artifact.id) or portfolio.add(self._state.next_serial(), artifact.id)
        for item in [*(given.get("aliases") or ()), {"alias": "latest"}]:
            portfolio.aliases[item["alias"]] = artifact.id
        return portfolio, member

    def _linked_id(self, given: dict[str, Any]) -> str:
        artifact_id = given.get("artifactID") or self._state.client_ids.get(given.get("clientID") or "")
        if artifact_id is None:
            raise GraphQLError(f"client id {given.get('clientID')!r} is unknown")
        return artifact_id

    def unlink(self, artifact_id: str, portfolio_id: str) -> None:
        portfolio = self._state.collection_by_id(portfolio_id)
        if portfolio.typename != "ArtifactPortfolio" or portfolio.member(artifact_id) is None:
            raise GraphQLError("the artifact is not linked to that portfolio")
        portfolio.remove(artifact_id)

    def use(self, artifact_id: str, run: Run | None) -> Artifact:
        artifact = self._state.artifact(artifact_id)
        if run and run not in artifact.used_by:
            artifact.used_by.append(run)
            run.used_artifacts.append(artifact.id)
        return artifact


def _places(contents: dict[str, dict[str, Any]]) -> set[tuple[str, str]]:
    """Birth version and digest of each file: what its blob is found by."""
    return {(item["birthArtifactID"], item["digest"]) for item in contents.values() if not item.get("ref")}


def _set_ttl(artifact: Artifact, seconds: int | None) -> None:
    if seconds is None:
        return
    artifact.ttl_inherited = seconds == TTL_INHERIT
    artifact.ttl_seconds = seconds if seconds > 0 else None


def manifest_digest(contents: dict[str, dict[str, Any]]) -> str:
    """The digest of a whole artifact: paths and digests, in order of paths."""
    digest = md5(b"wandb-artifact-manifest-v1\n")
    for path, entry in sorted(contents.items()):
        digest.update(f"{path}:{entry['digest']}\n".encode())
    return digest.hexdigest()
