"""The engine writes what docs/format.md says: a reader that was made from the document alone can read it."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lamina
from engine_repositories import (
    File,
    Saved,
    Tensor,
    check_saved,
    check_with_travel,
    format_name,
    random_tensor,
    save_files,
    save_memory,
)
from lamina.repository import repository
from lamina.repository.dtypes import to_numpy
from travel_writer import restore

NATIVE = ["|b1", "|i1", "|u1", "|V3", "|S5", "<U2", ">U1"]
NATIVE += [f"{order}{kind}{size}" for order in "<>" for kind in "iu" for size in (2, 4, 8)]
NATIVE += [f"{order}{name}" for order in "<>" for name in ("f2", "f4", "f8", "c8", "c16")]
MARKED = ["bfloat16", "float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn", "int4", "int2", "uint4", "uint2"]
MARKED += [f"float8_{name}" for name in ("e3m4", "e4m3", "e4m3b11fnuz", "e4m3fn", "e4m3fnuz")]
MARKED += [f"float8_{name}" for name in ("e5m2", "e5m2fnuz", "e8m0fnu")]
DTYPES = [name for name in NATIVE + MARKED if name not in MARKED or hasattr(ml_dtypes, name)]

# 0-d, 0-size, long, and with many dimensions; small ones share chunks, the largest has several.
SHAPES = [(), (1,), (3, 5), (0,), (4, 0, 2), (1,) * 32, (2,) * 9, (511,), (9000,), (17, 300, 3), (200_001,)]
PATHS = ["model.weights.h5", "assets/ü/tokens.txt", "con"]
FOLDERS = ["", "layers/dense/vars/", "layers/dénse_1/vars/", "optimizer/vars/", "a/" * 40]


def _tensors(draw: st.DrawFn, count: int, role: str | None = None) -> list[Tensor]:
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    tensors = []
    for number in range(count):
        dtype = to_numpy(draw(st.sampled_from(DTYPES)))
        shape = draw(st.sampled_from(SHAPES))
        roles = ("weights", "optimizer", "counters") if role is None else (role,)
        name = f"{draw(st.sampled_from(FOLDERS))}{number}"
        tensors.append(random_tensor(random, name, dtype, shape, draw(st.sampled_from(roles))))
    return tensors


@st.composite
def files(draw: st.DrawFn) -> list[File]:
    """HDF5-like files, files that are opaque, and empty ones."""
    made = []
    for path in draw(st.lists(st.sampled_from(PATHS), min_size=1, unique=True)):
        random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
        tensors = _tensors(draw, draw(st.integers(0, 6)))
        gaps = [random.bytes(draw(st.sampled_from([0, 1, 7, 96, 2048]))) for _ in tensors]
        tail = random.bytes(draw(st.sampled_from([0, 1, 5000, 100_000, 700_000])))
        made.append(File(path, tuple(zip(gaps, tensors, strict=True)), tail))
    return made


@st.composite
def states(draw: st.DrawFn) -> Saved:
    return Saved(draw(files()), _tensors(draw, draw(st.integers(0, 3)), "training"))


relaxed = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=30)


@relaxed
@given(saved=states(), codec=st.sampled_from(["auto", "raw", "zstd", "planes"]))
def test_any_state_comes_back_from_both_readers(saved: Saved, codec: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        target = repository.open_or_create(Path(folder) / "repository")
        snapshot = save_memory(target, saved, codec=codec)
        check_saved(snapshot, saved)
        check_with_travel(target.path)
        target.verify(full=True)
        on_disk = replace(saved, training=())
        again = save_files(target, on_disk, Path(folder), codec=codec)
        check_saved(again, on_disk)
        assert again.bytes_new < 70_000  # only its structure is new


def test_the_strategies_know_every_dtype_that_the_engine_takes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tensors = [random_tensor(random, str(n), to_numpy(name), (5,)) for n, name in enumerate(DTYPES)]
    assert [format_name(to_numpy(name)) for name in DTYPES] == DTYPES
    saved = Saved([File("f", tuple((b"", tensor) for tensor in tensors))])
    target = repository.open_or_create(tmp_path / "repository")
    check_saved(save_memory(target, saved), saved)
    check_with_travel(target.path)


def _changed(draw: st.DrawFn, saved: Saved) -> Saved:
    """The next state of a training: some tensors have changed, others are frozen."""
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))

    def move(tensor: Tensor) -> Tensor:
        if not tensor.array.size or random.integers(2):
            return tensor
        return random_tensor(random, tensor.name, tensor.array.dtype, tensor.array.shape, tensor.role)

    files = [replace(file, parts=tuple((gap, move(t)) for gap, t in file.parts)) for file in saved.files]
    return replace(saved, files=files, training=[move(tensor) for tensor in saved.training])


SERIES = ["run-a", "run-b", "ün:c"]


@settings(relaxed, max_examples=15)
@given(data=st.data())
def test_histories_of_saves_and_prunes(data: st.DataObject) -> None:
    newest = {series: data.draw(states()) for series in SERIES}
    expected: dict[int, tuple[str, Saved]] = {}
    step = st.tuples(st.sampled_from(SERIES), st.sampled_from(["save", "save", "save", "prune"]))
    steps = data.draw(st.lists(step, max_size=9))
    saves = 0
    with tempfile.TemporaryDirectory() as folder:
        target = repository.open_or_create(Path(folder))
        for series, action in [*((series, "save") for series in SERIES), *steps]:
            if action == "save":
                newest[series] = data.draw(st.composite(_changed)(newest[series]))
                saved = replace(newest[series], fields={"series": series})
                saves += 1  # no number is used twice
                assert save_memory(target, saved).number == saves
                expected[saves] = (series, saved)
            else:
                last = data.draw(st.integers(1, 2))
                mine = [number for number, (name, _) in expected.items() if name == series]
                report = target.prune(lamina.Keep(last=last), series=series)
                assert report.snapshots == mine[:-last]
                for number in report.snapshots:
                    del expected[number]
            listed = [(snapshot.number, snapshot.series) for snapshot in target.snapshots()]
            assert listed == [(number, name) for number, (name, _) in expected.items()]
        target.prune()
        target.verify(full=True)
        for snapshot in target.snapshots():
            check_saved(snapshot, expected[snapshot.number or 0][1])
        assert check_with_travel(folder) == len(expected)


def test_prune_of_one_series_leaves_the_bytes_of_another(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    frozen = random_tensor(random, "backbone/0", np.dtype("<f4"), (300, 1000))
    target = repository.open_or_create(tmp_path)
    saved = {}
    for step in range(6):
        head = random_tensor(random, "head/0", np.dtype("<f4"), (500, 100))
        file = File("m.weights.h5", ((b"head", frozen), (b"", head)))
        state = Saved([file], fields={"series": SERIES[step % 2]})
        saved[save_memory(target, state).number] = state
    before = {path.name: path.read_bytes() for path in (tmp_path / "snapshots").iterdir()}
    assert target.prune(lamina.Keep(last=1), series=SERIES[0]).snapshots == [1, 3]
    kept = {path.name: path.read_bytes() for path in (tmp_path / "snapshots").iterdir()}
    gone = {"0000000001.json", "0000000003.json"}
    assert kept == {name: data for name, data in before.items() if name not in gone}
    for snapshot in target.snapshots():
        check_saved(snapshot, saved[snapshot.number])
    assert check_with_travel(tmp_path) == 4


@pytest.mark.parametrize(("count", "depth"), [(32, 0), (34, 1), (13_000, 2)])
def test_many_chunks_make_a_tree(tmp_path: Path, count: int, depth: int) -> None:
    values = np.arange(count, dtype=">u4")
    tensors = [Tensor(f"layer_{n}/0", ">u4", values[n : n + 1]) for n in range(count)]
    saved = Saved([File("m.weights.h5", tuple((b"", tensor) for tensor in tensors))])
    snapshot = save_memory(repository.open_or_create(tmp_path), saved)
    assert json.loads(snapshot._core.body())["state"]["depth"] == depth
    check_saved(snapshot, saved)
    source = restore.open_source(tmp_path)
    source.restore(tmp_path / "out")
    assert (tmp_path / "out" / "m.weights.h5").read_bytes() == values.tobytes()
    if depth < 2:
        check_with_travel(tmp_path)


@pytest.mark.parametrize("name", ["<M8[ns]", "|O8", "f4", "float9", "<f3"])
def test_a_dtype_that_the_format_lacks_is_not_saved(tmp_path: Path, name: str) -> None:
    tensor = Tensor("t", name, np.zeros(8, "<f4"))
    target = repository.open_or_create(tmp_path)
    with pytest.raises(lamina.errors.InvalidInputError, match="dtype"):
        save_memory(target, Saved([File("f", ((b"", tensor),))]))
    assert target.snapshots() == []
