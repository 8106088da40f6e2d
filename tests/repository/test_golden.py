"""Files of format version 1, which the engine and the stand-alone reader must always be able to read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from data.make_golden import EXPECTED, GOLDEN, described, file_digests, sha256

import lamina
from engine_repositories import File, Saved, check_with_travel, save_memory
from lamina.repository.snapshot import Snapshot
from lamina.sources import open_artifact_directory, resolve
from travel_writer import restore, restored

pytestmark = pytest.mark.quick

DOCUMENT: dict[str, Any] = json.loads(EXPECTED.read_bytes())
SNAPSHOTS: list[dict[str, Any]] = DOCUMENT["snapshots"]


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """The golden files are unchanged: no test wrote into them, and they were not generated again."""
    assert file_digests(GOLDEN) == DOCUMENT["files"]
    yield
    assert file_digests(GOLDEN) == DOCUMENT["files"]


def _digests(folder: Path) -> dict[str, str]:
    return {path: sha256(data) for path, data in restored(folder).items()}


def _training(snapshot: Snapshot) -> dict[str, Any]:
    content = resolve(snapshot).content
    return dict(zip(content.training, content.read(content.training.values()), strict=True))


@pytest.mark.parametrize("expected", SNAPSHOTS, ids=lambda expected: str(expected["number"]))
def test_the_engine_reads_each_snapshot(tmp_path: Path, expected: dict[str, Any]) -> None:
    snapshot = lamina.open(GOLDEN / "repository").snapshot(expected["id"])
    found = (snapshot.number, snapshot.id, snapshot.series, snapshot.epoch)
    assert found == tuple(expected[name] for name in ("number", "id", "series", "epoch"))
    assert set(expected["aliases"]) - {"latest", "best"} <= set(snapshot.aliases)
    lamina.export(snapshot, tmp_path)
    assert _digests(tmp_path) == expected["files"]
    assert described(lamina.read_tensors(snapshot)) == expected["tensors"]
    assert described(_training(snapshot)) == expected["training"]


@pytest.mark.parametrize("expected", SNAPSHOTS, ids=lambda expected: str(expected["number"]))
def test_the_travelling_reader_reads_each_snapshot(tmp_path: Path, expected: dict[str, Any]) -> None:
    source = restore.open_source(GOLDEN / "repository")
    source.restore(tmp_path, expected["id"])
    assert _digests(tmp_path) == expected["files"]
    assert described(source.tensors(expected["number"])) == expected["tensors"]
    assert described(source.training(expected["number"])) == expected["training"]
    source.verify(expected["number"])


def test_both_read_the_artifact(tmp_path: Path) -> None:
    (expected,) = (snapshot for snapshot in SNAPSHOTS if snapshot["id"] == DOCUMENT["artifact"])
    opened = open_artifact_directory(GOLDEN / "artifact")
    assert (opened.snapshot.id, opened.snapshot.number) == (expected["id"], None)
    opened.content.export(tmp_path / "engine")
    source = restore.open_source(GOLDEN / "artifact")
    source.restore(tmp_path / "travel")
    for folder in ("engine", "travel"):
        assert _digests(tmp_path / folder) == expected["files"]
    assert described(opened.content.read_named()) == expected["tensors"]
    assert described(source.tensors()) == expected["tensors"]
    source.verify()


def test_the_repository_is_whole_and_its_names_lead_where_they_did() -> None:
    repository = lamina.open(GOLDEN / "repository")
    assert repository.series == ["opaque ✓", "run-a", "run-b"]
    repository.verify(full=True)
    numbers = {"run-a:favourite": 2, "run-a:best": 3, "run-a:epoch_1": 2, "run-b:published": 5, "opaque ✓:latest": 4}
    assert {name: repository.snapshot(name).number for name in numbers} == numbers
    body = json.loads(repository.snapshot("run-a:latest")._core.body())
    assert body["state"]["depth"] == 1
    assert body["logs"] == {"val_loss": 0.5, "accuracy": "nan"}


def test_every_codec_is_among_the_golden_chunks() -> None:
    index = restore.open_source(GOLDEN / "repository")._read_index()
    codecs = {place.codec for places in index.values() for place in places}
    assert codecs == {restore.RAW, restore.ZSTD, restore.PLANES}
    assert len(list((GOLDEN / "artifact" / "packs").iterdir())) == 2


def test_a_copy_can_be_written_and_pruned(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "repository", tmp_path / "copy")
    repository = lamina.open(tmp_path / "copy")
    state = Saved([File("a", tail=b"later")], fields={"series": "run-a"})
    assert save_memory(repository, state).number == 7  # 6 was deleted, but its claim remains
    assert repository.prune(lamina.Keep(last=1)).snapshots == [3]  # 2 has an alias and an upload
    repository.verify(full=True)
    assert check_with_travel(tmp_path / "copy") == 4
