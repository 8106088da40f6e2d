"""Reads what an offline run recorded: history, summary, metric axes and artifacts in its ``run-*.wandb`` file.

The file is a LevelDB log: 32 KiB blocks of (crc, length, kind, bytes) after a seven-byte header;
each record is a protobuf of wandb's own.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as pb

BLOCK = 32768
HEADER = 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass(frozen=True)
class Entry:
    """One file of an artifact's manifest; ``local_path`` is empty for references and carried entries."""

    path: str
    digest: str
    size: int
    local_path: str
    ref: str
    birth_artifact_id: str
    skip_cache: bool
    extra: dict[str, Any]

    def read_bytes(self) -> bytes:
        return Path(self.local_path).read_bytes()

    def json(self) -> Any:
        return json.loads(self.read_bytes())


@dataclass(frozen=True)
class LoggedArtifact:
    """One ``log_artifact`` (or ``use_artifact`` of a draft: ``used``), in the order of the calls."""

    name: str
    type: str
    aliases: tuple[str, ...]
    tags: tuple[str, ...]
    description: str
    metadata: dict[str, Any]
    entries: dict[str, Entry]
    digest: str
    client_id: str
    ttl_seconds: int
    distributed_id: str
    finalize: bool
    used: bool


@dataclass
class OfflineRun:
    """The contents of one offline run directory; read it after ``run.finish()``."""

    directory: Path
    records: list[Any] = field(repr=False)

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        return [_items(record.history.item) for record in self.records if record.HasField("history")]

    @cached_property
    def summary(self) -> dict[str, Any]:
        """``run.summary`` at the end of the run."""
        found: dict[str, Any] = {}
        for record in self.records:
            if record.HasField("summary"):
                _update(found, record.summary.update)
                for item in record.summary.remove:
                    found.pop(item.key or item.nested_key[0], None)
        return found

    @cached_property
    def step_metrics(self) -> dict[str, str | None]:
        """Metric name or glob → its x axis, from ``define_metric``."""
        found: dict[str, str | None] = {}
        for record in self.records:
            if record.HasField("metric"):
                found[record.metric.name or record.metric.glob_name] = record.metric.step_metric or None
        return found

    @cached_property
    def artifacts(self) -> list[LoggedArtifact]:
        # A relative path starts at the folder of W&B's own folder, where `wandb sync` is called.
        place = self.directory.parent.parent
        return [_artifact(record.artifact, place) for record in self.records if record.HasField("artifact")]

    @cached_property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for record in self.records:
            updates = record.run.config.update if record.HasField("run") else record.config.update
            found.update(_items(updates))
        return found

    @cached_property
    def features(self) -> set[str]:
        """Names of the wandb features (telemetry) that the run used."""
        return {
            descriptor.name
            for record in self.records
            if record.HasField("telemetry")
            for descriptor, _ in record.telemetry.feature.ListFields()
        }

    def column(self, key: str) -> list[Any]:
        """The values of one history key, in order, without the rows that lack it."""
        return [row[key] for row in self.history if key in row]

    def artifacts_of(self, type: str) -> list[LoggedArtifact]:
        return [artifact for artifact in self.artifacts if artifact.type == type]

    def media(self, value: dict[str, Any]) -> Path:
        """The file behind a media value of the history or summary (its ``path``)."""
        return self.directory / "files" / value["path"]


def read(directory: Path | str, timeout: float = 60) -> OfflineRun:
    """Read a finished run's directory (``Path(run.dir).parent``).

    ``run.finish()`` returns before wandb's service has flushed the file, which ends with the record of the exit.
    """
    directory = Path(directory)
    deadline = time.monotonic() + timeout
    while True:
        (log,) = directory.glob("run-*.wandb")
        records = [pb.Record.FromString(data) for data in _log_records(log.read_bytes())]
        if any(record.HasField("exit") for record in records):
            return OfflineRun(directory, records)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{log} has no record of the run's exit after {timeout} s")
        time.sleep(0.01)


def _log_records(data: bytes) -> Iterator[bytes]:
    assert len(data) < HEADER or data[:4] == b":W&B", data[:HEADER]
    position, parts = HEADER, []
    while position + HEADER <= len(data):
        room = BLOCK - position % BLOCK
        if room < HEADER:
            position += room
            continue
        length = int.from_bytes(data[position + 4 : position + 6], "little")
        kind = data[position + 6]
        if kind == 0:
            position += room
            continue
        if position + HEADER + length > len(data):
            return  # not flushed yet
        parts.append(data[position + HEADER : position + HEADER + length])
        position += HEADER + length
        if kind in (FULL, LAST):
            yield b"".join(parts)
            parts = []


def _items(items: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    _update(found, items)
    return found


def _update(found: dict[str, Any], items: Any) -> None:
    for item in items:
        *parents, key = list(item.nested_key) or [item.key]
        target = found
        for parent in parents:
            target = target.setdefault(parent, {})
            assert isinstance(target, dict), f"{parent} is both a value and a group"
        target[key] = json.loads(item.value_json)


def _artifact(record: Any, place: Path) -> LoggedArtifact:
    entries = {}
    for item in record.manifest.contents:
        extra = {part.key: json.loads(part.value_json) for part in item.extra}
        entries[item.path] = Entry(
            item.path,
            item.digest,
            item.size,
            str(place / item.local_path) if item.local_path else "",
            item.ref,
            item.birth_artifact_id,
            item.skip_cache,
            extra,
        )
    return LoggedArtifact(
        name=record.name,
        type=record.type,
        aliases=tuple(record.aliases),
        tags=tuple(record.tags),
        description=record.description,
        metadata=json.loads(record.metadata) if record.metadata else {},
        entries=entries,
        digest=record.digest,
        client_id=record.client_id,
        ttl_seconds=record.ttl_duration_seconds,
        distributed_id=record.distributed_id,
        finalize=record.finalize,
        used=record.use_after_commit,
    )
