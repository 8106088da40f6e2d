"""The server's whole memory, and its way to disk and back."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .executor import GraphQLError
from .model import Agent, Artifact, Collection, Manifest, Project, Run, Sweep, Upload

ENTITY = "tester"  # the entity of whoever asks without naming one
DEFAULT_PROJECT = "uncategorized"


@dataclass
class State:
    serial: int = 0
    projects: dict[tuple[str, str], Project] = field(default_factory=dict)
    runs: dict[tuple[str, str, str], Run] = field(default_factory=dict)
    collections: dict[tuple[str, str, str], Collection] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    sweeps: dict[str, Sweep] = field(default_factory=dict)
    agents: dict[str, Agent] = field(default_factory=dict)
    client_ids: dict[str, str] = field(default_factory=dict)  # client id -> artifact id
    # (entity, project, collection, digest in hex) -> id of the version that first stored the file
    births: dict[tuple[str, str, str, str], str] = field(default_factory=dict)

    def next_serial(self) -> int:
        self.serial += 1
        return self.serial

    def project(self, entity: str | None, name: str | None) -> Project | None:
        return self.projects.get((entity or ENTITY, name or DEFAULT_PROJECT))

    def ensure_project(self, entity: str | None, name: str | None) -> Project:
        """Projects come into being when something is put into them."""
        key = (entity or ENTITY, name or DEFAULT_PROJECT)
        if key not in self.projects:
            self.projects[key] = Project(self.next_serial(), *key)
        return self.projects[key]

    def artifact(self, artifact_id: str) -> Artifact:
        if artifact_id not in self.artifacts:
            raise GraphQLError(f"artifact {artifact_id!r} not found")
        return self.artifacts[artifact_id]

    def collection_by_id(self, collection_id: Any) -> Collection:
        for collection in self.collections.values():
            if collection.id == collection_id:
                return collection
        raise GraphQLError(f"artifact collection {collection_id!r} not found")

    def memberships(self, artifact: Artifact) -> list[Collection]:
        """Every collection that holds the version: its sequence and the portfolios it is linked to."""
        return [collection for collection in self.collections.values() if collection.member(artifact.id)]

    def save(self, path: Path) -> None:
        temporary = path.with_suffix(".new")
        temporary.write_bytes(pickle.dumps(self))
        os.replace(temporary, path)

    @staticmethod
    def load(path: Path) -> State:
        if not path.exists():
            return State()
        state = pickle.loads(path.read_bytes())
        assert isinstance(state, State), type(state)
        return state
