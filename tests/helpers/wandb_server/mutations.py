"""The GraphQL mutations: what each one's input asks of runs and artifacts, and how the outcome is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from .artifacts import Artifacts, FileGrant
from .executor import GraphQLError, Node
from .model import Agent, Artifact, Manifest, Run
from .runs import Runs
from .schema import Schema, connection, run_file_key
from .state import State
from .sweeps import Sweeps


class Mutations:
    """Names the inputs as the client does (`input`, as everywhere in its documents)."""

    def __init__(self, state: State, runs: Runs, sweeps: Sweeps, artifacts: Artifacts, schema: Schema) -> None:
        self._state = state
        self._runs = runs
        self._sweeps = sweeps
        self._artifacts = artifacts
        self._schema = schema

    def root(self) -> dict[str, Callable[..., Any]]:
        return {**self._run_mutations(), **self._sweep_mutations(), **self._write_mutations(), **self._edit_mutations()}

    # --- runs -----------------------------------------------------------------------------------

    def _run_mutations(self) -> dict[str, Callable[..., Any]]:
        return {
            "upsertBucket": self._upsert_bucket,
            "createRunFiles": self._create_run_files,
            "markRunFilesUploaded": lambda input: Node("Payload", {"success": True}),
            "deleteRun": self._delete_run,
            "stopRun": self._stop_run,
            "updateRunState": self._update_run_state,
            "upsertModel": self._upsert_model,
        }

    def _upsert_bucket(self, input: dict[str, Any]) -> Node:
        run, inserted = self._runs.upsert(input)
        return Node("UpsertBucketPayload", {"bucket": self._schema.run(run), "inserted": inserted})

    def _create_run_files(self, input: dict[str, Any]) -> Node:
        run = self._runs.get(input["entityName"], input["projectName"], input["runName"])
        files = [
            Node("File", {"name": name, "uploadUrl": self._schema.storage_url(run_file_key(run, name))})
            for name in input["files"]
        ]
        return Node("CreateRunFilesPayload", {"runID": run.id, "uploadHeaders": [], "files": files})

    def _delete_run(self, input: dict[str, Any]) -> Node:
        self._runs.delete(input["id"])
        return Node("DeleteRunPayload", {"clientMutationId": None})

    def _stop_run(self, input: dict[str, Any]) -> Node:
        self._runs.by_id(input["id"]).stop_requested = True
        return Node("StopRunPayload", {"success": True})

    def _update_run_state(self, input: dict[str, Any]) -> Node:
        self._runs.by_id(input["id"]).state = input["state"]
        return Node("Payload", {"success": True})

    def _upsert_model(self, input: dict[str, Any]) -> Node:
        project = self._state.ensure_project(input.get("entityName"), input["name"])
        return Node(
            "UpsertModelPayload",
            {"project": self._schema.project(project), "model": self._schema.project(project)},
        )

    # --- sweeps -----------------------------------------------------------------------------------

    def _sweep_mutations(self) -> dict[str, Callable[..., Any]]:
        return {
            "upsertSweep": self._upsert_sweep,
            "createAgent": lambda input: Node("CreateAgentPayload", {"agent": _agent(self._sweeps.register(input))}),
            "agentHeartbeat": self._agent_heartbeat,
        }

    def _upsert_sweep(self, input: dict[str, Any]) -> Node:
        sweep = self._schema.sweep(self._sweeps.upsert(input))
        return Node("UpsertSweepPayload", {"sweep": sweep, "configValidationWarnings": []})

    def _agent_heartbeat(self, input: dict[str, Any]) -> Node:
        agent, commands = self._sweeps.beat(input)
        return Node("AgentHeartbeatPayload", {"agent": _agent(agent), "commands": json.dumps(commands)})

    # --- writing artifacts ------------------------------------------------------------------------

    def _write_mutations(self) -> dict[str, Callable[..., Any]]:
        return {
            "createArtifact": self._create_artifact,
            "createArtifactManifest": lambda input: self._manifest(self._artifacts.create_manifest(input)),
            "updateArtifactManifest": lambda input: self._manifest(self._artifacts.update_manifest(input)),
            "createArtifactFiles": self._create_artifact_files,
            "completeMultipartUploadArtifact": self._complete_multipart,
            "commitArtifact": lambda input: self._payload(self._artifacts.commit(input["artifactID"])),
            "useArtifact": self._use_artifact,
        }

    def _payload(self, artifact: Artifact) -> Node:
        return Node("ArtifactPayload", {"artifact": self._schema.artifact(artifact)})

    def _find_run(self, given: dict[str, Any]) -> Run | None:
        name = given.get("runName")
        return self._runs.find(given.get("entityName"), given.get("projectName"), name) if name else None

    def _create_artifact(self, input: dict[str, Any]) -> Node:
        artifact = self._artifacts.create(input, self._find_run(input))
        return Node("CreateArtifactPayload", {"artifact": self._schema.artifact(artifact)})

    def _manifest(self, manifest: Manifest) -> Node:
        file = {
            "id": manifest.id,
            "name": manifest.name,
            "displayName": manifest.name,
            "uploadUrl": self._schema.storage_url(f"{manifest.key}/{manifest.name}"),
            "uploadHeaders": [f"Content-MD5:{manifest.digest}", "Content-Type:application/json"],
        }
        record = Node("ArtifactManifest", {"id": manifest.id, "file": Node("File", file)})
        return Node("ArtifactManifestPayload", {"artifactManifest": record})

    def _create_artifact_files(self, input: dict[str, Any]) -> Node:
        grants = self._artifacts.create_files(input["artifactFiles"])
        return Node("CreateArtifactFilesPayload", {"files": connection([self._grant(grant) for grant in grants])})

    def _grant(self, grant: FileGrant) -> Node:
        url = None if grant.stored else self._schema.storage_url(f"{grant.storage_path}/{grant.name}", grant.md5)
        fields = {
            "storagePath": grant.storage_path,
            "uploadUrl": url,
            "uploadHeaders": [f"Content-Type:{grant.mimetype}"],
            "uploadMultipartUrls": self._part_urls(grant),
            "artifact": Node("Artifact", {"id": grant.birth}),
        }
        return Node("File", fields)

    def _part_urls(self, grant: FileGrant) -> Node | None:
        if grant.upload is None:
            return None
        parts = [
            Node(
                "UploadUrlPart",
                {
                    "partNumber": number,
                    "uploadUrl": self._schema.storage_url(f"parts/{grant.upload.id}/{number}/{grant.name}", wanted),
                },
            )
            for number, wanted in sorted(grant.upload.parts.items())
        ]
        return Node("UploadMultipartUrls", {"uploadID": grant.upload.id, "uploadUrlParts": parts})

    def _complete_multipart(self, input: dict[str, Any]) -> Node:
        if input["completeMultipartAction"] != "Complete":
            raise GraphQLError(f"action {input['completeMultipartAction']} is not supported")
        digest = self._artifacts.complete_upload(input["uploadID"], input["completedParts"])
        return Node("Payload", {"digest": digest})

    def _use_artifact(self, input: dict[str, Any]) -> Node:
        return self._payload(self._artifacts.use(input["artifactID"], self._find_run(input)))

    # --- editing artifacts ------------------------------------------------------------------------

    def _edit_mutations(self) -> dict[str, Callable[..., Any]]:
        return {
            "updateArtifact": lambda input: self._payload(self._artifacts.update(input)),
            "addAliases": lambda input: self._done(self._artifacts.add_aliases, input),
            "deleteAliases": lambda input: self._done(self._artifacts.delete_aliases, input),
            "deleteArtifact": lambda input: self._payload(
                self._artifacts.delete(input["artifactID"], bool(input.get("deleteAliases")))
            ),
            "deleteArtifactSequence": lambda input: self._deleted(input["artifactSequenceID"]),
            "deleteArtifactPortfolio": lambda input: self._deleted(input["artifactPortfolioID"]),
            "updateArtifactSequence": lambda input: self._update_collection(input, "artifactSequenceID"),
            "updateArtifactPortfolio": lambda input: self._update_collection(input, "artifactPortfolioID"),
            "linkArtifact": self._link,
            "unlinkArtifact": self._unlink,
        }

    def _done(self, change: Callable[[str, list[dict[str, Any]]], None], input: dict[str, Any]) -> Node:
        change(input["artifactID"], input["aliases"])
        return Node("Payload", {"success": True})

    def _deleted(self, collection_id: str) -> Node:
        collection = self._artifacts.delete_collection(collection_id)
        node = Node(collection.typename, {"state": "DELETED"})
        return Node("Payload", {"artifactCollection": node})

    def _update_collection(self, input: dict[str, Any], id_name: str) -> Node:
        collection = self._state.collection_by_id(input[id_name])
        if input.get("description") is not None:
            collection.description = input["description"]
        if input.get("name"):
            del self._state.collections[collection.key]
            collection.name = input["name"]
            self._state.collections[collection.key] = collection
        return Node("Payload", {"artifactCollection": self._schema.collection(collection)})

    def _link(self, input: dict[str, Any]) -> Node:
        collection, member = self._artifacts.link(input)
        fields = {
            "versionIndex": member.version_index,
            "artifactMembership": self._schema.membership(collection, member),
        }
        return Node("LinkArtifactPayload", fields)

    def _unlink(self, input: dict[str, Any]) -> Node:
        self._artifacts.unlink(input["artifactID"], input["artifactPortfolioID"])
        return Node("Payload", {"success": True})


def _agent(agent: Agent) -> Node:
    return Node("Agent", {"id": agent.id})
