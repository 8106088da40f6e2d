"""What the server remembers, as plain records: everything here is pickled as it stands."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def make_id(kind: str, number: int) -> str:
    """Clients turn an artifact's id into hex, so every id has to be valid base64."""
    return base64.b64encode(f"{kind}:{number}".encode()).decode()


@dataclass
class Project:
    number: int
    entity: str
    name: str
    created_at: str = field(default_factory=now)

    @property
    def id(self) -> str:
        return make_id("Project", self.number)

    @property
    def key(self) -> tuple[str, str]:
        return self.entity, self.name


@dataclass
class Run:
    number: int
    project: Project
    name: str
    display_name: str
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    output: list[str] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    used_artifacts: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    state: str = "running"
    exit_code: int | None = None
    stop_requested: bool = False
    description: str | None = None
    notes: str | None = None
    group: str | None = None
    job_type: str | None = None
    sweep: str | None = None
    commit: str | None = None
    host: str | None = None
    program: str | None = None
    created_at: str = field(default_factory=now)
    heartbeat_at: str = field(default_factory=now)

    @property
    def id(self) -> str:
        return make_id("Run", self.number)

    @property
    def key(self) -> tuple[str, str, str]:
        return (*self.project.key, self.name)


@dataclass
class Sweep:
    number: int
    project: Project
    name: str
    grid: list[dict[str, Any]]  # what each run gets, in order
    handed_out: int = 0

    @property
    def id(self) -> str:
        return make_id("Sweep", self.number)

    @property
    def state(self) -> str:
        return "RUNNING" if self.handed_out < len(self.grid) else "FINISHED"


@dataclass
class Agent:
    number: int
    sweep: Sweep

    @property
    def id(self) -> str:
        return make_id("Agent", self.number)


@dataclass
class Membership:
    """A version inside a collection; a linked version has one in its portfolio too, with its own number."""

    number: int
    artifact_id: str
    version_index: int
    created_at: str = field(default_factory=now)

    @property
    def id(self) -> str:
        return make_id("ArtifactCollectionMembership", self.number)


@dataclass
class Collection:
    number: int
    typename: str  # ArtifactSequence or ArtifactPortfolio
    project: Project
    name: str
    type_name: str
    description: str | None = None
    tags: list[str] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)  # alias -> artifact id
    members: list[Membership] = field(default_factory=list)
    next_index: int = 0  # never reused, also not after a delete
    digest_algorithm: str | None = None
    created_at: str = field(default_factory=now)
    updated_at: str = field(default_factory=now)

    @property
    def id(self) -> str:
        return make_id("ArtifactCollection", self.number)

    @property
    def key(self) -> tuple[str, str, str]:
        return (*self.project.key, self.name)

    def add(self, number: int, artifact_id: str) -> Membership:
        member = Membership(number, artifact_id, self.next_index)
        self.next_index += 1
        self.members.append(member)
        return member

    def member(self, artifact_id: str) -> Membership | None:
        return next((member for member in self.members if member.artifact_id == artifact_id), None)

    def find(self, alias: str) -> Membership | None:
        """The version that `vN` or an alias names."""
        for member in self.members:
            if alias == f"v{member.version_index}":
                return member
        return self.member(self.aliases[alias]) if alias in self.aliases else None

    def aliases_of(self, artifact_id: str) -> list[str]:
        return sorted(alias for alias, target in self.aliases.items() if target == artifact_id)

    def remove(self, artifact_id: str) -> None:
        """Forget a version; what was "latest" becomes the newest one left."""
        was_latest = self.aliases.get("latest") == artifact_id
        self.aliases = {alias: target for alias, target in self.aliases.items() if target != artifact_id}
        self.members = [member for member in self.members if member.artifact_id != artifact_id]
        if was_latest and self.members:
            self.aliases["latest"] = self.members[-1].artifact_id


@dataclass
class Manifest:
    number: int
    artifact_id: str
    name: str
    type: str  # FULL, INCREMENTAL or PATCH
    digest: str
    base_artifact_id: str | None

    @property
    def id(self) -> str:
        return make_id("ArtifactManifest", self.number)

    @property
    def key(self) -> str:
        return f"manifests/{self.id}"


@dataclass
class Artifact:
    number: int
    collection: Collection
    digest: str
    digest_algorithm: str
    state: str = "PENDING"
    description: str | None = None
    metadata: str | None = None
    ttl_seconds: int | None = None
    ttl_inherited: bool = True
    tags: list[str] = field(default_factory=list)
    wanted_aliases: list[str] = field(default_factory=list)  # given when created, set when committed
    history_step: int | None = None
    client_id: str | None = None
    distributed_id: str | None = None
    run: Run | None = None
    used_by: list[Run] = field(default_factory=list)
    manifests: list[Manifest] = field(default_factory=list)
    contents: dict[str, dict[str, Any]] = field(default_factory=dict)  # path -> entry, once committed
    manifest_key: str | None = None  # where the (merged) manifest is stored, once committed
    created_at: str = field(default_factory=now)
    updated_at: str = field(default_factory=now)

    @property
    def id(self) -> str:
        return make_id("Artifact", self.number)

    @property
    def size(self) -> int:
        return sum(entry.get("size") or 0 for entry in self.contents.values())

    @property
    def version_index(self) -> int | None:
        member = self.collection.member(self.id)
        return member.version_index if member else None


@dataclass
class Upload:
    """A multipart upload on its way."""

    id: str
    storage_path: str
    parts: dict[int, str]  # part number -> wanted MD5 in hex
