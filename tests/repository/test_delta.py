"""Chunks that are stored as deltas: in the engine, the stand-alone reader, and over W&B."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.make_golden import file_digests, sha256
from data.make_golden_delta import EXPECTED, GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st

import lamina
from engine_repositories import File, Saved, Tensor, check_saved, check_with_travel, format_name, save_memory
from lamina.errors import CorruptDataError
from lamina.repository import repository
from lamina.repository.snapshot import Snapshot
from lamina.sources import open_artifact_directory
from travel_writer import Chunk, Sample, blake3, make_pack, make_placement, planes, restore, restored

ODD = (b"\xff" * 8, bytes(8), b"\0\0\x80\x7f" * 2, b"\0\0\0\x80" * 2)
DTYPES = ("<f4", ">f4", "<f2", "<f8", "bfloat16", "float8_e5m2", "<i4", "|u1", "<c8", "|V5")


def element(name: str) -> np.dtype[Any]:
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name, name))


def saved(tensors: dict[str, np.ndarray[Any, Any]], series: str = "default") -> Saved:
    parts = tuple((b"gap", Tensor(name, format_name(a.dtype), a)) for name, a in tensors.items())
    return Saved([File("m.weights.h5", parts)], fields={"series": series})


def needs_delta(snapshot: Snapshot) -> bool:
    required: list[str] = json.loads(snapshot._core.body())["required"]
    return required == ["delta"]


def table(rows: int = 8000, columns: int = 32) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).normal(0, 0.05, (rows, columns)).astype("<f4")


def touched(array: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
    """One row in a hundred changes."""
    random, moved = np.random.default_rng(seed), array.copy()
    rows = random.choice(len(array), max(1, len(array) // 100), replace=False)
    moved[rows] += random.normal(0, 1e-3, (len(rows), array.shape[1])).astype(array.dtype)
    return moved


def test_versions_of_an_embedding(tmp_path: Path) -> None:
    target = repository.open_or_create(tmp_path / "r")
    array, sizes = table(), []
    for version in range(12):
        state = saved({"embedding": array})
        snapshot = save_memory(target, state)
        check_saved(snapshot, state)
        sizes.append(snapshot.bytes_stored)
        array = touched(array, version)
    # Steps add up: with each version, another hundredth of the rows differs from the base.
    assert [version for version, size in enumerate(sizes) if size > 0.1 * sizes[0]] == [0, 9]
    assert max(sizes[1], sizes[10]) < 0.02 * sizes[0]
    assert target.verify(full=True).problems == []
    assert check_with_travel(tmp_path / "r") == 12
    target.prune(lamina.Keep(last=2))
    assert check_with_travel(tmp_path / "r") == 2
    assert target.verify(full=True).problems == []


@settings(max_examples=8, deadline=None)
@given(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=3), st.integers(0, 2**32), st.booleans())
def test_any_bits_come_back_by_both_readers(
    tmp_path_factory: pytest.TempPathFactory, dtypes: list[str], seed: int, forced: bool
) -> None:
    folder, random = tmp_path_factory.mktemp("r"), np.random.default_rng(seed)
    target = repository.open_or_create(folder)
    data = [bytearray(random.bytes(20_000)) for _ in dtypes]
    for _ in range(3):
        arrays = {}
        for index, (name, raw) in enumerate(zip(dtypes, data, strict=True)):
            for at in random.integers(0, len(raw) - 8, 20):  # NaNs, infinities, zeros of both signs, and others
                raw[at : at + 8] = ODD[random.integers(len(ODD))]
            arrays[f"t{index}"] = np.frombuffer(bytes(raw), np.uint8).view(element(name))
        snapshot = save_memory(target, saved(arrays), codec="delta" if forced else "auto")
    assert needs_delta(snapshot)
    assert check_with_travel(folder) == 3


def test_a_damaged_base_is_named(tmp_path: Path) -> None:
    target = repository.open_or_create(tmp_path / "r")
    array = table()
    save_memory(target, saved({"embedding": array}))
    (whole,) = (tmp_path / "r" / "packs").glob("*.pack")
    save_memory(target, saved({"embedding": touched(array, 0)}))
    data = bytearray(whole.read_bytes())
    data[5000] ^= 1
    whole.write_bytes(data)
    base = blake3(array.tobytes()[: 1 << 20]).hex()
    with pytest.raises(CorruptDataError, match=base):
        lamina.export(f"{tmp_path / 'r'}@2", tmp_path / "out")
    with pytest.raises(restore.DamagedError, match=base):
        restore.open_source(tmp_path / "r").restore(tmp_path / "out", 2)
    with pytest.raises(CorruptDataError) as caught:
        target.verify(full=True)
    assert any(base in problem for problem in caught.value.report.problems)


def steps(data: bytes, base: bytes) -> bytes:
    """docs/format.md §7 for float32, element by element."""

    def image(word: int) -> int:
        return word ^ 0xFFFFFFFF if word >> 31 else word | 1 << 31

    found = []
    for one, other in zip(np.frombuffer(data, "<u4").tolist(), np.frombuffer(base, "<u4").tolist(), strict=True):
        step = (image(one) - image(other)) % (1 << 32)
        found.append(step * 2 if step < 1 << 31 else 2 * ((1 << 32) - step) - 1)
    return np.array(found, "<u4").tobytes()


def test_both_readers_read_what_the_document_says(tmp_path: Path) -> None:
    words = [0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0, 1e-45, -1e-45, 3.4e38]
    base = np.array(words, "<f4").tobytes()
    data = np.array([*words[1:], 0.5], "<f4").tobytes()
    long = Chunk(data * 40, 3, b"")
    long.encoded = bytes([1, 1]) + planes(steps(data * 40, base * 40), 4, True)
    other = Chunk(base * 40)
    files = [{"path": "f", "size": len(long.data), "tensors": [], "extents": [[0, len(long.data)]]}]
    model = Sample({}, {}, [long], {"files": files, "training": []}, fields={"required": ["delta"]})
    artifact = model.write_artifact(tmp_path / "artifact")
    _, (_, *stored) = model.body_and_chunks()
    packs = [make_pack([other, *stored]), make_pack([long], required=1, base=other.name)]
    for pack in packs:
        (artifact / "packs" / f"{blake3(pack).hex()}.pack").write_bytes(pack)
    (artifact / "lamina.placement").write_bytes(make_placement(packs))
    restore.open_source(artifact).restore(tmp_path / "travel")
    open_artifact_directory(artifact).content.export(tmp_path / "engine")
    assert restored(tmp_path / "travel") == restored(tmp_path / "engine") == {"f": data * 40}
    without = [make_pack(stored), packs[1]]
    (artifact / "packs" / f"{blake3(without[0]).hex()}.pack").write_bytes(without[0])
    (artifact / "lamina.placement").write_bytes(make_placement(without))
    with pytest.raises(restore.DamagedError, match=other.name.hex()):
        restore.open_source(artifact).restore(tmp_path / "none")
    with pytest.raises(CorruptDataError, match=other.name.hex()):
        open_artifact_directory(artifact).content.export(tmp_path / "none")


def test_the_golden_deltas() -> None:
    document = json.loads(EXPECTED.read_bytes())
    assert file_digests(GOLDEN) == document["files"]
    source = lamina.open(GOLDEN / "repository")
    snapshots = source.snapshots()
    assert [(s.number, s.id) for s in snapshots] == [(s["number"], s["id"]) for s in document["snapshots"]]
    assert [needs_delta(snapshot) for snapshot in snapshots] == [False, True, True]
    for snapshot, expected in zip(snapshots, document["snapshots"], strict=True):
        with tempfile.TemporaryDirectory() as folder:
            found = {path.name: sha256(path.read_bytes()) for path in lamina.export(snapshot, folder)}
        assert found == expected["files"]
    assert check_with_travel(GOLDEN / "repository") == 3
    assert file_digests(GOLDEN) == document["files"]
