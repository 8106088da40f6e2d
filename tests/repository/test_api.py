"""The Python API on files: they round-trip, and errors say what to do. Without Keras."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

import lamina
from lamina import _core
from lamina.errors import (
    BusyError,
    CorruptDataError,
    InvalidInputError,
    LaminaError,
    NotFoundError,
    StorageError,
    UnsupportedFormatError,
)
from lamina.repository import memory
from lamina.sources import resolve

pytestmark = pytest.mark.quick


def weights(path: Path, seed: int = 0, layers: int = 4, units: int = 120, **extra: np.ndarray) -> Path:
    """A file with the structure of a `.weights.h5`."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for i in range(layers):
            file[f"layers/dense_{i}/vars/0"] = rng.normal(0, 0.05, (units, units)).astype("f4")
            file[f"layers/dense_{i}/vars/1"] = rng.normal(0, 0.05, units).astype("f4")
        for name, value in extra.items():
            file[name.replace("__", "/")] = value
    return path


def disk(root: Path) -> int:
    return sum(p.stat().st_size for p in root.rglob("*") if p.is_file())


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return tmp_path / "repo"


def test_importing_lamina_is_light() -> None:
    code = (
        "import time, sys; t = time.perf_counter(); import lamina; t = time.perf_counter() - t\n"
        "heavy = {'keras', 'tensorflow', 'wandb', 'h5py', 'jax', 'torch', 'numpy'} & set(sys.modules)\n"
        "print(heavy or 'none'); assert 'keras' not in lamina.__all__ and 'open' not in lamina.__all__"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("none", 0), done.stderr


def test_numbers_come_back_equal(tmp_path: Path, repo: Path) -> None:
    path = weights(tmp_path / "m.weights.h5", kernel=np.ones(3))
    state = np.random.default_rng(1).bit_generator.state
    floats = [0.1, 1e-05, 1e16, 1e22, 5e-324, 1.7976931348623157e308, -0.0, 1.0]
    metadata = {"rng": state, "whole": [2**64, 2**128 - 1, -(2**63) - 1, 10**4000], "floats": floats}
    lamina.save(path, repo, metadata=metadata)
    read = lamina.open(repo).snapshot().metadata
    assert read == metadata
    assert list(map(repr, read["floats"])) == list(map(repr, floats))
    assert all(type(number) is int for number in read["whole"])


@pytest.mark.skipif(os.name == "nt", reason="there are no such names")
def test_a_file_of_any_name_is_saved(tmp_path: Path, repo: Path) -> None:
    path = weights(tmp_path / "m-10:20\\\n.weights.h5", kernel=np.ones(3))
    snapshot = lamina.save(path, repo)
    assert list(snapshot.files) == ["m-10%3A20%5C%0A.weights.h5"]
    (out,) = lamina.export(snapshot, tmp_path / "out")
    assert out.read_bytes() == path.read_bytes()


def test_a_file_comes_back(tmp_path: Path, repo: Path) -> None:
    path = weights(tmp_path / "m.weights.h5", odd=np.float16(3), empty=np.zeros((3, 0)), big=np.arange(9, dtype=">i4"))
    snapshot = lamina.save(path, repo, aliases=["first"], metadata={"note": "é", "n": np.int64(3)})
    assert (snapshot.number, snapshot.kind, snapshot.files) == (1, "weights", ["m.weights.h5"])
    assert snapshot.metadata == {"note": "é", "n": 3}
    assert set(snapshot.aliases) == {"latest", "first"}
    assert snapshot.bytes_total == path.stat().st_size
    for source in (
        repo,
        str(repo),
        f"{repo}@first",
        f"{repo}@default:first",
        f"{repo}@1",
        f"{repo}@{snapshot.id}",
        f"{repo}@{snapshot.id[:8]}",
        snapshot,
        lamina.open(repo),
    ):
        out = tmp_path / "out"
        assert lamina.export(source, out) == [out / "m.weights.h5"]
        assert (out / "m.weights.h5").read_bytes() == path.read_bytes()
    with h5py.File(path) as file:
        tensors = lamina.read_tensors(repo)
        names = [name for name in tensors if isinstance(file[name], h5py.Dataset)]
        assert len(names) == len(tensors) == 11
        for name in names:
            assert tensors[name].dtype == file[name].dtype
            np.testing.assert_array_equal(tensors[name], file[name][()])
        assert len(lamina.read_tensors(path)) == 11  # also while another process has it open
    one = lamina.read_tensors(path, "layers/dense_1/vars/0")
    np.testing.assert_array_equal(one["layers/dense_1/vars/0"], tensors["layers/dense_1/vars/0"])


@pytest.mark.parametrize("codec", ["auto", "raw", "zstd", "planes", "delta"])
def test_codecs(tmp_path: Path, repo: Path, codec: str) -> None:
    path = weights(tmp_path / "m.weights.h5")
    lamina.save(path, repo, codec=codec)
    assert lamina.export(repo, tmp_path / "out")[0].read_bytes() == path.read_bytes()
    lamina.open(repo).verify(full=True)


def test_an_unchanged_save_costs_nothing(tmp_path: Path, repo: Path) -> None:
    path = weights(tmp_path / "m.weights.h5", layers=26, units=1000)
    first = lamina.save(path, repo)
    assert first.bytes_new >= 100_000_000
    before = disk(repo)
    second = lamina.save(path, repo)
    assert second.bytes_new == 0
    assert disk(repo) - before == second.bytes_stored < 20_000


def test_an_unchanged_save_of_ten_thousand_tensors_costs_nothing(tmp_path: Path, repo: Path) -> None:
    path = weights(tmp_path / "m.weights.h5", layers=5000, units=8)
    assert len(lamina.save(path, repo).tensors) == 10_000
    before = disk(repo)
    lamina.save(path, repo)
    assert disk(repo) - before < 20_000


def test_an_inserted_layer_stores_no_other_tensor(tmp_path: Path, repo: Path) -> None:
    def stack(path: Path, order: list[int]) -> Path:
        """Keras numbers layers of a class, so the layers after an inserted one change their names."""
        with h5py.File(path, "w") as file:
            for position, seed in enumerate(order):
                rng = np.random.default_rng(seed)
                name = f"layers/dense_{position}" if position else "layers/dense"
                file[f"{name}/vars/0"] = rng.normal(size=(60, 70)).astype("f4")
                file[f"{name}/vars/1"] = rng.normal(size=70).astype("f4")
                file[f"{name}/vars/2"] = rng.normal(size=(200, 200)).astype("f4")
        return path

    lamina.save(stack(tmp_path / "m.weights.h5", [0, 1, 2, 3, 4]), repo)
    known = chunks(lamina.open(repo).snapshot())
    lamina.save(stack(tmp_path / "m.weights.h5", [0, 1, 99, 2, 3, 4]), repo)
    after = lamina.open(repo).snapshot()
    new = {name for name, ids in chunks(after).items() if not ids <= set().union(*known.values())}
    assert new == {f"layers/dense_2/vars/{i}" for i in range(3)}


def chunks(snapshot: lamina.Snapshot) -> dict[str, set[tuple[str, int]]]:
    content = resolve(snapshot).content
    return {name: set(content.chunks(tensor)) for name, tensor in snapshot.tensors.items()}


def test_series_aliases_and_references(tmp_path: Path, repo: Path) -> None:
    a = lamina.save(weights(tmp_path / "a.h5", 1), repo, series="a")
    b = lamina.save(weights(tmp_path / "b.h5", 2), repo, series="run:7", aliases="v1")
    opened = lamina.open(repo)
    assert opened.series == ["a", "run:7"]
    assert opened.snapshot("a:latest") == a
    assert opened.snapshot("run:7:v1") == b
    assert opened.snapshot("v1", series="run:7") == b
    assert lamina.export(f"{repo}@run:7:latest", tmp_path / "out")[0].name == "b.h5"
    with pytest.raises(InvalidInputError, match=r"several series.*'a'.*'run:7'|several series.*\"a\".*\"run:7\""):
        lamina.export(repo, tmp_path / "out")
    with pytest.raises(NotFoundError, match="no series"):
        opened.snapshot("b:latest")
    with pytest.raises(NotFoundError, match="nonsense"):
        opened.snapshot("a:nonsense")
    opened.set_alias(a, "v1")
    assert opened.snapshot("a:v1") == a
    assert opened.remove_alias("a", "v1")
    assert not opened.remove_alias("a", "v1")
    for meant in (a, a.id, a.number):  # both take the same arguments
        opened.set_alias(meant, "v2")
        assert opened.remove_alias(meant, "v2")
        assert not opened.remove_alias(meant, "v2")
    for bad in ("latest", "", "a/b", "a:b", "x" * 129):
        with pytest.raises(InvalidInputError):
            opened.set_alias(a, bad)


def test_a_path_with_an_at_sign_wins(tmp_path: Path) -> None:
    repo = tmp_path / "user@host"
    path = weights(tmp_path / "m.h5")
    lamina.save(path, repo, aliases=["x"])
    assert lamina.export(repo, tmp_path / "out")
    assert lamina.export(f"{repo}@x", tmp_path / "out")


def test_directories_and_opaque_files(tmp_path: Path, repo: Path) -> None:
    source = tmp_path / "saved_model"
    (source / "variables").mkdir(parents=True)
    (source / "fingerprint.pb").write_bytes(np.random.default_rng(3).bytes(8_000_000))
    (source / "variables" / "data").write_bytes(b"x" * 100)
    (source / "empty").write_bytes(b"")
    lamina.save(source, repo)
    written = lamina.export(repo, tmp_path / "out")
    assert [p.relative_to(tmp_path / "out").as_posix() for p in written] == [
        "empty",
        "fingerprint.pb",
        "variables/data",
    ]
    for path in written:
        assert path.read_bytes() == (source / path.relative_to(tmp_path / "out")).read_bytes()
    # Inserting bytes at the start of an opaque file only costs the chunks that they touch.
    (source / "fingerprint.pb").write_bytes(b"new" + (source / "fingerprint.pb").read_bytes())
    assert lamina.save(source, repo).bytes_new < 5_000_000


def test_best_and_diff(tmp_path: Path, repo: Path) -> None:
    lamina.save(weights(tmp_path / "m.h5", 1), repo)
    lamina.save(weights(tmp_path / "m.h5", 1, extra=np.ones(5000)), repo)
    lamina.save(weights(tmp_path / "m.h5", 2), repo)
    opened = lamina.open(repo)
    status = {d.name: d.status for d in opened.diff("1", "2")}
    assert status.pop("extra") == "added"
    assert set(status.values()) == {"same"}
    assert {d.status for d in opened.diff("2", "3")} == {"changed", "removed"}
    # Small tensors share a chunk, but each is compared alone.
    for swapped in (False, True):
        with h5py.File(tmp_path / "s.h5", "w") as file:
            file["d/vars/0"] = np.full(9, 1 + swapped, "f4")
            file["d/vars/1"] = np.full(9, 2 - swapped, "f4")
            file["d/vars/2"] = np.full(9, 5, "f4")
        lamina.save(tmp_path / "s.h5", repo)
    assert {d.name: d.status for d in opened.diff("4", "5")} == {
        "d/vars/0": "changed",
        "d/vars/1": "changed",
        "d/vars/2": "same",
    }
    with pytest.raises(NotFoundError, match="val_loss"):
        opened.best("val_loss")
    with pytest.raises(InvalidInputError, match="min"):
        opened.best("loss", "smallest")


def test_prune(tmp_path: Path, repo: Path) -> None:
    for i in range(5):
        lamina.save(weights(tmp_path / "m.h5", i), repo, aliases=["keep"] if i == 1 else [])
    opened = lamina.open(repo)
    plan = opened.prune(lamina.Keep(last=2), dry_run=True)
    assert (plan.snapshots, plan.packs, len(opened.snapshots())) == ([1, 3], 2, 5)
    done = opened.prune(lamina.Keep(last=2))
    assert done.snapshots == [1, 3]
    assert (done.packs, done.bytes) == (plan.packs, plan.bytes)
    assert [s.number for s in opened.snapshots()] == [2, 4, 5]
    opened.verify(full=True)
    for number in (2, 4, 5):
        lamina.export(f"{repo}@{number}", tmp_path / str(number))
        assert (tmp_path / str(number) / "m.h5").read_bytes() == weights(tmp_path / "again.h5", number - 1).read_bytes()
    for bad in ({}, {"last": 0}, {"best": -1}, {"every": 1.5}, {"last": True}):
        with pytest.raises(InvalidInputError):
            lamina.Keep(**bad)


def test_damage_reaches_nobody(tmp_path: Path, repo: Path) -> None:
    snapshot = lamina.save(weights(tmp_path / "m.h5"), repo)
    pack = next((repo / "packs").iterdir())
    good = pack.read_bytes()
    bad = bytearray(good)
    bad[len(bad) // 3] ^= 4
    pack.write_bytes(bad)
    with pytest.raises(CorruptDataError, match=pack.name.removesuffix(".pack")):
        lamina.export(repo, tmp_path / "out")
    assert not list((tmp_path / "out").glob("**/*"))
    with pytest.raises(CorruptDataError) as caught:
        lamina.open(repo).verify(full=True)
    assert caught.value.report.packs == 1
    pack.unlink()
    with pytest.raises(CorruptDataError, match="pack"):
        lamina.export(snapshot, tmp_path / "out")
    with pytest.raises(CorruptDataError, match="nothing was deleted"):
        lamina.open(repo).prune(lamina.Keep(last=1))
    pack.write_bytes(good)
    lamina.open(repo).verify(full=True)


def test_a_newer_format_says_so(tmp_path: Path, repo: Path) -> None:
    from lamina import _core

    lamina.save(weights(tmp_path / "m.h5"), repo)
    (repo / "config.json").write_bytes(_core.seal("config", '{"id":"x","required":["telepathy"]}'))
    with pytest.raises(UnsupportedFormatError, match="telepathy"):
        lamina.open(repo)


def test_errors_say_what_to_do(tmp_path: Path, repo: Path) -> None:
    with pytest.raises(NotFoundError, match=r"nowhere.h5 does not exist"):
        lamina.save(tmp_path / "nowhere.h5", repo)
    with pytest.raises(InvalidInputError, match="Keras model or a path"):
        lamina.save(3, repo)
    path = weights(tmp_path / "m.h5")
    with pytest.raises(InvalidInputError, match="auto"):
        lamina.save(path, repo, codec="lzma")
    with pytest.raises(InvalidInputError, match="inside"):
        lamina.save(tmp_path, repo)
    with pytest.raises(InvalidInputError, match="alias"):
        lamina.save(path, repo, aliases=["a/b"])
    for odd in ({"aliases": 5}, {"aliases": [1]}, {"metadata": [1]}):
        with pytest.raises(InvalidInputError, match=rf"{next(iter(odd))} must be a .*Received: "):
            lamina.save(path, repo, **odd)
    for odd in (None, "", 3):
        with pytest.raises(InvalidInputError, match="expected the directory of a repository. Received: "):
            lamina.save(path, odd)
    assert lamina.open(repo).snapshots() == []
    with pytest.raises(InvalidInputError, match=r"must be a lamina.Keep. Received: 3"):
        lamina.open(repo).prune(3)
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "main.tex").write_text("x")
    with pytest.raises(InvalidInputError, match="not empty"):
        lamina.save(path, foreign)
    with pytest.raises(NotFoundError, match="no lamina repository|not a lamina repository"):
        lamina.open(foreign)
    with pytest.raises(NotFoundError, match="holds no snapshot|no snapshot"):
        lamina.export(repo, tmp_path / "out")
    assert lamina.save(path, repo) == lamina.open(repo).snapshot(1)
    assert {found.status for found in lamina.open(repo).diff(1, 1)} == {"same"}
    with pytest.raises(NotFoundError, match="no tensor 'x'"):
        lamina.read_tensors(repo, ["x"])
    with pytest.raises(InvalidInputError, match="Received"):
        lamina.export(3, tmp_path / "out")
    for error in (InvalidInputError, NotFoundError, CorruptDataError, UnsupportedFormatError, StorageError):
        assert issubclass(error, LaminaError)
    codes = [e.exit_code for e in LaminaError.__subclasses__()]
    assert len(set(codes)) == len(codes)


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/self").exists(), reason="needs an unwritable place")
def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    path = weights(tmp_path / "m.h5")
    with pytest.raises(StorageError) as caught:
        lamina.save(path, "/proc/lamina")
    assert caught.value.errno
    assert "/proc/lamina" in str(caught.value)


def test_files_have_the_mode_of_the_umask(tmp_path: Path, repo: Path) -> None:
    old = os.umask(0o027)
    try:
        lamina.save(weights(tmp_path / "m.h5"), repo)
        (written,) = lamina.export(repo, tmp_path / "out")
    finally:
        os.umask(old)
    modes = {stat.S_IMODE(p.stat().st_mode) for p in [*repo.rglob("*"), written] if p.is_file()}
    assert modes == {0o640}


@pytest.mark.parametrize("codec", ["raw", "auto"])
def test_a_snapshot_that_is_pruned_before_it_is_read_is_not_damaged(tmp_path: Path, repo: Path, codec: str) -> None:
    for seed in range(2):
        lamina.save(weights(tmp_path / "m.weights.h5", seed), repo, codec=codec)
    snapshot = lamina.open(repo).snapshot("1")
    assert lamina.open(repo).prune(lamina.Keep(last=1)).packs == 1
    for read in (lamina.read_tensors, lambda source: lamina.export(source, tmp_path / "out")):
        with pytest.raises(NotFoundError, match="snapshot 1 is gone: a prune has deleted it"):
            read(snapshot)
    assert not list(tmp_path.glob("out/*"))


def test_threads_save_restore_and_prune_at_once(tmp_path: Path, repo: Path) -> None:
    lamina.save(weights(tmp_path / "m0.h5", 0), repo, series="s0")
    failures: list[BaseException] = []

    def work(i: int) -> None:
        try:
            for round_ in range(4):
                path = weights(tmp_path / f"m{i}.h5", 10 * i + round_)
                snapshot = lamina.save(path, repo, series=f"s{i}")
                out = lamina.export(snapshot, tmp_path / f"out{i}")
                assert out[0].read_bytes() == path.read_bytes()
                with contextlib.suppress(BusyError):
                    lamina.open(repo).prune(lamina.Keep(last=1), series=f"s{i}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    lamina.open(repo).prune()
    lamina.open(repo).verify(full=True)


def test_a_killed_save_leaves_the_repository_whole(tmp_path: Path, repo: Path) -> None:
    """SIGKILL at many moments of saves in another process: every reported save is there, complete."""
    path = weights(tmp_path / "m.weights.h5", layers=12, units=700)
    code = (
        "import sys, lamina, numpy, h5py\n"
        "path, repo = sys.argv[1:]\n"
        "for i in range(1000):\n"
        "    with h5py.File(path, 'r+') as f:\n"
        "        f['layers/dense_1/vars/0'][...] = numpy.random.default_rng().normal(size=(700, 700))\n"
        "        f['layers/dense_7/vars/0'][...] = i\n"
        "    print(lamina.save(path, repo).id, flush=True)\n"
    )
    for moment in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path), str(repo)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        reported = [process.stdout.readline().strip() for _ in range(1 + moment % 3)]
        threading.Event().wait(moment * 0.007)
        process.kill()
        reported += process.communicate()[0].split()
        opened = lamina.open(repo)
        opened.verify(full=True)
        ids = {snapshot.id for snapshot in opened.snapshots()}
        assert all(re.fullmatch("[0-9a-f]{32}", name) and name in ids for name in reported if len(name) == 32)
        weights(path, layers=12, units=700)
    lamina.save(path, repo)
    assert not list((repo / "sessions").iterdir())
    lamina.open(repo).prune(lamina.Keep(last=1))
    lamina.open(repo).verify(full=True)
    assert lamina.export(repo, tmp_path / "out")[0].read_bytes() == path.read_bytes()


def test_a_file_that_changes_while_it_is_saved(tmp_path: Path, repo: Path) -> None:
    path = weights(tmp_path / "m.weights.h5", layers=10, units=1500)
    stop = threading.Event()

    def touch() -> None:
        while not stop.is_set():
            with path.open("r+b") as file:
                file.seek(10_000)
                file.write(os.urandom(8))

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(InvalidInputError, match="was changed while"):
            lamina.save(path, repo)
    finally:
        stop.set()
        thread.join()
    assert lamina.open(repo).snapshots() == []


@pytest.fixture
def unhurried() -> Iterator[None]:
    """No thread is forced to release the GIL: another one runs only if a call releases it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


def gives_up_the_gil(call: Callable[[], object]) -> bool:
    """Whether this thread runs while another one is in `call`."""
    for _ in range(20):  # on a busy machine this thread may wake up too late to see it
        begun, ended = threading.Event(), []

        def work(begun: threading.Event = begun, ended: list[object] = ended) -> None:
            begun.set()
            ended.append(call())

        thread = threading.Thread(target=work)
        thread.start()
        begun.wait()
        amid = not ended
        thread.join()
        if amid:
            return True
    return False


def test_large_small_files_leave_the_gil_to_training(tmp_path: Path, repo: Path, unhurried: None) -> None:
    path = weights(tmp_path / "m.weights.h5", layers=1, units=8, **{f"t{i}": np.ones(1) for i in range(2000)})
    lamina.save(path, repo, metadata={"note": "x" * (32 << 20)})
    core = _core.Repository.open(str(repo))
    snapshot = core.snapshots()[0]
    sealed = core.snapshot_bytes(1)
    body = json.dumps({"note": "x" * (32 << 20)})
    assert not gives_up_the_gil(lambda: sum(range(3_000_000)))
    assert gives_up_the_gil(lambda: core.snapshot_bytes(1))
    assert gives_up_the_gil(lambda: _core.seal("journal", body))
    assert gives_up_the_gil(lambda: _core.unseal("snapshot", sealed, "it"))
    assert gives_up_the_gil(lambda: _core.parse_snapshot(sealed, "it"))
    assert gives_up_the_gil(snapshot.body)
    assert gives_up_the_gil(core.reader(snapshot).structure)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_worker_does_not_keep_a_dead_save_alive(tmp_path: Path, repo: Path) -> None:
    lamina.save(weights(tmp_path / "old.h5", 1), repo)
    lamina.save(weights(tmp_path / "old.h5", 2), repo)
    path = weights(tmp_path / "m.weights.h5", layers=40, units=1500)
    code = (
        "import os, sys, threading, lamina\n"
        "path, repo = sys.argv[1:]\n"
        "threading.Thread(target=lamina.save, args=(path, repo), daemon=True).start()\n"
        "while not [n for n in os.listdir(repo + '/sessions') if not n.startswith('.')]: pass\n"
        "pid = os.fork()\n"
        "if not pid: sys.stdin.read(); os._exit(0)\n"
        "print(pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    for _ in range(5):  # on a busy machine the save may end before the kill; then there is nothing to test
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, str(path), str(repo)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        worker = int(process.stdout.readline())
        try:
            assert process.wait() == -9
            os.kill(worker, 0)  # it is alive
            left = list((repo / "sessions").iterdir())
            pruned = lamina.open(repo).prune(lamina.Keep(last=1))
            assert pruned.waiting == 0
            assert not list((repo / "sessions").iterdir())
        finally:
            process.stdin.close()
            process.stdout.close()
        if left:
            break
    assert len(left) == 1
    assert pruned.packs >= 1
    lamina.open(repo).verify(full=True)


def test_large_arrays_begin_where_a_large_page_does() -> None:
    for rows, alignment in ((1, 1), (1 << 14, 64), (1 << 19, 64), (1 << 20, 2 << 20), ((1 << 20) + 1, 2 << 20)):
        arrays = [memory.empty((rows, 1), np.dtype(">f4")) for _ in range(3)]
        assert {(a.shape, a.dtype.str, a.flags.c_contiguous, a.flags.writeable) for a in arrays} == {
            ((rows, 1), ">f4", True, True)
        }
        assert [a.ctypes.data % alignment for a in arrays] == [0, 0, 0]
    assert memory.empty((0, 3), np.dtype("f8")).shape == (0, 3)
