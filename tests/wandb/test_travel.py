"""The stand-alone reader in artifacts, against data of a writer that was made from docs/format.md alone."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lamina.errors import CorruptDataError
from lamina.sources import resolve
from peak_memory import PEAK
from travel_writer import (
    SCRIPT,
    Chunk,
    Sample,
    blake3,
    hollow_structure,
    make_envelope,
    make_pack,
    make_placement,
    planes,
    restore,
    restored,
    sample,
    self_repeating,
    zstd,
)

pytestmark = pytest.mark.wandb

DamagedError, UnsupportedError, RestoreError = (
    restore.DamagedError,
    restore.UnsupportedError,
    restore.RestoreError,
)


def read_all(path: Path) -> dict[str, bytes]:
    """The results of ``restore`` and ``tensors``, in memory."""
    source = restore.open_source(path)
    state = restore.State(source, source.find())
    found = {
        file["path"]: b"".join(bytes(part) for extent in file["extents"] for part in state.read(*extent))
        for file in state.files
    }
    arrays = source.tensors() | {f":{name}": array for name, array in source.training().items()}
    return found | {f":{name}": array.tobytes() for name, array in arrays.items()}


def _start(model: Sample, index: int) -> int:
    return sum(len(chunk.data) for chunk in model.content[:index])


def only_pack(folder: Path) -> Path:
    (path,) = (folder / "packs").iterdir()
    return path


# --- BLAKE3 ---

# From the official test vectors of BLAKE3: the input repeats the bytes 0 … 250.
VECTORS = {
    0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
    1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
    1025: "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
    2048: "e776b6028c7cd22a4d0ba182a8bf62205d2ef576467e838ed6f2529b85fba24a",
    102400: "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085",
}
EDGES = [64, 128, 1024, 2048, 3072, 4096, 5120, 8192, 31744, 1 << 20, restore.PIECE, 3 * restore.PIECE]


@pytest.mark.parametrize("length", VECTORS)
def test_blake3_gives_the_published_digests(length: int) -> None:
    data = bytes(position % 251 for position in range(length))
    assert blake3(data).hex() == VECTORS[length]


def test_blake3_agrees_with_the_package_at_every_edge() -> None:
    package = pytest.importorskip("blake3")
    data = np.random.default_rng(1).bytes(3 * restore.PIECE + 1)
    for length in (edge + step for edge in EDGES for step in (-1, 0, 1)):
        assert blake3(data[:length]) == package.blake3(data[:length]).digest(), length


def test_blake3_may_be_fed_in_parts() -> None:
    data = np.random.default_rng(2).bytes(restore.PIECE + 5000)
    hasher = restore.NumpyBlake3()
    for start in range(0, len(data), 999_983):
        hasher.update(data[start : start + 999_983])
    assert hasher.digest() == blake3(data)


# --- Round trips ---


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("packs", [1, 3])
def test_an_artifact_gives_its_files_and_tensors_back(tmp_path: Path, depth: int, packs: int) -> None:
    model = sample(depth=depth)
    source = restore.open_source(model.write_artifact(tmp_path / "artifact", packs))
    written = source.restore(tmp_path / "out")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in written] == list(model.files)
    assert restored(tmp_path / "out") == dict(sorted(model.files.items()))
    tensors = source.tensors() | {f":{name}": array for name, array in source.training().items()}
    assert list(tensors) == list(model.tensors)
    for name, array in model.tensors.items():
        assert tensors[name].shape == array.shape
        assert tensors[name].tobytes() == array.tobytes()
    assert tensors[":step"].dtype.str == ">i8"
    source.verify()


def test_chunks_of_the_largest_size_span_packs_and_tensors(tmp_path: Path) -> None:
    data = np.random.default_rng(3).bytes(9 << 20)
    content = [Chunk(data[at : at + (4 << 20)]) for at in range(0, len(data), 4 << 20)]
    flat = np.zeros(1 << 20, "<u4").tobytes()
    content.append(Chunk(flat, 2, planes(flat, 4, False)))
    structure = {
        "files": [
            {"path": "a", "size": 7 << 20, "tensors": [], "extents": [[3 << 20, 5 << 20], [1, 2 << 20]]},
        ],
        "training": [["t", "<u4", [9 << 18], "training", 0], ["z", "|u1", [1 << 22], "counters", 9 << 20]],
    }
    model = Sample({"a": data[3 << 20 : 8 << 20] + data[1 : 1 + (2 << 20)]}, {}, content, structure)
    source = restore.open_source(model.write_artifact(tmp_path / "artifact", 2))
    source.restore(tmp_path / "out")
    assert restored(tmp_path / "out") == model.files
    assert source.training()["t"].tobytes() == data
    assert not source.training()["z"].any()


def test_a_missing_ml_dtypes_leaves_opaque_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sample()
    model.structure["files"][1]["tensors"] = [["eight", "float8_e5m2", [4], "weights", _start(model, 3)]]
    source = restore.open_source(model.write_artifact(tmp_path / "artifact"))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    tensors = source.tensors()
    assert tensors["dense/1"].dtype == np.dtype("V2")
    assert tensors["eight"].dtype == np.uint8
    assert tensors["dense/1"].tobytes() == model.tensors["dense/1"].tobytes()


def test_a_known_ml_dtype_is_given_as_such(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    tensors = restore.open_source(sample().write_artifact(tmp_path / "artifact")).tensors()
    assert tensors["dense/1"].dtype == np.dtype(ml_dtypes.bfloat16)


def test_a_name_that_stands_in_two_files_is_told_apart(tmp_path: Path) -> None:
    model = sample()
    model.structure["files"][1]["tensors"] = [["dense/0", "|u1", [2], "weights", _start(model, 3)]]
    model.structure["training"][0][0] = "dense/0"
    source = restore.open_source(model.write_artifact(tmp_path / "artifact"))
    names = [f"model.weights.h5:dense/{index}" for index in range(3)]
    assert list(source.tensors()) == [*names, "assets/ü/a.json:dense/0"]
    assert list(source.training()) == ["dense/0"]


def test_a_repository_gives_each_of_its_snapshots(tmp_path: Path) -> None:
    first, second = sample(seed=1), sample(seed=2, depth=1)
    second.fields = {"future": {"unknown": 1}, "optional": ["sparkle"]}
    first.write_repository(tmp_path / "repository", 4)
    second.write_repository(tmp_path / "repository", 7)
    (tmp_path / "repository" / "snapshots" / "0000000008.claim").touch()
    source = restore.open_source(tmp_path / "repository")
    snapshots = source.snapshots()
    assert [(snapshot["number"], snapshot["epoch"]) for snapshot in snapshots] == [(4, 3), (7, 3)]
    for wanted, model in [(None, second), (7, second), (4, first), (snapshots[0]["id"], first)]:
        source.restore(tmp_path / f"out-{wanted}", wanted)
        assert restored(tmp_path / f"out-{wanted}") == dict(sorted(model.files.items()))
        source.verify(wanted)
    for wanted in (5, "5", "ab" * 16):
        with pytest.raises(RestoreError, match="has no snapshot"):
            source.restore(tmp_path / "none", wanted)


def test_several_series_must_be_told_apart(tmp_path: Path) -> None:
    for number, series in enumerate(["a", "b", "a"], 1):
        model = sample(seed=number)
        model.fields["series"] = series
        model.write_repository(tmp_path / "repository", number)
    with pytest.raises(RestoreError, match=r"several series.*3 of 'a', 2 of 'b'"):
        restore.open_source(tmp_path / "repository").tensors()


def test_an_artifact_without_its_placement_is_read_from_the_packs(tmp_path: Path) -> None:
    model = sample(depth=1)
    artifact = model.write_artifact(tmp_path / "artifact", 2)
    (artifact / "lamina.placement").unlink()
    restore.open_source(artifact).restore(tmp_path / "out")
    assert restored(tmp_path / "out") == dict(sorted(model.files.items()))


# --- The command ---


def command(*arguments: object, cwd: Path, script: Path = SCRIPT) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, encoding="utf-8", check=False)


def test_the_script_restores_the_artifact_it_lies_in(tmp_path: Path) -> None:
    model = sample()
    artifact = model.write_artifact(tmp_path / "artifact")
    shutil.copy(SCRIPT, artifact)
    done = command(cwd=tmp_path, script=artifact / "restore.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        os.path.join("restored", *path.split("/")) for path in model.files
    ]
    assert restored(tmp_path / "restored") == dict(sorted(model.files.items()))
    again = command(cwd=tmp_path, script=artifact / "restore.py")
    assert again.returncode == 1
    assert "exists; choose" in again.stderr
    (tmp_path / "restored" / "empty").write_text("mine")
    assert command("--force", cwd=tmp_path, script=artifact / "restore.py").returncode == 0
    assert restored(tmp_path / "restored")["empty"] == b""


def test_an_old_zstandard_is_named(tmp_path: Path) -> None:
    """Older systems have Python 3.10 and a zstandard that cannot detect data after a frame."""
    (tmp_path / "zstandard.py").write_text("__version__ = '0.17.0'")
    done = subprocess.run(
        [sys.executable, SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert done.stderr == (
        "restore.py: zstandard 0.17.0 is too old, 0.19 is needed; run: pip install --upgrade numpy zstandard\n"
    )


def test_the_script_lists_and_picks_snapshots(tmp_path: Path) -> None:
    sample(seed=1).write_repository(tmp_path / "repository", 1)
    sample(seed=2).write_repository(tmp_path / "repository", 2)
    listed = command("repository", "--list", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["1", "2"]
    identity = listed[0].split()[1]
    assert command("repository", "--snapshot", identity, "-o", "out", cwd=tmp_path).returncode == 0
    assert restored(tmp_path / "out") == dict(sorted(sample(seed=1).files.items()))


def test_damage_is_one_sentence_that_names_the_place(tmp_path: Path) -> None:
    artifact = sample().write_artifact(tmp_path / "artifact")
    pack = only_pack(artifact)
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    pack.write_bytes(data)
    done = command("artifact", cwd=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    for part in ("'model.weights.h5'", f"pack {pack.stem}", f"chunk {sample().content[0].name.hex()}"):
        assert part in done.stderr
    assert restored(tmp_path / "restored") == {}
    pack.unlink()
    assert f"pack {pack.stem} is missing" in command("artifact", cwd=tmp_path).stderr
    nothing = command("nowhere", cwd=tmp_path)
    assert nothing.returncode == 1
    assert "neither an artifact" in nothing.stderr


# --- Damage ---


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of reads of data that differs in one bit: hash equal data only once."""
    monkeypatch.setattr(restore, "blake3", functools.lru_cache(1000)(restore.blake3))


PARTS = ["lamina.json", "lamina.placement", "packs/*.pack"]
REPOSITORY_PARTS = ["config.json", "snapshots/0000000001.json", "packs/*.pack"]
CASES = [("artifact", part) for part in PARTS] + [("repository", part) for part in REPOSITORY_PARTS]


def _small(tmp_path: Path, layout: str, part: str) -> tuple[Path, Path, bytes]:
    model = sample(small=True, depth=1)
    write = model.write_artifact if layout == "artifact" else model.write_repository
    folder = write(tmp_path / "source")
    (path,) = folder.glob(part)
    return folder, path, path.read_bytes()


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize(("layout", "part"), CASES)
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, layout: str, part: str) -> None:
    folder, path, data = _small(tmp_path, layout, part)
    read_all(folder)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(RestoreError):
            read_all(folder)
    path.write_bytes(data + b"\0")
    with pytest.raises(RestoreError):
        read_all(folder)


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize(("layout", "part"), CASES)
def test_a_flipped_bit_never_gives_wrong_data(tmp_path: Path, layout: str, part: str) -> None:
    folder, path, data = _small(tmp_path, layout, part)
    whole, harmless = read_all(folder), 0
    for position, bit in itertools.product(range(len(data)), range(8)):
        changed = bytearray(data)
        changed[position] ^= 1 << bit
        path.write_bytes(changed)
        try:
            assert read_all(folder) == whole, (position, bit)
            harmless += 1
        except RestoreError:
            continue
        with pytest.raises(RestoreError):
            restore.open_source(folder).verify()
    # With a placement, header, footer and trailer of a pack are not read; zstd frames have unused bits.
    unread = 88 + struct.unpack_from("<Q", data, len(data) - 72)[0] if layout == "artifact" else 0
    assert harmless <= (8 * unread + 64 if "packs" in part else 0)


def test_a_second_copy_stands_in_for_a_damaged_one(tmp_path: Path) -> None:
    artifact = sample().write_artifact(tmp_path / "artifact")
    pack = only_pack(artifact)
    body, chunks = sample().body_and_chunks()
    other = make_pack(chunks[:3][::-1])
    (artifact / "packs" / f"{blake3(other).hex()}.pack").write_bytes(other)
    whole = pack.read_bytes()
    (artifact / "lamina.placement").write_bytes(make_placement([whole, other]))
    pack.write_bytes(whole[:8] + bytes(200) + whole[208:])
    restore.open_source(artifact).restore(tmp_path / "out")
    assert restored(tmp_path / "out") == dict(sorted(sample().files.items()))
    assert body["series"] == "mnist"


def test_a_damaged_pack_or_snapshot_leaves_its_neighbours_readable(tmp_path: Path) -> None:
    repository = sample(seed=1).write_repository(tmp_path / "repository", 1)
    pack = only_pack(repository)
    sample(seed=2).write_repository(repository, 2)
    pack.write_bytes(pack.read_bytes()[:-1])
    source = restore.open_source(repository)
    source.verify(2)
    with pytest.raises(DamagedError, match=pack.stem):
        source.verify(1)
    (repository / "snapshots" / "0000000001.json").write_bytes(b"")
    assert "step" in restore.open_source(repository).training()


def test_an_existing_file_stops_the_restore_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "empty").write_text("mine")
    with pytest.raises(RestoreError, match="exists; choose"):
        restore.open_source(sample().write_artifact(tmp_path / "artifact")).restore(tmp_path / "out")
    assert restored(tmp_path / "out") == {"empty": b"mine"}


def test_failure_leaves_no_file_behind(tmp_path: Path) -> None:
    model = sample()
    _, chunks = model.body_and_chunks()
    artifact = model.write_artifact(tmp_path / "artifact")
    lost = make_pack([chunk for chunk in chunks if chunk is not model.content[2]][1:] + chunks[:1])
    only_pack(artifact).unlink()
    (artifact / "packs" / f"{blake3(lost).hex()}.pack").write_bytes(lost)
    (artifact / "lamina.placement").write_bytes(make_placement([lost]))
    with pytest.raises(DamagedError, match="is in none of the packs"):
        restore.open_source(artifact).restore(tmp_path / "out")
    assert restored(tmp_path / "out") == {}


@pytest.mark.parametrize("field", ["created_at", "series", "kind"])
def test_a_snapshot_without_a_mandatory_field_is_damaged_for_both_readers(tmp_path: Path, field: str) -> None:
    artifact = sample().write_artifact(tmp_path / "artifact")
    body, _ = sample().body_and_chunks()
    del body[field]
    (artifact / "lamina.json").write_bytes(make_envelope("snapshot", body))
    with pytest.raises(DamagedError, match=field):
        restore.open_source(artifact).snapshots()
    with pytest.raises(CorruptDataError, match=field):
        resolve(artifact)


# --- What a newer lamina writes ---


def test_a_newer_version_is_named(tmp_path: Path) -> None:
    artifact = sample().write_artifact(tmp_path / "artifact")
    body, chunks = sample().body_and_chunks()
    (artifact / "lamina.json").write_bytes(make_envelope("snapshot", body, version=2))
    with pytest.raises(UnsupportedError, match="format version 2"):
        restore.open_source(artifact).snapshots()
    (artifact / "lamina.json").write_bytes(make_envelope("snapshot", body))
    (artifact / "lamina.placement").write_bytes(make_placement([], version=9))
    with pytest.raises(UnsupportedError, match="format version 9"):
        read_all(artifact)
    (artifact / "lamina.placement").write_bytes(make_placement([make_pack(chunks, version=3)]))
    with pytest.raises(UnsupportedError, match="format version 3"):
        read_all(artifact)


@pytest.mark.parametrize(("bits", "names"), [(2, "requires bit 1$"), (0b1101, "requires bit 2, bit 3")])
def test_unknown_features_are_named(tmp_path: Path, bits: int, names: str) -> None:
    model = sample()
    model.fields["required"] = ["delta", "sparkle"]
    with pytest.raises(UnsupportedError, match="requires 'sparkle'"):
        read_all(model.write_artifact(tmp_path / "snapshot"))
    artifact = sample().write_artifact(tmp_path / "pack")
    _, chunks = sample().body_and_chunks()
    base = Chunk(bytes(10), 3, b"delta")
    pack = make_pack([*chunks, base], required=bits, base=bytes(32))
    (artifact / "lamina.placement").write_bytes(make_placement([pack]))
    with pytest.raises(UnsupportedError, match=names):
        read_all(artifact)
    (artifact / "lamina.placement").unlink()
    only_pack(artifact).write_bytes(pack)
    with pytest.raises(UnsupportedError, match=names.rstrip("$")):
        read_all(artifact)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    artifact = sample().write_artifact(tmp_path / "artifact")
    (artifact / "lamina.json").write_bytes(make_envelope("config", {"id": "0" * 32}))
    with pytest.raises(DamagedError, match="holds a config"):
        read_all(artifact)


# --- Hostile data with valid digests ---

FORBIDDEN = [
    "",
    "/etc/x",
    "../x",
    "a/../../x",
    "a//x",
    "./x",
    "a/.",
    "a/",
    "C:x",
    "a\\x",
    "a\0",
    "a\x1b[2J",
    "\x85",
]
FORBIDDEN += ["\ud800", "x" * 1025, "ü" * 513]


@pytest.mark.parametrize("path", FORBIDDEN)
def test_a_forbidden_path_writes_nothing(tmp_path: Path, path: str) -> None:
    model = sample()
    model.structure["files"][1]["path"] = path
    artifact = model.write_artifact(tmp_path / "inner" / "artifact")
    before = restored(tmp_path)
    with pytest.raises(DamagedError, match="forbidden path"):
        restore.open_source(artifact).restore(tmp_path / "inner" / "out")
    assert restored(tmp_path) == before


@pytest.mark.parametrize(
    "path", ["empty", "EMPTY", "empty. ", "empty/a", "Empty/b/c", "empty./a", "model.weights.h5/x"]
)
def test_paths_that_clash_are_refused(tmp_path: Path, path: str) -> None:
    model = sample()
    model.structure["files"][1]["path"] = path
    with pytest.raises(DamagedError, match=r"same for some|as the folder"):
        read_all(model.write_artifact(tmp_path / "artifact"))


def test_paths_that_differ_in_the_form_of_a_character_are_refused(tmp_path: Path) -> None:
    model = sample()
    model.structure["files"][0]["path"], model.structure["files"][1]["path"] = "caf\u00e9", "cafe\u0301"
    with pytest.raises(DamagedError, match="same for some"):
        read_all(model.write_artifact(tmp_path / "artifact"))


def test_links_in_the_target_lead_nowhere(tmp_path: Path) -> None:
    artifact = sample().write_artifact(tmp_path / "artifact")
    (tmp_path / "outside").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "assets").symlink_to(tmp_path / "outside")
    with pytest.raises(RestoreError, match="out of"):
        restore.open_source(artifact).restore(tmp_path / "out", force=True)
    assert not any((tmp_path / "outside").iterdir())
    (tmp_path / "out" / "assets").unlink()
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "out" / "empty").symlink_to(tmp_path / "victim")
    restore.open_source(artifact).restore(tmp_path / "out", force=True)
    assert (tmp_path / "victim").read_text() == "mine"


SPECIAL: dict[str, Callable[[Path], None]] = {
    "pipe": lambda path: os.mkfifo(path),
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
}
READ = """
import sys
from pathlib import Path
from travel_writer import restore
for source in sys.argv[1:]:
    try:
        restore.open_source(source).restore(Path(source).parent / "out")
        print("read")
    except (restore.RestoreError, OSError) as error:
        print(type(error).__name__)
"""


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices")
@pytest.mark.parametrize("kind", SPECIAL)
def test_special_files_are_refused_at_once(kind: str, tmp_path: Path) -> None:
    sources = []
    for number, place in enumerate([*PARTS, *REPOSITORY_PARTS]):
        write = sample().write_artifact if place in PARTS[:2] or number == 2 else sample().write_repository
        folder = write(tmp_path / str(number) / "source")
        (path,) = folder.glob(place)
        path.unlink()
        SPECIAL[kind](path)
        sources.append(folder)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", READ, *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == len(sources)
    assert "read" not in done.stdout
    for folder in sources:
        shutil.rmtree(folder)


def _file(model: Sample) -> dict[str, Any]:
    file: dict[str, Any] = model.structure["files"][0]
    return file


STRUCTURES = {
    "size": lambda model: _file(model).update(size=_file(model)["size"] + 1),
    "negative size": lambda model: _file(model).update(size=-1, extents=[]),
    "extent beyond the state": lambda model: _file(model).update(extents=[[1, 1 << 40]], size=1 << 40),
    "negative extent": lambda model: _file(model)["extents"].append([-1, 0]),
    "boolean extent": lambda model: _file(model)["extents"].append([True, 0]),
    "empty extent": lambda model: _file(model)["extents"].append([0, 0]),
    "file bomb": lambda model: _file(model).update(extents=[[0, 64]] * 64, size=64 * 64),
    "file twice": lambda model: model.structure["files"].append({**_file(model), "path": "again", "tensors": []}),
    "tensors that share bytes": lambda model: _file(model)["tensors"][1].__setitem__(4, 8),
    "short extent": lambda model: _file(model)["extents"].append([0]),
    "no path": lambda model: _file(model).pop("path"),
    "no tensors": lambda model: _file(model).pop("tensors"),
    "no files": lambda model: model.structure.pop("files"),
    "no training": lambda model: model.structure.pop("training"),
    "tensor beyond the state": lambda model: _file(model)["tensors"][0].__setitem__(4, 1 << 40),
    "offset of an empty tensor": lambda model: _file(model)["tensors"][2].__setitem__(4, 1),
    "huge shape": lambda model: _file(model)["tensors"][0].__setitem__(2, [1 << 62] * 64),
    "negative shape": lambda model: _file(model)["tensors"][0].__setitem__(2, [-8, -5]),
    "rank": lambda model: _file(model)["tensors"][0].__setitem__(2, [1] * 65),
    "role": lambda model: _file(model)["tensors"][0].__setitem__(3, "hero"),
    "two tensors of one name": lambda model: _file(model)["tensors"].append(_file(model)["tensors"][0]),
    "sum": lambda model: model.state.update(length=sum(len(chunk.data) for chunk in model.content) + 1),
    "depth": lambda model: model.state.update(depth=5),
    "depth of nothing": lambda model: model.state.update(length=0, root=[], depth=1),
    "long structure": lambda model: model.state.update(structure=[model.content[0].pair] * 1_000_000),
    "boolean depth": lambda model: model.state.update(depth=True),
    "nodes that are content": lambda model: model.state.update(depth=1),
    "empty chunk": lambda model: model.state.update(root=[["0" * 64, 0]]),
    "long chunk": lambda model: model.state.update(root=[["0" * 64, (4 << 20) + 1]]),
    "upper case": lambda model: model.state.update(root=[["A" * 64, 1]]),
    "wrong length of a chunk": lambda model: model.state.update(structure=[[model.content[2].name.hex(), 29]]),
    "no state": lambda model: model.state.update(root=None),
    "infinite number": lambda model: model.fields.update(value=float("nan")),
    "no features": lambda model: model.fields.update(optional=None),
}


@pytest.mark.parametrize("case", STRUCTURES)
def test_a_wrong_description_is_refused(tmp_path: Path, case: str) -> None:
    model = sample()
    STRUCTURES[case](model)
    with pytest.raises(DamagedError):
        read_all(model.write_artifact(tmp_path / "artifact"))


@pytest.mark.parametrize("name", ["|O8", "<M8", "float9", "=f4", "<f3", "|V0", "f4", "<f04", "|S", "|U1"])
def test_an_unknown_dtype_hinders_only_who_asks_for_tensors(tmp_path: Path, name: str) -> None:
    model = sample()
    _file(model)["tensors"][0][1] = name
    source = restore.open_source(model.write_artifact(tmp_path / "artifact"))
    source.restore(tmp_path / "out")
    with pytest.raises(DamagedError, match="dtype"):
        source.tensors()


def test_a_dtype_that_numpy_lacks_here_is_no_damage(tmp_path: Path) -> None:
    lacking = "<f12" if hasattr(np, "float128") else "<f16"
    model = sample()
    _file(model)["tensors"][0][1:3] = [lacking, [1]]
    with pytest.raises(UnsupportedError, match="numpy does not know"):
        restore.open_source(model.write_artifact(tmp_path / "artifact")).tensors()


def test_nodes_that_repeat_themselves_are_stopped(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="too many"):
        read_all(self_repeating().write_artifact(tmp_path / "artifact"))


READS = (
    PEAK
    + """
import sys
sys.path.insert(0, sys.argv[1])
import restore
try:
    restore.open_source(sys.argv[2]).tensors()
except restore.DamagedError as error:
    print(peak(), error)
"""
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
@pytest.mark.parametrize("layout", ["artifact", "repository"])
@pytest.mark.parametrize("distinct", [1, 20])
def test_a_structure_that_takes_no_room(tmp_path: Path, distinct: int, layout: str) -> None:
    """A few KB that would expand to gigabytes, by naming one chunk many times or by compressing too well."""
    model = hollow_structure(distinct)
    folder = getattr(model, f"write_{layout}")(tmp_path / layout)
    done = subprocess.run(
        [sys.executable, "-c", READS, str(SCRIPT.parent), str(folder)], capture_output=True, text=True, check=True
    )
    peak, _, error = done.stdout.partition(" ")
    assert re.fullmatch(r"a structure of \d+ bytes cannot be stored as \d+\n", error)
    assert int(peak) < 100, "MiB"


def test_a_large_structure_that_is_stored_honestly_is_read(tmp_path: Path) -> None:
    """A structure of 20 MiB, stored in 5 MiB, is accepted."""
    model = sample()
    blanks = bytes([32, 9, 10, 13])
    noise = np.random.default_rng(0).integers(0, 4, 4 << 20, np.uint8)
    parts = [np.frombuffer(blanks, np.uint8)[np.roll(noise, turn)].tobytes() for turn in range(5)]
    text = json.dumps(model.structure).encode()
    chunks = [Chunk(part, 1, zstd(part)) for part in parts]
    model.content += [*chunks, Chunk(text)]
    model.state.update(structure=[chunk.pair for chunk in [*chunks, Chunk(text)]])
    folder = model.write_artifact(tmp_path / "artifact")
    assert restore.open_source(folder).tensors().keys() == {"dense/0", "dense/1", "dense/2"}


HOLLOW = bytes(1000)
BOMB = zstd(bytes(1 << 24))
WIDE = bytes.fromhex("28b52ffd 00 70 431f00 00")  # 1000 zeros as one run, in a frame that claims a window of 16 MiB
ENCODED = {
    "raw that is short": (0, HOLLOW[1:]),
    "no frame": (1, HOLLOW),
    "frame that claims more": (1, BOMB),
    "frame that holds more": (1, zstd(bytes(1001), sized=False)),
    "frame that holds less": (1, zstd(bytes(999), sized=False)),
    "two frames": (1, zstd(bytes(500)) + zstd(bytes(500))),
    "byte behind the frame": (1, zstd(HOLLOW) + b"\0"),
    "skippable frame": (1, struct.pack("<II", 0x184D2A50, 4) + bytes(4)),
    "window of 16 MiB": (1, WIDE),
    "no header": (2, b"\4"),
    "width 3": (2, bytes([3, 0]) + struct.pack("<BI", 2, 1) * 3 + b"abc"),
    "width 0": (2, bytes(2)),
    "transform 2": (2, bytes([1, 2]) + struct.pack("<BI", 2, 1) + b"\0"),
    "mode 3": (2, bytes([1, 0]) + struct.pack("<BI", 3, 1) + b"\0"),
    "constant of two bytes": (2, bytes([1, 0]) + struct.pack("<BI", 2, 2) + b"\0\0"),
    "plane that is short": (2, bytes([2, 0]) + struct.pack("<BI", 2, 1) * 2 + b"\0"),
    "byte behind the planes": (2, bytes([1, 0]) + struct.pack("<BI", 2, 1) + b"\0\0"),
    "plane beyond the end": (2, bytes([1, 0]) + struct.pack("<BI", 0, 1 << 31) + b"\0"),
    "plane of too much": (2, bytes([1, 0]) + struct.pack("<BI", 1, len(BOMB)) + BOMB),
    "unknown codec": (4, b"\0"),
    "other bytes": (0, bytes(999) + b"\1"),
}


@pytest.mark.parametrize("case", ENCODED)
def test_wrongly_encoded_chunks_are_refused(tmp_path: Path, case: str) -> None:
    codec, encoded = ENCODED[case]
    file = {"path": "a", "size": 1000, "tensors": [], "extents": [[0, 1000]]}
    model = Sample({"a": HOLLOW}, {}, [Chunk(HOLLOW, codec, encoded)], {"files": [file], "training": []})
    with pytest.raises(DamagedError):
        read_all(model.write_artifact(tmp_path / "artifact"))


def test_a_frame_that_claims_too_much_is_not_decoded() -> None:
    with pytest.raises(DamagedError, match="claims 16777216 bytes instead of 1000"):
        restore._unzstd(BOMB, 1000)


def test_a_frame_with_a_small_window_is_the_same_otherwise() -> None:
    assert restore._unzstd(WIDE.replace(b"\x00\x70", b"\x00\x68"), 1000) == HOLLOW


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize("high", [1, 5, 256])
def test_planes_of_each_width_come_back(width: int, turn: bool, high: int) -> None:
    data = np.random.default_rng(high).integers(0, high, 4096).astype(np.uint8).tobytes()
    assert restore._unplane(planes(data, width, turn), len(data)) == data


def test_a_placement_names_its_packs_in_order_and_once(tmp_path: Path) -> None:
    model = sample()
    artifact = model.write_artifact(tmp_path / "artifact")
    entry = (artifact / "lamina.placement").read_bytes()[16:-32]
    for packs in (0, 2, 3):
        data = b"LAMINAPL" + struct.pack("<II", 1, packs) + entry * 2
        (artifact / "lamina.placement").write_bytes(data + blake3(data))
        with pytest.raises(DamagedError, match=r"lamina\.placement"):
            read_all(artifact)


PACKS = {
    "longer than it encodes": lambda good: make_pack([*good, Chunk(b"ab", encoded=b"abc")]),
    "raw length over the limit": lambda good: make_pack([*good, Chunk(b"a", raw=(4 << 20) + 1)]),
    "unknown kind": lambda good: make_pack([*good, Chunk(b"a", kind=3)]),
    "base without delta": lambda good: make_pack(good, base=bytes(32)),
    "delta without its feature": lambda good: make_pack([*good, Chunk(b"a", 3)], base=bytes(32)),
    "no entries": lambda _: make_pack([]),
}


@pytest.mark.parametrize("case", PACKS)
def test_wrong_packs_are_refused(tmp_path: Path, case: str) -> None:
    artifact = sample().write_artifact(tmp_path / "artifact")
    pack = PACKS[case](sample().body_and_chunks()[1])
    only_pack(artifact).write_bytes(pack)
    (artifact / "lamina.placement").write_bytes(make_placement([pack]))
    with pytest.raises(DamagedError):
        read_all(artifact)
    (artifact / "lamina.placement").unlink()
    with pytest.raises(DamagedError):
        read_all(artifact)
