"""Tensors in files: found exactly, and a damaged, hostile or unusual file is never trusted."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest

from lamina.errors import InvalidInputError, NotFoundError, StorageError
from lamina.files.h5 import MAX_NAME, plan_file, plan_source
from lamina.files.plain import open_plain
from lamina.files.plan import FilePlan
from peak_memory import PEAK

pytestmark = pytest.mark.keras

ARRAYS = {
    "<f2": np.arange(6, dtype="<f2"),
    "<f4": np.arange(6, dtype="<f4").reshape(2, 3),
    "<f8": np.float64(3.5),
    ">f4": np.arange(6, dtype=">f4"),
    "|b1": np.array([True, False, True]),
    "|i1": np.arange(-3, 3, dtype="i1"),
    "|u1": np.arange(3, dtype="u1"),
    "<i8": np.int64(-1),
    ">u2": np.arange(3, dtype=">u2"),
    "<c8": np.array([1 + 2j], dtype="c8"),
    ">c16": np.array([1 + 2j, 3], dtype=">c16"),
    "|V3": np.array([b"abc", b"def"], dtype="V3"),
    "|V1": np.array([1, 2], dtype=ml_dtypes.float8_e4m3fn),
    "bfloat16": np.array([1, 2, 3], dtype=ml_dtypes.bfloat16),
    "|V2": np.array([b"ab"], dtype="V2"),
}


def plan(file: Path) -> FilePlan:
    return plan_file(file, file.name)


def names(file: Path) -> list[str]:
    return [tensor.name for tensor in plan(file).tensors]


def write(file: Path, fill: Callable[[h5py.File], object], **options: object) -> Path:
    with h5py.File(file, "w", **options) as h5:
        fill(h5)
    return file


def layers(h5: h5py.File, count: int = 6) -> None:
    for i in range(count):
        group = h5.create_group(f"layers/dense_{i}/vars")
        group.attrs["name"] = f"dense_{i}"
        group["0"] = np.full((4, 3), i, "f4")
        group["1"] = np.full(3, -i, "f4")
        half = group.create_dataset("2", data=np.ones(3, ml_dtypes.bfloat16))
        half.attrs["dtype"] = "bfloat16"
    h5["optimizer/vars/0"] = np.int64(3)
    h5["optimizer/vars/1"] = np.float32(0.1)
    h5["optimizer/vars/2"] = np.ones((4, 3), "f4")


def pack(keras_file: Path, weights: bytes, *, method: int = zipfile.ZIP_STORED, name: str = "") -> Path:
    with zipfile.ZipFile(keras_file, "w", method) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr(name or "model.weights.h5", weights)
        archive.writestr("assets/vocabulary.txt", "a\nb")
    return keras_file


def test_every_dtype_is_found_with_its_bytes(tmp_path: Path) -> None:
    def fill(h5: h5py.File) -> None:
        for i, (dtype, array) in enumerate(ARRAYS.items()):
            dataset = h5.create_dataset(f"a/{i}", data=array)
            if dtype == "bfloat16":
                dataset.attrs["dtype"] = "bfloat16"

    file = write(tmp_path / "x.h5", fill)
    data = file.read_bytes()
    tensors = {int(tensor.name.removeprefix("a/")): tensor for tensor in plan(file).tensors}
    assert len(tensors) == len(ARRAYS)
    for i, (dtype, array) in enumerate(ARRAYS.items()):
        tensor = tensors[i]
        assert (tensor.dtype, tensor.shape) == (dtype, np.shape(array))
        assert data[tensor.offset : tensor.offset + tensor.nbytes] == array.tobytes()


def test_tensors_ascend_and_literals_are_all_else(tmp_path: Path) -> None:
    file = write(tmp_path / "x.weights.h5", layers)
    found = plan(file)
    offsets = [tensor.offset for tensor in found.tensors]
    assert offsets == sorted(offsets)
    assert found.size == file.stat().st_size
    covered = sum(n for _, n in found.literal_runs()) + sum(tensor.nbytes for tensor in found.tensors)
    assert covered == found.size


def test_empty_tensors_are_listed_last_without_bytes(tmp_path: Path) -> None:
    def fill(h5: h5py.File) -> None:
        for name, shape in [("z", (0, 3)), ("m", (2,)), ("a", (5, 0))]:
            h5[name] = np.zeros(shape, "f4")

    tensors = plan(write(tmp_path / "x.h5", fill)).tensors
    assert [(t.name, t.shape, t.nbytes) for t in tensors] == [
        ("m", (2,), 8),
        ("a", (5, 0), 0),
        ("z", (0, 3), 0),
    ]
    assert [t.offset for t in tensors[1:]] == [0, 0]


def test_roles_follow_keras_names(tmp_path: Path) -> None:
    def fill(h5: h5py.File) -> None:
        for name in (
            "layers/a/vars/0",
            "optimizer/vars/2",
            "optimizer_weights/adam/m",
            "layers/optimizer/vars/0",
        ):
            h5[name] = np.zeros(2)
        for name in ("layers/a/vars/1", "optimizer/vars/0", "optimizer_weights/adam/iteration"):
            h5[name] = 1

    roles = {tensor.name: tensor.role for tensor in plan(write(tmp_path / "x.h5", fill)).tensors}
    assert roles == {
        "layers/a/vars/0": "weights",
        "layers/a/vars/1": "weights",
        "layers/optimizer/vars/0": "weights",
        "optimizer/vars/0": "counters",
        "optimizer/vars/2": "optimizer",
        "optimizer_weights/adam/iteration": "counters",
        "optimizer_weights/adam/m": "optimizer",
    }


def test_a_user_block_moves_every_offset(tmp_path: Path) -> None:
    file = write(tmp_path / "x.h5", lambda h5: h5.create_dataset("a", data=np.arange(9)), userblock_size=1024)
    (tensor,) = plan(file).tensors
    data = file.read_bytes()
    assert data[tensor.offset : tensor.offset + tensor.nbytes] == np.arange(9).tobytes()


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_old_and_new_hdf5_structures_are_read(tmp_path: Path, libver: str) -> None:
    file = write(tmp_path / "x.h5", layers, libver=libver)
    with h5py.File(file) as h5:
        expected = {name: dataset[()].tobytes() for name, dataset in _datasets(h5)}
    data = file.read_bytes()
    assert {t.name: data[t.offset : t.offset + t.nbytes] for t in plan(file).tensors} == expected


def _datasets(h5: h5py.File) -> list[tuple[str, h5py.Dataset]]:
    found: list[tuple[str, h5py.Dataset]] = []
    h5.visititems(lambda name, item: found.append((name, item)) if isinstance(item, h5py.Dataset) else None)
    return found


def test_only_datasets_in_one_piece_are_tensors(tmp_path: Path) -> None:
    def fill(h5: h5py.File) -> None:
        data = np.arange(5000, dtype="f4")
        h5["plain"] = data
        h5.create_dataset("chunked", data=data, chunks=(100,))
        h5.create_dataset("gzip", data=data, compression="gzip")
        h5.create_dataset("resizable", data=data, maxshape=(None,))
        h5.create_dataset("unwritten", (4, 4), "f4")
        h5.create_dataset("external", (10,), "f4", external=[(str(tmp_path / "other.bin"), 0, 40)])
        h5["text"] = "text"
        h5["fixed"] = np.array([b"abc"])
        h5["vlen"] = np.array(["a", "bc"], dtype=h5py.string_dtype())
        h5["references"] = np.array([h5["plain"].ref], dtype=h5py.ref_dtype)
        h5["record"] = np.zeros(3, dtype=[("a", "f4"), ("b", "i4")])
        h5.create_dataset("array", (3,), np.dtype(("f4", (2,))))[...] = np.zeros((3, 2))
        h5.create_dataset("enum", (2,), h5py.enum_dtype({"a": 1, "b": 2}), data=[1, 2])
        h5["time"] = np.array([1], "M8[s]").astype(h5py.opaque_dtype("M8[s]"))
        h5["null"] = h5py.Empty("f4")
        h5["type"] = np.dtype("f4")
        layout = h5py.VirtualLayout((5000,), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "absent.h5"), "x", (5000,))
        h5.create_virtual_dataset("virtual", layout)
        # compact: stored in the object header, which may move
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((4,))
        h5py.h5d.create(h5.id, b"compact", h5py.h5t.NATIVE_FLOAT, space, properties)

    found = names(write(tmp_path / "x.h5", fill))
    assert found == ["plain"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "other.h5", lambda h5: h5.create_dataset("secret", data=np.ones(4)))

    def fill(h5: h5py.File) -> None:
        h5["a/b"] = np.ones(4)
        h5["a/empty"] = np.ones(0)
        h5["nothing"] = np.ones(0)
        h5["soft"] = h5py.SoftLink("/a")
        h5["dangling"] = h5py.SoftLink("/nowhere")
        h5["outside"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
        h5["a/up"] = h5["/"]
        h5["a/self"] = h5["a"]
        h5["again"] = h5["a/b"]
        h5["all"] = h5["a"]

    assert names(write(tmp_path / "x.h5", fill)) == ["a/b", "a/empty", "nothing"]


def test_hard_links_to_one_dataset_keep_the_first_name(tmp_path: Path) -> None:
    def fill(h5: h5py.File) -> None:
        h5["b"] = np.ones(4)
        h5["a"] = h5["b"]
        h5["c"] = h5["b"]

    assert names(write(tmp_path / "x.h5", fill)) == ["a"]


def test_overlapping_extents_leave_the_first(tmp_path: Path) -> None:
    file = write(
        tmp_path / "x.h5",
        lambda h5: [h5.create_dataset(name, data=np.full(100, 7, "i4")) for name in ("a", "b")],
    )
    first, second = plan(file).tensors
    data = bytearray(file.read_bytes())
    at = data.index(struct.pack("<QQ", second.offset, second.nbytes))
    data[at : at + 8] = struct.pack("<Q", first.offset + 8)
    file.write_bytes(data)
    assert names(file) == ["a"]


def test_an_extent_outside_the_file_is_no_tensor(tmp_path: Path) -> None:
    file = write(tmp_path / "x.h5", lambda h5: h5.create_dataset("a", data=np.full(100, 7, "i4")))
    (tensor,) = plan(file).tensors
    data = bytearray(file.read_bytes())
    at = data.index(struct.pack("<QQ", tensor.offset, tensor.nbytes))
    for offset in (file.stat().st_size, 1 << 62, file.stat().st_size - 10):
        data[at : at + 8] = struct.pack("<Q", offset)
        file.write_bytes(data)
        assert names(file) == []


def test_deep_groups_end_the_search_and_not_the_process(tmp_path: Path) -> None:
    def fill(h5: h5py.File) -> None:
        group = h5
        group["top"] = np.ones(3)
        for _ in range(MAX_NAME):
            group = group.create_group("g")
        group["bottom"] = np.ones(3)

    assert names(write(tmp_path / "x.h5", fill)) == ["top"]


def test_names_that_are_no_text_are_literal(tmp_path: Path) -> None:
    def fill(h5: h5py.File) -> None:
        h5["good"] = np.ones(3)
        h5[b"bad\xff"] = np.ones(3)

    assert names(write(tmp_path / "x.h5", fill)) == ["good"]


def test_ten_thousand_tensors_take_less_than_their_creation(tmp_path: Path) -> None:
    """Takes two seconds on an idle machine; the ratio also holds on a busy one."""
    began = time.perf_counter()
    file = write(tmp_path / "x.h5", lambda h5: layers(h5, 3333))
    created = time.perf_counter() - began
    planned = []
    for _ in range(3):
        began = time.perf_counter()
        assert len(plan(file).tensors) == 3 * 3333 + 3
        planned.append(time.perf_counter() - began)
    assert min(planned) < created


# .keras


def test_the_embedded_file_is_planned_where_it_stands(tmp_path: Path) -> None:
    inner = write(tmp_path / "x.weights.h5", layers)
    outer = pack(tmp_path / "x.keras", inner.read_bytes())
    start = outer.read_bytes().index(inner.read_bytes())
    assert [(t.name, t.offset - start) for t in plan(outer).tensors] == [
        (t.name, t.offset) for t in plan(inner).tensors
    ]
    assert plan(outer).size == outer.stat().st_size


def test_an_archive_after_foreign_bytes_is_planned(tmp_path: Path) -> None:
    inner = write(tmp_path / "x.weights.h5", layers)
    outer = pack(tmp_path / "x.keras", inner.read_bytes())
    outer.write_bytes(b"#!prefix\n" + outer.read_bytes())
    data = outer.read_bytes()
    for tensor in plan(outer).tensors:
        if tensor.name == "layers/dense_4/vars/1":
            assert data[tensor.offset : tensor.offset + tensor.nbytes] == np.full(3, -4, "f4").tobytes()
            return
    pytest.fail("no tensor was found")


def test_archives_that_are_unlike_keras_are_opaque(tmp_path: Path) -> None:
    weights = write(tmp_path / "x.weights.h5", layers).read_bytes()
    assert names(pack(tmp_path / "deflated.keras", weights, method=zipfile.ZIP_DEFLATED)) == []
    assert names(pack(tmp_path / "renamed.keras", weights, name="weights.h5")) == []
    assert names(pack(tmp_path / "no-hdf5.keras", b"x" * 5000)) == []
    twice = pack(tmp_path / "twice.keras", weights)
    with zipfile.ZipFile(twice, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("model.weights.h5", weights)
    assert names(twice) == []


@pytest.mark.parametrize("field", ["magic", "flags", "method", "name", "name length", "extra length"])
def test_the_local_header_must_agree_with_the_directory(tmp_path: Path, field: str) -> None:
    at, value = {
        "magic": (0, b"PK\3\5"),
        "flags": (6, b"\1\0"),
        "method": (8, b"\x08\0"),
        "name": (30, b"xxxxx.weights.h5"),
        "name length": (26, b"\x11\0"),
        "extra length": (28, b"\xff\xff"),
    }[field]
    outer = pack(tmp_path / "x.keras", write(tmp_path / "x.weights.h5", layers).read_bytes())
    data = bytearray(outer.read_bytes())
    header = data.index(b"model.weights.h5") - 30
    data[header + at : header + at + len(value)] = value
    outer.write_bytes(data)
    assert names(outer) == []


def test_a_directory_that_lies_about_lengths_is_opaque(tmp_path: Path) -> None:
    outer = pack(tmp_path / "x.keras", write(tmp_path / "x.weights.h5", layers).read_bytes())
    data = bytearray(outer.read_bytes())
    entry = data.rindex(b"model.weights.h5") - 46
    for at, value in [(20, 0x7FFFFFFF), (24, 0x7FFFFFFF), (42, 0x7FFFFFFF), (42, 3)]:
        damaged = bytearray(data)
        damaged[entry + at : entry + at + 4] = struct.pack("<L", value)
        if at == 20:
            damaged[entry + 24 : entry + 28] = struct.pack("<L", value)
        outer.write_bytes(damaged)
        assert names(outer) == []


def test_an_archive_cannot_make_the_reader_allocate(tmp_path: Path) -> None:
    """A central directory of 400 MB, in a sparse file, must not be read."""
    bomb = tmp_path / "x.keras"
    size = 400 << 20
    with bomb.open("wb") as file:
        file.seek(size)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, size, 0, 0))
    tracemalloc.start()
    try:
        assert names(bomb) == []
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def _sparse_directory(bomb: Path) -> None:
    size = 400 << 20
    with bomb.open("wb") as file:
        file.seek(size)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, size, 0, 0))


def _configuration(method: int, told: int) -> Callable[[Path], None]:
    """A member that unpacks to 96 MiB, while the archive claims ``told`` bytes."""

    def make(bomb: Path) -> None:
        with zipfile.ZipFile(bomb, "w", method) as archive:
            archive.writestr("config.json", bytes(96 << 20))
        data = bytearray(bomb.read_bytes())
        assert len(data) < 1 << 20
        entry = data.rindex(b"config.json") - 46
        data[entry + 24 : entry + 28] = struct.pack("<L", told)
        bomb.write_bytes(data)

    return make


BOMBS = {
    "directory": _sparse_directory,
    "deflate": _configuration(zipfile.ZIP_DEFLATED, 96 << 20),
    "deflate that lies": _configuration(zipfile.ZIP_DEFLATED, 100),
    "bzip2 that lies": _configuration(zipfile.ZIP_BZIP2, 100),
    "lzma that lies": _configuration(zipfile.ZIP_LZMA, 100),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_an_archive_that_unpacks_to_more_than_it_says(kind: str, tmp_path: Path) -> None:
    BOMBS[kind](tmp_path / "x.keras")
    tracemalloc.start()
    try:
        opened = open_plain(tmp_path / "x.keras")
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
    assert opened.snapshot.training == {}
    assert opened.content.tensors == {}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_optimizer_is_told_by_the_configuration(method: int, tmp_path: Path) -> None:
    config = {"compile_config": {"optimizer": {"class_name": "Adam", "config": {}}}}
    with zipfile.ZipFile(tmp_path / "x.keras", "w", method) as archive:
        archive.writestr("config.json", json.dumps(config))
    assert open_plain(tmp_path / "x.keras").snapshot.training == {"optimizer": "Adam"}


def test_names_in_an_archive_that_are_no_text(tmp_path: Path) -> None:
    outer = pack(tmp_path / "x.keras", write(tmp_path / "x.weights.h5", layers).read_bytes())
    data = bytearray(outer.read_bytes())
    entry = data.rindex(b"assets/vocabulary.txt") - 46
    data[entry + 8 : entry + 10] = struct.pack("<H", 0x800)  # the flag for UTF-8 names
    data[entry + 46 : entry + 48] = b"\xff\xfe"
    outer.write_bytes(data)
    assert names(outer) == []


# Damage


def _samples(folder: Path) -> list[Path]:
    h5 = write(folder / "s.weights.h5", layers)
    return [h5, pack(folder / "s.keras", h5.read_bytes())]


def _check(file: Path) -> None:
    found = plan(file)
    end = 0
    for tensor in found.tensors:
        if tensor.nbytes:
            assert tensor.offset >= end
            end = tensor.offset + tensor.nbytes
    assert end <= found.size


def test_truncated_files_never_fail(tmp_path: Path) -> None:
    for sample in _samples(tmp_path):
        data = sample.read_bytes()
        cut = tmp_path / f"cut{''.join(sample.suffixes)}"
        for length in [*range(120), *range(120, len(data), len(data) // 300), len(data) - 1]:
            cut.write_bytes(data[:length])
            _check(cut)


def test_random_damage_never_fails(tmp_path: Path) -> None:
    rng = random.Random(20)
    for sample in _samples(tmp_path):
        data = sample.read_bytes()
        damaged = tmp_path / f"damaged{''.join(sample.suffixes)}"
        for _ in range(500):
            flipped = bytearray(data)
            for _ in range(rng.choice([1, 1, 2, 4, 16])):
                flipped[rng.randrange(len(data))] = rng.choice([0, 1, 254, 255, rng.randrange(256)])
            damaged.write_bytes(flipped)
            _check(damaged)


FUZZ = (
    PEAK
    + """
import random, struct, sys
from pathlib import Path
from lamina.files.h5 import plan_file

EDGES = [0, 1, 7, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
place, first, cases, *samples = sys.argv[1:]

for sample in map(Path, samples):
    data = sample.read_bytes()
    target = Path(place, "fuzzed" + "".join(sample.suffixes))
    words = [at for at in range(0, len(data) - 8, 4) if any(data[at : at + 8])]
    plan_file(sample, sample.name)
    before = peak()
    for seed in range(int(first), int(first) + int(cases)):
        chance, changed = random.Random(seed), bytearray(data)
        for _ in range(chance.choice([1, 1, 2, 3])):
            at, width = chance.choice(words), chance.choice([1, 2, 4, 8])
            other = int.from_bytes(data[(some := chance.choice(words)) : some + width], "little")
            value = chance.choice([*EDGES, other, at, len(data)])
            changed[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
        target.write_bytes(changed)
        print(sample.name, seed, flush=True)
        end = 0
        for tensor in plan_file(target, target.name).tensors:
            assert not tensor.nbytes or tensor.offset >= end
            end = max(end, tensor.offset + tensor.nbytes)
        assert end <= len(changed)
        assert peak() - before < 64, peak()
print("done")
"""
)


def test_hostile_numbers_in_its_structure(tmp_path: Path) -> None:
    """Addresses, sizes and counts that HDF5 trusts; in another process, which may crash or hang."""
    cases = 20_000 if os.environ.get("LAMINA_SOAK") else 800
    command = [sys.executable, "-c", FUZZ, str(tmp_path), "0", str(cases), *map(str, _samples(tmp_path))]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60 + cases // 10)
    assert ran.stdout.endswith("done\n"), (ran.returncode, ran.stdout[-200:], ran.stderr[-2000:])


def test_a_damaged_global_heap_does_not_hang(tmp_path: Path) -> None:
    """HDF5 walks the heap by the sizes of its objects, and loops for ever at a free one of size 0."""
    file = write(tmp_path / "x.h5", layers)
    data = bytearray(file.read_bytes())
    heap = data.index(b"GCOL")
    data[heap + 16 : heap + 32] = bytes(16)
    file.write_bytes(data)
    code = (
        "import pathlib; from lamina.files.h5 import plan_file;"
        f"print(len(plan_file(pathlib.Path({str(file)!r}), 'x.h5').tensors))"
    )
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert int(ran.stdout) == 21


def test_other_files_are_opaque(tmp_path: Path) -> None:
    for name in ("x.h5", "x.weights.h5", "x.keras", "x.hdf5", "x.bin", "x"):
        for content in (
            b"",
            b"hello",
            os.urandom(5000),
            b"\x89HDF\r\n\x1a\n" + bytes(2000),
            b"PK\3\4" + bytes(2000),
        ):
            (tmp_path / name).write_bytes(content)
            assert plan(tmp_path / name) == FilePlan(name, len(content), ())
    write(tmp_path / "x.txt", layers)
    assert names(tmp_path / "x.txt") == []


def test_a_file_that_is_open_for_writing_is_planned_or_opaque(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        layers(h5)
        h5.flush()
        _check(tmp_path / "x.h5")


# plan_source


def test_a_source_is_a_file_or_a_directory(tmp_path: Path) -> None:
    (tmp_path / "run" / "b").mkdir(parents=True)
    h5 = write(tmp_path / "run" / "b" / "x.weights.h5", layers)
    (tmp_path / "run" / "a.txt").write_text("a")
    found = plan_source(tmp_path / "run")
    assert [(file, p.path) for file, p in found] == [
        (tmp_path / "run" / "a.txt", "a.txt"),
        (h5, "b/x.weights.h5"),
    ]
    assert len(found[1][1].tensors) == 21
    assert plan_source(h5) == [(h5, plan_file(h5, "x.weights.h5"))]


def test_a_source_that_is_a_link_itself_is_what_it_points_to(tmp_path: Path) -> None:
    h5 = write(tmp_path / "x.h5", layers)
    (tmp_path / "latest.h5").symlink_to(h5)
    ((file, found),) = plan_source(tmp_path / "latest.h5")
    assert (file.name, found.path, len(found.tensors)) == ("latest.h5", "latest.h5", 21)


def test_links_and_special_files_in_a_directory_are_refused(tmp_path: Path) -> None:
    for make in (
        lambda path: path.symlink_to(tmp_path / "target"),
        lambda path: path.symlink_to(tmp_path),
        os.mkfifo,
    ):
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        (tmp_path / "target").write_text("x")
        (folder / "file").write_text("x")
        make(folder / "odd")
        with pytest.raises(InvalidInputError, match="odd"):
            plan_source(folder)
        (folder / "odd").unlink()


def test_a_special_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInputError, match="pipe"):
        plan_source(tmp_path / "pipe")


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run" / "empty").mkdir(parents=True)
    with pytest.raises(InvalidInputError, match="no file"):
        plan_source(tmp_path / "run")


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="absent"):
        plan_source(tmp_path / "absent.h5")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    file = write(tmp_path / "x.h5", layers)
    file.chmod(0)
    with pytest.raises(StorageError, match=r"x\.h5"):
        plan_source(file)


def test_a_path_that_is_no_path_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot read"):
        plan_source(tmp_path / "file" / "below")


@pytest.mark.parametrize("name", ["a\\b", "a:b", "a\nb", "é" * 126 + "/" + "é" * 120, os.fsdecode(b"a\xff")])
def test_names_that_the_format_cannot_hold_are_refused(tmp_path: Path, name: str) -> None:
    deep = tmp_path.joinpath("run", *(["d" * 200] * 3), *name.split("/"))
    deep.parent.mkdir(parents=True)
    deep.write_text("x")
    with pytest.raises(InvalidInputError, match="cannot be called"):
        plan_source(tmp_path / "run")


def _index(folder: Path, weight_map: object) -> Path:
    index = folder / "m.weights.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1.0}, "weight_map": weight_map}))
    return index


def test_an_index_brings_its_shards(tmp_path: Path) -> None:
    shards = [write(tmp_path / f"m_0000{i}.weights.h5", layers) for i in range(3)]
    index = _index(tmp_path, {"/a/vars": shards[1].name, "/b/vars": [shards[1].name, shards[0].name]})
    found = plan_source(index)
    assert [file for file, _ in found] == [index, shards[0], shards[1]]
    assert [len(p.tensors) for _, p in found] == [0, 21, 21]


@pytest.mark.parametrize("name", ["../m.weights.h5", "/etc/passwd", "", ".", "..", "a\\b", "absent.weights.h5", 3])
def test_an_index_names_files_beside_it_only(tmp_path: Path, name: object) -> None:
    write(tmp_path / "m.weights.h5", layers)
    (tmp_path / "sub").mkdir()
    with pytest.raises(InvalidInputError, match="names the shard"):
        plan_source(_index(tmp_path, {"/a/vars": [name]}))


def test_a_shard_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.weights.h5").symlink_to(write(tmp_path / "other.h5", layers))
    with pytest.raises(InvalidInputError, match="names the shard"):
        plan_source(_index(tmp_path, {"/a/vars": "s.weights.h5"}))


@pytest.mark.parametrize(
    "content", ["", "[]", "3", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "[" * 100_000]
)
def test_a_json_file_that_is_no_index_stands_alone(tmp_path: Path, content: str) -> None:
    file = tmp_path / "x.weights.json"
    file.write_text(content)
    assert plan_source(file) == [(file, FilePlan("x.weights.json", len(content), ()))]
