"""Damaged and hostile data through the Python API: `CorruptDataError` or the right data, never anything else."""

from __future__ import annotations

import itertools
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_travel import ENCODED, FORBIDDEN, HOLLOW, PACKS, STRUCTURES

import lamina
from engine_repositories import File, Saved, Tensor, save_memory, write_artifact
from lamina.errors import CorruptDataError, NotFoundError, UnsupportedFormatError
from lamina.repository import repository
from lamina.repository.content import Content
from lamina.sources import open_artifact_directory, resolve
from peak_memory import PEAK
from travel_writer import (
    Chunk,
    Sample,
    blake3,
    hollow_structure,
    make_envelope,
    make_pack,
    make_placement,
    restored,
    sample,
    self_repeating,
    zstd,
)

# --- Accidental damage: truncated files and flipped bits ---


def _saved() -> Saved:
    tensors = [
        Tensor("a/kernel", "<f4", np.linspace(-1, 1, 60, dtype="<f4").reshape(6, 10)),
        Tensor("b/bias", "|u1", np.zeros(300, "|u1")),
    ]
    parts = tuple((b"head %d " % number, tensor) for number, tensor in enumerate(tensors))
    seed = Tensor("seed", "<u4", np.array([1, 2], "<u4"), "training")
    return Saved([File("m.weights.h5", parts, b"tail " * 40), File("empty")], [seed], {"series": "s"})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small repository with an alias, and the artifact of its snapshot."""
    folder = tmp_path_factory.mktemp("written")
    target = repository.open_or_create(folder / "repository")
    snapshot = save_memory(target, _saved())
    target.set_alias(snapshot, "mine")
    write_artifact(snapshot, folder / "artifact")
    return folder


def _arrays(content: Content) -> dict[str, bytes]:
    training = dict(zip(content.training, content.read(content.training.values()), strict=True))
    arrays = content.read_named() | {f":{name}": array for name, array in training.items()}
    return {name: array.tobytes() for name, array in arrays.items()}


def _exported(content: Content, out: Path) -> dict[str, bytes]:
    try:
        content.export(out)
        return restored(out)
    finally:
        left = [path.name for path in out.rglob(".*")]
        shutil.rmtree(out, ignore_errors=True)
        assert left == []


def read_repository(folder: Path, out: Path) -> dict[str, bytes]:
    """Everything that the API reads from the small repository; it is opened again, so nothing is cached."""
    snapshot = lamina.open(folder).snapshot("s:mine")
    content = resolve(snapshot).content
    assert isinstance(content, Content)
    return _arrays(content) | _exported(content, out) | {"alias": snapshot.id.encode()}


def read_artifact(folder: Path, out: Path) -> dict[str, bytes]:
    content = open_artifact_directory(folder).content
    assert isinstance(content, Content)
    return _arrays(content) | _exported(content, out)


REPOSITORY = ["config.json", "snapshots/*.json", "packs/*.pack", "aliases/*.json"]
ARTIFACT = ["lamina.json", "lamina.placement", "packs/*.pack"]
CASES = [("repository", part) for part in REPOSITORY] + [("artifact", part) for part in ARTIFACT]
READ: dict[str, Callable[[Path, Path], dict[str, bytes]]] = {
    "repository": read_repository,
    "artifact": read_artifact,
}


@pytest.fixture
def place(written: Path, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[str, Path, Path]:
    """A copy of the small repository or artifact, and the one file in it that is to be damaged."""
    layout, part = request.param
    folder = shutil.copytree(written / layout, tmp_path / layout)
    (path,) = folder.glob(part)
    return layout, folder, path


def _read_or_refuse(layout: str, folder: Path, out: Path) -> dict[str, bytes] | None:
    try:
        return READ[layout](folder, out)
    except CorruptDataError:
        return None


def _whole_pack_needed(layout: str, path: Path) -> bool:
    """An artifact's placement contains the header and footer data of its packs; they are not read."""
    return not (layout == "artifact" and path.suffix == ".pack")


@pytest.mark.parametrize("place", CASES, indirect=True, ids="-".join)
def test_a_file_cut_anywhere(place: tuple[str, Path, Path], tmp_path: Path) -> None:
    layout, folder, path = place
    data, whole = path.read_bytes(), READ[layout](folder, tmp_path / "out")
    for length in range(len(data)):
        path.write_bytes(data[:length])
        found = _read_or_refuse(layout, folder, tmp_path / "out")
        assert found is None or (found == whole and not _whole_pack_needed(layout, path)), length
    path.write_bytes(data + b"\0")
    found = _read_or_refuse(layout, folder, tmp_path / "out")
    assert found is None or (found == whole and not _whole_pack_needed(layout, path))
    path.unlink()
    with pytest.raises((CorruptDataError, NotFoundError)):
        READ[layout](folder, tmp_path / "out")


def _flips(data: bytes) -> Iterator[bytes]:
    """Flip one bit of each byte, a different one each time, and every bit of the last 120 bytes."""
    every = range(max(0, len(data) - 120), len(data))
    chosen = [(position, position * 5 % 8) for position in range(len(data))]
    for position, bit in [*chosen, *itertools.product(every, range(8))]:
        changed = bytearray(data)
        changed[position] ^= 1 << bit
        yield bytes(changed)


@pytest.mark.parametrize("place", CASES, indirect=True, ids="-".join)
def test_a_flipped_bit(place: tuple[str, Path, Path], tmp_path: Path) -> None:
    layout, folder, path = place
    data, whole = path.read_bytes(), READ[layout](folder, tmp_path / "out")
    harmless = 0
    for changed in _flips(data):
        path.write_bytes(changed)
        found = _read_or_refuse(layout, folder, tmp_path / "out")
        assert found in (None, whole)
        harmless += found is not None
        if found is not None and layout == "repository":
            with pytest.raises(CorruptDataError):
                lamina.open(folder).verify(full=True)
    # In packs, zstd frames have unused bits, and an artifact's reader does not read footers.
    assert harmless == 0 or path.suffix == ".pack"


@pytest.mark.parametrize("place", [("repository", "packs/*.pack")], indirect=True, ids="-".join)
def test_prune_deletes_nothing_where_something_is_damaged(place: tuple[str, Path, Path]) -> None:
    _, folder, path = place
    save_memory(lamina.open(folder), Saved([File("b", tail=b"b")], fields={"series": "s"}))
    path.write_bytes(path.read_bytes()[:-1])
    before = restored(folder)
    with pytest.raises(CorruptDataError, match="nothing was deleted"):
        lamina.open(folder).prune(lamina.Keep(last=1))
    changed = {name for name, data in restored(folder).items() if before.get(name) != data}
    assert changed <= {"prune.lock"}


# --- Hostile data: valid digests around invalid content ---


def read_sample(folder: Path, out: Path) -> dict[str, bytes]:
    """Read from an artifact directory, and from a repository with one snapshot; both give the same."""
    opened = open_artifact_directory(folder) if (folder / "lamina.json").exists() else None
    content = opened.content if opened else resolve(folder).content
    assert isinstance(content, Content)
    return _arrays(content) | _exported(content, out)


def _write(model: Sample, folder: Path, layout: str) -> Path:
    return model.write_artifact(folder, 2) if layout == "artifact" else model.write_repository(folder)


@pytest.mark.parametrize("layout", ["artifact", "repository"])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_engine_reads_what_another_writer_writes(tmp_path: Path, layout: str, depth: int) -> None:
    model = sample(depth=depth)
    tensors = {name: array.tobytes() for name, array in model.tensors.items()}
    found = read_sample(_write(model, tmp_path / "written", layout), tmp_path / "out")
    assert found == tensors | model.files


@pytest.mark.parametrize("layout", ["artifact", "repository"])
@pytest.mark.parametrize("case", STRUCTURES)
def test_a_wrong_description(tmp_path: Path, case: str, layout: str) -> None:
    model = sample()
    STRUCTURES[case](model)
    with pytest.raises(CorruptDataError):
        read_sample(_write(model, tmp_path / "written", layout), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", FORBIDDEN)
def test_a_forbidden_path_writes_nothing(tmp_path: Path, path: str) -> None:
    model = sample()
    model.structure["files"][1]["path"] = path
    artifact = model.write_artifact(tmp_path / "inner" / "artifact")
    before = restored(tmp_path)
    with pytest.raises(CorruptDataError):
        read_sample(artifact, tmp_path / "inner" / "out")
    assert restored(tmp_path) == before


@pytest.mark.parametrize("name", ["con", "aux.h5", "a b", "a.", "ß/é"])
def test_an_unusual_path_is_allowed(tmp_path: Path, name: str) -> None:
    model = sample()
    model.structure["files"][2]["path"] = name
    assert read_sample(model.write_artifact(tmp_path / "artifact"), tmp_path / "out")[name] == b""


@pytest.mark.parametrize("case", sorted(set(ENCODED) - {"window of 16 MiB"}))  # a reader may accept it
def test_a_wrongly_encoded_chunk(tmp_path: Path, case: str) -> None:
    codec, encoded = ENCODED[case]
    file = {"path": "a", "size": 1000, "tensors": [], "extents": [[0, 1000]]}
    model = Sample({"a": HOLLOW}, {}, [Chunk(HOLLOW, codec, encoded)], {"files": [file], "training": []})
    with pytest.raises(CorruptDataError):
        read_sample(model.write_artifact(tmp_path / "artifact"), tmp_path / "out")


@pytest.mark.parametrize("case", sorted(PACKS))
def test_a_wrong_pack(tmp_path: Path, case: str) -> None:
    artifact = sample().write_artifact(tmp_path / "artifact")
    repository = sample().write_repository(tmp_path / "repository")
    pack = PACKS[case](sample().body_and_chunks()[1])
    for folder in (artifact, repository):
        (path,) = (folder / "packs").iterdir()
        path.write_bytes(pack)
    (artifact / "lamina.placement").write_bytes(make_placement([pack]))
    for folder in (artifact, repository):
        with pytest.raises(CorruptDataError):
            read_sample(folder, tmp_path / "out")


def test_a_placement_names_its_packs_in_order_and_once(tmp_path: Path) -> None:
    artifact = sample().write_artifact(tmp_path / "artifact")
    entry = (artifact / "lamina.placement").read_bytes()[16:-32]
    for packs in (0, 2, 3, (1 << 32) - 1):
        data = b"LAMINAPL" + struct.pack("<II", 1, packs) + entry * 2
        (artifact / "lamina.placement").write_bytes(data + blake3(data))
        with pytest.raises(CorruptDataError):
            read_sample(artifact, tmp_path / "out")


def test_nodes_that_repeat_themselves(tmp_path: Path) -> None:
    with pytest.raises(CorruptDataError):
        read_sample(self_repeating().write_artifact(tmp_path / "artifact"), tmp_path / "out")


def test_a_structure_that_is_a_bomb(tmp_path: Path) -> None:
    spaces = bytes([32]) * (4 << 20)
    model = sample()
    model.content.append(Chunk(spaces, 1, zstd(spaces)))
    model.state.update(structure=[model.content[-1].pair] * 257)
    with pytest.raises(CorruptDataError, match="structure"):
        read_sample(model.write_artifact(tmp_path / "artifact"), tmp_path / "out")


LOOKS_FOR_LOSSES = (
    PEAK
    + """
import sys
import lamina
from lamina.errors import CorruptDataError
try:
    lamina.open(sys.argv[1]).verify()
except CorruptDataError as error:
    (lost,) = error.report.lost
    assert lost.everything
print(peak())
"""
)


@pytest.mark.parametrize("distinct", [1, 20])
def test_a_structure_that_takes_no_room(tmp_path: Path, distinct: int) -> None:
    """A few KB that would expand to gigabytes, by naming one chunk many times or by compressing too well."""
    model = hollow_structure(distinct)
    artifact = model.write_artifact(tmp_path / "artifact")
    with pytest.raises(CorruptDataError, match=r"a structure of \d+ bytes cannot be stored as"):
        read_sample(artifact, tmp_path / "out")
    # The search for lost content does not read it either.
    done = subprocess.run(
        [sys.executable, "-c", LOOKS_FOR_LOSSES, str(model.write_repository(tmp_path / "repo"))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 300, "MiB"


def test_json_that_is_deep(tmp_path: Path) -> None:
    artifact = sample().write_artifact(tmp_path / "artifact")
    envelope = make_envelope("snapshot", {"metadata": 0})
    deep = envelope.replace(b'"metadata":0', b'"metadata":' + b"[" * 100_000 + b"]" * 100_000)
    start = deep.index(b'"blake3":"') + 10
    digest = blake3(deep[:start] + deep[start + 64 :]).hex().encode()
    (artifact / "lamina.json").write_bytes(deep[:start] + digest + deep[start + 64 :])
    with pytest.raises(CorruptDataError):
        read_sample(artifact, tmp_path / "out")


BODIES: dict[str, dict[str, Any]] = {
    "number as text": {"epoch": "3"},
    "number with a point": {"epoch": 3.5},
    "value of text": {"value": "good"},
    "mode of text": {"value": 1.0, "mode": "best"},
    "huge number": {"epoch": 1 << 70},
    "no series": {"series": None},
    "list as metadata": {"metadata": []},
    "state as text": {"state": "all"},
    "feature as number": {"required": [1]},
    "features as text": {"optional": "none"},
}


@pytest.mark.parametrize("case", BODIES)
def test_a_field_of_another_type(tmp_path: Path, case: str) -> None:
    artifact = sample().write_artifact(tmp_path / "artifact")
    body, _ = sample().body_and_chunks()
    (artifact / "lamina.json").write_bytes(make_envelope("snapshot", {**body, **BODIES[case]}))
    with pytest.raises(CorruptDataError):
        read_sample(artifact, tmp_path / "out")


# --- Data of a newer lamina is not damage ---


def test_a_newer_version_or_feature_is_named(tmp_path: Path) -> None:
    artifact = sample().write_artifact(tmp_path / "artifact")
    body, chunks = sample().body_and_chunks()
    good = {path.name: path.read_bytes() for path in artifact.iterdir() if path.is_file()}

    def refuses(name: str, data: bytes, what: str) -> None:
        (artifact / name).write_bytes(data)
        with pytest.raises(UnsupportedFormatError, match=what):
            read_sample(artifact, tmp_path / "out")
        (artifact / name).write_bytes(good[name])

    refuses("lamina.json", make_envelope("snapshot", body, version=2), "version 2")
    refuses("lamina.json", make_envelope("snapshot", {**body, "required": ["sparkle"]}), "sparkle")
    refuses("lamina.placement", make_placement([], version=9), "version 9")
    refuses("lamina.placement", make_placement([make_pack(chunks, version=3)]), "version 3")
    refuses("lamina.placement", make_placement([make_pack(chunks, required=1 << 5)]), "bit 5")


def test_a_delta_chunk_hinders_only_who_needs_it(tmp_path: Path) -> None:
    chunks = [Chunk(bytes(range(10))), Chunk(bytes(range(20)), 3, b"delta")]
    files = [{"path": str(n), "size": 10, "tensors": [], "extents": [[10 * n, 10]]} for n in range(2)]
    for wanted in (1, 2):
        model = Sample({}, {}, chunks[:wanted], {"files": files[:wanted], "training": []})
        artifact = model.write_artifact(tmp_path / str(wanted))
        _, stored = model.body_and_chunks()
        pack = make_pack([*stored, *chunks[wanted:]], required=1, base=bytes(32))
        (artifact / "packs" / f"{blake3(pack).hex()}.pack").write_bytes(pack)
        (artifact / "lamina.placement").write_bytes(make_placement([pack]))
    assert read_sample(tmp_path / "1", tmp_path / "out") == {"0": bytes(range(10))}
    with pytest.raises(CorruptDataError, match=bytes(32).hex()):
        read_sample(tmp_path / "2", tmp_path / "out")
