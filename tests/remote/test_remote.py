"""Repositories in buckets: what is pushed is found, read, verified and pulled; on S3, and in a folder."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import lamina
from bucket_server import SECRET, Proxy, plain
from lamina.errors import CorruptDataError, InvalidInputError, NotFoundError
from lamina.files import h5
from lamina.remote.address import parse, split
from lamina.remote.bucket import Bucket
from lamina.remote.store import Store

pytestmark = pytest.mark.quick
Vectors = list["np.ndarray[tuple[int, ...], np.dtype[np.float32]]"]


def vectors(seed: int, *, count: int = 8, length: int = 20_000) -> Vectors:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(length).astype(np.float32) for _ in range(count)]


def save(
    repository: Path | str, values: Vectors, *, aliases: tuple[str, ...] = (), series: str = "s"
) -> lamina.Snapshot:
    file = Path(f"{len(list(Path().glob('*.h5')))}.weights.h5")
    h5.write_vectors(file, values)
    return lamina.save(file, repository, aliases=aliases, series=series)


def objects(address: str) -> dict[str, int]:
    """Path → bytes of all that stands in a bucket."""
    store = Store(parse(address))
    parts = ("packs", "snapshots", "aliases", "placements")
    return {f"{part}/{name}": one.size for part in parts for name, one in store.list(part).items()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=["s3", "file"])
def remote(request: pytest.FixtureRequest, here: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place of each kind."""
    if request.param == "s3":
        return str(request.getfixturevalue("bucket"))
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(here / "cache"))
    return f"file://{here}/bucket"


def test_what_is_pushed_is_found_and_comes_back(remote: str) -> None:
    first, second = vectors(1), vectors(2)
    save("a", first, aliases=("paper",))
    save("a", second, series="t", aliases=("other",))
    sent = lamina.push("a", remote)
    assert [snapshot.number for snapshot in sent.snapshots] == [1, 2]
    assert sent.bytes == sum(size for name, size in objects(remote).items() if name.startswith("packs/")) > 1 << 20

    found = lamina.open(remote)
    assert [(s.id, s.series, s.aliases) for s in found.snapshots()] == [
        (s.id, s.series, s.aliases) for s in lamina.open("a").snapshots()
    ]
    assert repr(found) == f"Repository({remote!r})"
    assert remote in found._repr_html_()
    assert list(found.to_dataframe().index) == [1, 2]
    assert found.stats() == lamina.open("a").stats()
    assert found.verify().packs == found.verify(full=True).packs == sent.packs
    assert found.verify(sample=0.5).chunks > 0
    assert [change.status for change in found.diff("s:1", "t:2")] == [
        change.status for change in lamina.open("a").diff("s:1", "t:2")
    ]
    read = lamina.read_tensors(f"{remote}@s:paper")
    assert all((got == want).all() for got, want in zip(read.values(), first, strict=True))
    lamina.export(f"{remote}@t:other", "out")
    assert Path("out/1.weights.h5").read_bytes() == Path("1.weights.h5").read_bytes()

    brought = lamina.pull(remote, "b")
    assert [s.id for s in brought.snapshots] == [s.id for s in sent.snapshots]
    assert [s.aliases for s in lamina.open("b").snapshots()] == [["latest", "paper"], ["latest", "other"]]
    assert lamina.open("b").verify(full=True).problems == []


def test_nothing_travels_twice(bucket: str, proxy: Proxy, here: Path) -> None:
    save("a", vectors(1), aliases=("x",))
    lamina.push("a", bucket)
    lamina.pull(bucket, "b")
    before, proxy.asked = objects(bucket), []
    assert lamina.push("a", bucket).snapshots == []
    assert lamina.push("b", bucket).snapshots == []
    assert lamina.pull(bucket, "b").snapshots == []
    assert objects(bucket) == before
    assert proxy.count("GET", ".pack") == 0
    assert not any(SECRET.encode() in path.read_bytes() for path in here.rglob("*") if path.is_file())
    # The probe writes what stands there; nothing else is written.
    assert [one.path for one in proxy.asked if one.method == "PUT"] == [f"/{bucket[5:]}/config.json"] * 2


def test_a_version_costs_what_has_changed(bucket: str, proxy: Proxy, here: Path) -> None:
    """19 of 20 tensors are frozen; requests per version do not grow with the versions."""
    values = vectors(0, count=20, length=100_000)
    costs, requests = [], []
    for version in range(6):
        values[3] = vectors(version, length=100_000)[0]
        save("a", values)
        proxy.asked = []
        lamina.push("a", bucket)
        costs.append(proxy.sent())
        requests.append(len(proxy.asked))
    assert costs[0] > 6_000_000
    assert max(costs[1:]) <= 0.06 * costs[0]
    assert max(requests[2:]) == min(requests[2:])


def test_one_tensor_does_not_fetch_the_others(bucket: str, proxy: Proxy, here: Path) -> None:
    values = vectors(1, count=16, length=1_000_000)
    save("a", values)
    lamina.push("a", bucket)
    got = 0

    def count(asked: object, forward: Callable[[], tuple[int, dict[str, str], bytes]]) -> object:
        nonlocal got
        answer = forward()
        got += len(answer[2])
        return answer

    proxy.fault = count  # type: ignore[assignment]
    name = list(lamina.open("a").snapshot().tensors)[7]
    (tensor,) = lamina.read_tensors(bucket, [name]).values()
    assert (tensor == lamina.read_tensors("a", [name])[name]).all()
    assert got < 0.25 * 64_000_000


def test_a_plain_copy_of_a_bucket_opens(bucket: str, proxy: Proxy, here: Path) -> None:
    snapshot = save("a", vectors(1), aliases=("x",))
    lamina.push("a", bucket)
    ask = plain(proxy, bucket)
    for name in ["config.json", *objects(bucket)]:
        Path("copy", name).parent.mkdir(parents=True, exist_ok=True)
        Path("copy", name).write_bytes(ask("GET", name))
    copy = lamina.open("copy")
    assert copy.snapshot("x") == snapshot
    assert copy.verify(full=True).problems == []


def test_a_bucket_that_was_filled_by_a_plain_copy_opens(bucket: str, proxy: Proxy, here: Path) -> None:
    """It tells nowhere where the chunks are, so the ends of all packs are read, until a push writes it down."""
    save("a", vectors(1, count=40, length=300_000))
    save("a", vectors(2))
    ask = plain(proxy, bucket)
    for path in [Path("a/config.json"), *Path("a/packs").iterdir(), *Path("a/snapshots").glob("*.json")]:
        ask("PUT", str(path.relative_to("a")), path.read_bytes())
    lamina.export(f"{bucket}@1", "out")
    assert Path("out/0.weights.h5").read_bytes() == Path("0.weights.h5").read_bytes()
    assert lamina.open(bucket).verify().problems == []
    assert lamina.push("a", bucket).snapshots == []
    assert sum(name.startswith("placements/") for name in objects(bucket)) == 2


def test_machines_that_push_at_once(bucket: str, here: Path) -> None:
    """Every snapshot gets a number of its own, and none is lost or there twice."""
    names = [f"r{number}" for number in range(6)]
    ids = {save(name, vectors(number), series=name).id for number, name in enumerate(names)}
    together = threading.Barrier(2 * len(names))
    failures = []

    def push(name: str) -> None:
        together.wait()
        try:
            lamina.push(name, bucket)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=push, args=(name,)) for name in names * 2]  # each from two places
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    found = lamina.open(bucket)
    assert {snapshot.id for snapshot in found.snapshots()} == ids
    assert len(found.snapshots()) == len(ids)
    assert found.verify(full=True).problems == []


def test_an_alias_moves_also_where_another_has_just_moved_it(bucket: str, here: Path) -> None:
    one = save("a", vectors(1), aliases=("best-of-all",))
    lamina.push("a", bucket)
    stale = Bucket(parse(bucket), make=True)
    two = save("a", vectors(2), aliases=("best-of-all",))
    lamina.push("a", bucket)
    assert lamina.open(bucket).snapshot("best-of-all") == two
    lamina.open("a").set_alias(one, "best-of-all")
    (file,) = Path("a/aliases").glob("*.json")
    stale.set_alias(file.name, file.read_bytes())  # who has not seen that it moved
    assert lamina.open(bucket).snapshot("best-of-all") == one


def test_pull_of_one_snapshot_and_of_names(remote: str) -> None:
    for number, alias in enumerate(["x", "y"]):
        save("a", vectors(number), aliases=(alias,))
    lamina.push("a", remote)
    (one,) = lamina.pull(f"{remote}@x", "b").snapshots
    assert one.aliases == ["latest", "x"]
    lamina.open("b").set_alias(one, "y")  # a name that the user has given here stays
    lamina.open("b").remove_alias(one, "x")
    (two,) = lamina.pull(remote, "b").snapshots
    assert {s.id: s.aliases for s in lamina.open("b").snapshots()} == {one.id: ["x"], two.id: ["latest", "y"]}
    with pytest.raises(NotFoundError, match="no snapshot 'z' in"):
        lamina.pull(f"{remote}@z", "new")
    assert not Path("new").exists()


def test_a_damaged_pack_does_not_travel(remote: str) -> None:
    save("a", vectors(1))
    save("a", vectors(2))
    pack = max(Path("a/packs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(data)
    with pytest.raises(CorruptDataError, match="damaged, and was not sent"):
        lamina.push("a", remote)
    assert [s.number for s in lamina.open(remote).snapshots()] == [1]
    assert not list(Path("a/journal").glob("*.json")), "who is told needs no record"


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_damage_in_a_bucket_reaches_nobody(damage: str, bucket: str, proxy: Proxy, here: Path) -> None:
    save("a", vectors(1))
    lamina.push("a", bucket)
    ask = plain(proxy, bucket)
    (name,) = (name for name in objects(bucket) if name.startswith("packs/"))
    data = bytearray(ask("GET", name))
    if damage == "gone":
        ask("DELETE", name)
    elif damage == "cut":
        ask("PUT", name, bytes(data[:-100]))
    else:
        data[len(data) // 2] ^= 1
        ask("PUT", name, bytes(data))
    with pytest.raises(CorruptDataError):
        lamina.export(bucket, "out")
    with pytest.raises(CorruptDataError):
        lamina.pull(bucket, "b")
    with pytest.raises(CorruptDataError):
        lamina.open(bucket).verify(full=True)
    assert not list(Path().glob("out/*.h5"))
    assert lamina.open("b").snapshots() == []
    if damage != "flipped":  # a listing tells of it
        lamina.push("a", bucket)
        lamina.export(bucket, "out")


def test_what_needs_a_directory_says_so(remote: str) -> None:
    save("a", vectors(1))
    lamina.push("a", remote)
    found = lamina.open(remote)
    for call in (
        lambda: lamina.save("0.weights.h5", found),
        lambda: found.prune(lamina.Keep(last=1)),
        lambda: found.forget(1),
        lambda: found.set_alias("1", "x"),
        lambda: found.remove_alias("1", "x"),
        lambda: found.repair("a"),
        lambda: lamina.wandb.log_checkpoint(found.snapshot(), run=SimpleNamespace(id="a", disabled=False)),
    ):
        with pytest.raises(InvalidInputError, match=r"needs a repository on this machine"):
            call()
    assert lamina.open(remote).snapshots()[0].aliases == ["latest"]


def test_what_another_copy_has_repairs_a_repository(remote: str) -> None:
    save("a", vectors(1))
    lamina.push("a", remote)
    (pack,) = Path("a/packs").iterdir()
    pack.unlink()
    assert lamina.open("a").repair(remote).ok
    assert lamina.open("a").verify(full=True).problems == []


def test_several_series_are_named_by_the_address(remote: str) -> None:
    save("a", vectors(1), series="s")
    save("a", vectors(2), series="t")
    lamina.push("a", remote)
    with pytest.raises(InvalidInputError, match="holds several series") as caught:
        lamina.restore(remote, None)  # type: ignore[arg-type]
    assert remote in str(caught.value)
    assert "cache" not in str(caught.value).replace(remote, "")


def test_a_bucket_that_was_emptied_and_filled_anew(bucket: str, proxy: Proxy, here: Path) -> None:
    """Its numbers begin again; nothing of the one before is shown."""
    save("a", vectors(1))
    lamina.push("a", bucket)
    lamina.open(bucket)
    for name in ["config.json", *objects(bucket)]:
        plain(proxy, bucket)("DELETE", name)
    new = save("b", vectors(2))
    lamina.push("b", bucket)
    assert lamina.open(bucket).snapshots() == [new]
    shutil.rmtree("cache")
    assert lamina.open(bucket).snapshots() == [new]


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("s3://b/a/../c", "no '.', '..'"),
        ("s3://b/a?x=1", "no '.', '..'"),
        ("file://relative/x", "absolute path"),
        ("file:///", "absolute path"),
        (f"s3://key:{SECRET}@b/a", "credentials are no part"),
        ("hdfs://b/a", "expected the address of a bucket"),
        ("runs/b", "expected the address of a bucket"),
        (Path("s3://b/a"), "expected the address of a bucket"),
        (None, "expected the address of a bucket"),
    ],
)
def test_addresses_that_are_none(address: object, why: str, here: Path) -> None:
    save("a", vectors(1, count=1))
    before = sorted(here.rglob("*"))
    with pytest.raises(InvalidInputError, match=why) as caught:
        lamina.push("a", address)  # type: ignore[arg-type]
    assert SECRET not in str(caught.value)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "url", "ref"),
    [
        ("s3://b", "s3://b", None),
        ("s3://b@best", "s3://b", "best"),
        ("s3://b@s:best", "s3://b", "s:best"),
        ("s3://b/x/y/", "s3://b/x/y", None),
        ("gs://b/x@s:epoch_3", "gs://b/x", "s:epoch_3"),
        ("az://b/x@y@latest", "az://b/x@y", "latest"),
        ("file:///x/y@3", "file:///x/y", "3"),
    ],
)
def test_addresses(text: str, url: str, ref: str | None) -> None:
    address, found = split(text)
    assert (address.url, found) == (url, ref)
    assert parse(address.url) == address


def test_without_obstore(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInputError, match="pip install obstore"):
        lamina.open("s3://bucket/x")
