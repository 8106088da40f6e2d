"""A fixture that starts W&B runs, offline and on the loopback server, and returns in one form what they recorded."""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto.wandb_telemetry_pb2 import Feature
from wandb.sdk.artifacts.artifact_instance_cache import artifact_instance_cache

import offline_run
from wandb_server import Server


@dataclass(frozen=True)
class File:
    """A file of an artifact: its bytes, or for a reference the artifact and path that it refers to."""

    size: int
    content: bytes | None
    artifact: str | None = None
    path: str | None = None


@dataclass(frozen=True)
class Logged:
    """An artifact version; ``aliases`` are those after all versions of the run."""

    id: str
    name: str
    type: str
    aliases: set[str]
    used: bool
    metadata: dict[str, Any]
    files: dict[str, File]

    def table(self, name: str) -> dict[str, Any]:
        content = self.files[f"{name}.table.json"].content
        assert content is not None
        return dict(json.loads(content))


@dataclass(frozen=True)
class Arrived:
    """What a run recorded."""

    id: str
    name: str
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    config: dict[str, Any]
    axes: dict[str, str | None]
    features: set[str]
    artifacts: list[Logged]
    files: Any = field(repr=False)

    def column(self, key: str) -> list[Any]:
        """The values of one history key, in order, without the rows that lack it."""
        return [row[key] for row in self.history if key in row]

    def artifacts_of(self, type: str) -> list[Logged]:
        return [artifact for artifact in self.artifacts if artifact.type == type]

    def axis(self, key: str) -> str | None:
        """The x axis that ``define_metric`` gave to a key."""
        found = [axis for name, axis in self.axes.items() if fnmatchcase(key, name) and axis != key]
        return next((axis for axis in found if axis), None)

    def file(self, path: str) -> bytes:
        """A file of the run: media, the graph."""
        return bytes(self.files(path))


class Recorder:
    """Starts runs below its own directory; ``finish`` returns what the run recorded."""

    mode: str

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.run: Any = None
        self.warnings: list[str] = []

    def start(self, **settings: Any) -> Any:
        defaults = {"project": "lamina", "dir": str(self.directory), "mode": self.mode}
        self.run = wandb.init(**(defaults | settings))
        return self.run

    def finish(self) -> Arrived:
        raise NotImplementedError

    def staged(self) -> set[str]:
        """The files in wandb's staging area."""
        return {str(path) for path in self.directory.rglob("artifacts/staging/*")}


class OfflineRecorder(Recorder):
    mode = "offline"

    def finish(self) -> Arrived:
        directory, name = Path(self.run.dir).parent, self.run.name
        self.run.finish()
        found = offline_run.read(directory)
        return Arrived(
            self.run.id,
            name,
            found.history,
            found.summary,
            found.config,
            found.step_metrics,
            found.features,
            _offline_artifacts(found.artifacts),
            lambda path: (directory / "files" / path).read_bytes(),
        )


def _offline_artifacts(logged: list[offline_run.LoggedArtifact]) -> list[Logged]:
    owner = {(item.name, alias): item for item in logged for alias in item.aliases}
    return [
        Logged(
            item.client_id,
            item.name,
            item.type,
            {alias for alias in item.aliases if owner[item.name, alias] is item},
            item.used,
            item.metadata,
            {path: _file(entry, lambda entry=entry: entry.read_bytes()) for path, entry in item.entries.items()},
        )
        for item in logged
    ]


class OnlineRecorder(Recorder):
    mode = "online"

    def __init__(self, directory: Path, server: Server) -> None:
        super().__init__(directory)
        self.server = server

    def finish(self) -> Arrived:
        self.run.finish()
        store, run_id = self.server.store, self.run.id
        assert self.server.errors == []
        view = store.run(run_id)
        internal = store._run(run_id).config["_wandb"]["value"]
        return Arrived(
            run_id,
            view.name,
            store.history(run_id),
            store.summary(run_id),
            view.config,
            _axes(internal.get("m", [])),
            {Feature.DESCRIPTOR.fields_by_number[number].name for number in internal["t"]["3"]},
            self._artifacts(run_id),
            lambda path: store.run_file(run_id, path),
        )

    def _artifacts(self, run_id: str) -> list[Logged]:
        store = self.server.store
        versions = [item for name in store.collections for item in store.artifacts(name)]
        mine = [item for item in versions if run_id in (item.created_by, *item.used_by)]
        mine.sort(key=lambda item: _number(item.id))
        return [
            Logged(
                _hex(item.id),
                item.name.partition(":")[0],
                item.type,
                set(item.aliases),
                run_id in item.used_by,
                item.metadata,
                {
                    path: _file(entry, lambda item=item, path=path: store.file_bytes(item.name, path))
                    for path, entry in item.entries.items()
                },
            )
            for item in mine
        ]


def _hex(artifact_id: str) -> str:
    return base64.b64decode(artifact_id).hex()


def _number(artifact_id: str) -> int:
    return int(base64.b64decode(artifact_id).rpartition(b":")[2])


def _axes(metrics: list[dict[str, Any]]) -> dict[str, str | None]:
    names = [metric.get("1") or metric["2"] for metric in metrics]
    return {
        name: names[metric["5"] - 1] if "5" in metric else None for name, metric in zip(names, metrics, strict=True)
    }


def _file(entry: Any, read: Any) -> File:
    if not entry.ref:
        content = read()
        assert len(content) == entry.size
        return File(entry.size, content)
    match = re.fullmatch(r"wandb-(?:client-)?artifact://([^/]+)/(.+)", entry.ref)
    assert match is not None, entry.ref
    return File(entry.size, None, match[1], match[2])


@pytest.fixture(params=["offline", "online"])
def recorder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    monkeypatch.chdir(tmp_path)  # artifact downloads go to the working directory by default
    client = tmp_path / "client"
    warnings: list[str] = []
    monkeypatch.setattr(wandb, "termwarn", lambda message, **_: warnings.append(message))
    wandb.teardown()  # left by an earlier test, with other settings
    artifact_instance_cache.clear()  # each server assigns the same ids
    if request.param == "offline":
        for name in ("DATA", "CACHE", "CONFIG", "ARTIFACT"):
            monkeypatch.setenv(f"WANDB_{name}_DIR", str(client / name.lower()))
        monkeypatch.setenv("WANDB_SILENT", "true")
        client.mkdir()
        yield _recording(OfflineRecorder(client), warnings)
        _end()
        return
    with Server(tmp_path / "server") as server:
        for name, value in server.environment(client).items():
            monkeypatch.setenv(name, value)
        yield _recording(OnlineRecorder(client, server), warnings)
        _end()
        wandb.teardown()


def _recording(recorder: Recorder, warnings: list[str]) -> Recorder:
    recorder.warnings = warnings
    return recorder


def _end() -> None:
    if wandb.run is not None:
        wandb.finish()
