"""Hostile artifacts, folders and file names through the API: a typed error, nothing outside the target, nothing hangs.

The engine's decoders are fuzzed in ``rust/core/tests/hostile.rs``. ``test_damage.py`` has wrong descriptions and
chunks, ``test_h5.py`` hostile HDF5 and zip files.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lamina
import lamina.wandb
from lamina.errors import ArtifactError, CorruptDataError, LaminaError
from lamina.fetching.packs import read_placement
from travel_writer import blake3, make_placement, restored, sample

posix = pytest.mark.skipif(os.name != "posix", reason="pipes and devices")

# --- Special files: opening a pipe without a writer blocks for ever; a device never ends.

SPECIAL: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
    "folder": lambda path: path.mkdir(),
}

READ = """
import sys, lamina, resource
from lamina.errors import LaminaError
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
try:
    lamina.export(sys.argv[1], sys.argv[2])
except LaminaError as error:
    print(type(error).__name__)
"""


@posix
@pytest.mark.parametrize("kind", SPECIAL)
def test_special_files_are_refused_at_once(kind: str, tmp_path: Path) -> None:
    cases = []
    for number, name in enumerate(["lamina.json", "lamina.placement", "packs"]):
        artifact = sample().write_artifact(tmp_path / f"artifact-{number}")
        path = next((artifact / name).iterdir()) if name == "packs" else artifact / name
        path.unlink()
        SPECIAL[kind](path)
        cases.append(artifact)
    for number, name in enumerate(["config.json", "snapshots", "packs"]):
        repository = sample().write_repository(tmp_path / f"repository-{number}")
        path = repository / name if name == "config.json" else next((repository / name).iterdir())
        path.unlink()
        SPECIAL[kind](path)
        cases.append(repository)
    script = READ.replace("try:", "for source in sys.argv[2:]:\n  try:").replace("\n    lamina", "\n      lamina")
    script = script.replace("sys.argv[1], sys.argv[2]", "source, sys.argv[1]")
    script = script.replace("\nexcept", "\n  except").replace("\n    print", "\n      print")
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "out"), *map(str, cases)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    assert len(names) == len(cases), done.stdout
    assert set(names) <= {"CorruptDataError", "StorageError", "NotFoundError", "InvalidInputError"}
    assert not (tmp_path / "out").exists() or not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]


# --- The target of an export.


@posix
def test_a_link_in_the_way_is_replaced_and_not_followed(tmp_path: Path) -> None:
    artifact = sample().write_artifact(tmp_path / "artifact")
    outside = tmp_path / "precious"
    outside.write_bytes(b"precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.weights.h5").symlink_to(outside)
    lamina.export(artifact, tmp_path / "out")
    assert outside.read_bytes() == b"precious"
    assert restored(tmp_path / "out") == sample().files


@pytest.mark.parametrize("target", ["file", "file/below"])
def test_a_target_that_is_no_folder(target: str, tmp_path: Path) -> None:
    artifact = sample().write_artifact(tmp_path / "artifact")
    (tmp_path / "file").write_bytes(b"mine")
    before = restored(tmp_path)
    with pytest.raises(LaminaError):
        lamina.export(artifact, tmp_path / target)
    assert restored(tmp_path) == before


# --- False manifests.


class Artifact:
    """A logged artifact with these entries. It records which files are requested, and has none of them."""

    name, entity, project, version = "evil:v0", "nobody", "none", "v0"

    def __init__(self, entries: dict[str, Any]) -> None:
        files = {path: SimpleNamespace(size=size, ref=None, digest="", extra={}) for path, size in entries.items()}
        self.manifest = SimpleNamespace(entries=files)
        self.asked: list[str] = []

    def wait(self) -> Artifact:
        return self

    def files(self, names: list[str], per_page: int) -> list[Any]:
        self.asked += names
        return []


@pytest.mark.parametrize(
    "entries",
    [
        {"/etc/passwd": 1},
        {"../out": 1},
        {"a/../../out": 1},
        {"a//b": 1},
        {"./a": 1},
        {"a/": 1},
        {"": 1},
        {"C:evil": 1},
        {"a\\..\\b": 1},
        {"a\0b": 1},
        {"a\nb": 1},
        {"a\u202eb": 1},
        {"\ud800": 1},
        {"a": -1},
        {"a": 1 << 62},
        {"a": 1 << 70},
        {"a": "1"},
        {"a": None},
        {"a": True},
        {"A": 1, "a": 1},
        {"a": 1, "a/b": 1},
        {"a/b": 1, "A": 1},
        {"caf\u00e9": 1, "cafe\u0301": 1},
        {"a": 1, "a.": 1},
        {"a": 1, "a ./b": 1},
    ],
    ids=repr,
)
def test_a_manifest_that_lies(entries: dict[str, Any]) -> None:
    artifact = Artifact(entries)
    with pytest.raises(CorruptDataError):
        lamina.wandb.open_artifact(artifact)
    assert not artifact.asked


def test_a_manifest_of_usual_names() -> None:
    artifact = Artifact({"packs/" + "0" * 64 + ".pack": 1 << 36, "assets/ü b.json": 5, "A": 1, "ab": 1})
    with pytest.raises(ArtifactError, match="has no file"):
        lamina.wandb.open_artifact(artifact)
    assert sorted(artifact.asked) == sorted(artifact.manifest.entries)


@pytest.mark.parametrize(
    ("length", "tail"),
    [(1 << 62, None), ((1 << 64) - 1, None), (None, 0), (None, 79), (None, 1 << 40), (0, None), (None, (1 << 64) - 1)],
)
def test_a_placement_that_lies_about_lengths(length: int | None, tail: int | None, tmp_path: Path) -> None:
    artifact = sample().write_artifact(tmp_path / "artifact")
    data = bytearray(make_placement([next((artifact / "packs").iterdir()).read_bytes()])[:-32])
    for at, value in ((48, length), (56, tail)):
        if value is not None:
            struct.pack_into("<Q", data, at, value)
    lie = bytes(data) + blake3(bytes(data))
    with pytest.raises(CorruptDataError):
        read_placement(lie, "it")
    (artifact / "lamina.placement").write_bytes(lie)
    with pytest.raises(CorruptDataError):
        lamina.export(artifact, tmp_path / "out")
    assert not (tmp_path / "out").exists()
