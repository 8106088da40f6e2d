"""A store that fails, forgets its answers or ignores conditions, and senders that are killed: nothing is lost, nothing
is half visible, and every message says what to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_remote import objects, save, vectors

import lamina
from bucket_server import SECRET, Asked, Forward, Proxy, environment
from lamina.errors import LaminaError, NotFoundError, StorageError, UnsupportedFormatError
from lamina.remote.address import parse
from lamina.remote.bucket import Bucket

Answer = tuple[int, dict[str, str], bytes]
Push = Callable[[str, str, Callable[[int], None]], None]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two snapshots and an alias."""
    monkeypatch.chdir(tmp_path)
    save("a", vectors(1, count=2))
    save("a", vectors(2, count=2), aliases=("x",))
    return tmp_path / "a"


def whole(address: str) -> list[str]:
    """Ids of the snapshots that a bucket shows; each of them must be whole."""
    try:
        found = lamina.open(address)
    except NotFoundError:  # it has not even begun
        return []
    assert found.verify(full=True).problems == []
    return [snapshot.id for snapshot in found.snapshots()]


def ids(repository: Path | str) -> list[str]:
    return [snapshot.id for snapshot in lamina.open(repository).snapshots()]


def error(status: int, code: str) -> Answer:
    return status, {"Content-Type": "application/xml"}, f"<Error><Code>{code}</Code></Error>".encode()


def at_first(times: int, chosen: Callable[[Asked], bool], answer: Callable[[Forward], Answer | None]) -> object:
    """The first requests of a kind are answered in another way."""
    left = times

    def fault(asked: Asked, forward: Forward) -> Answer | None:
        nonlocal left
        if left and chosen(asked):
            left -= 1
            return answer(forward)
        return forward()

    return fault


def lost(forward: Forward) -> None:
    """It arrives, and nobody hears of it."""
    forward()


KINDS: dict[str, Callable[[Asked], bool]] = {
    "packs": lambda asked: asked.method == "PUT" and "/packs/" in asked.path,
    "placements": lambda asked: asked.method == "PUT" and "/placements/" in asked.path,
    "snapshots": lambda asked: asked.method == "PUT" and "/snapshots/" in asked.path,
    "aliases": lambda asked: asked.method == "PUT" and "/aliases/" in asked.path,
    "config": lambda asked: asked.method == "PUT" and asked.path.endswith("config.json"),
    "reads": lambda asked: asked.method == "GET",
}
ANSWERS: dict[str, Callable[[Forward], Answer | None]] = {
    "500": lambda forward: error(500, "InternalError"),
    "503": lambda forward: (503, {"Retry-After": "0"}, b""),
    "reset": lambda forward: None,
    "lost": lost,
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("kind", KINDS)
def test_trouble_for_a_moment(kind: str, answer: str, bucket: str, proxy: Proxy, home: Path) -> None:
    """Above all an answer that is lost after the snapshot has arrived: it is there once."""
    proxy.fault = at_first(2, KINDS[kind], ANSWERS[answer])  # type: ignore[assignment]
    try:
        lamina.push("a", bucket)
    except StorageError:  # what obstore does not repeat; the second push must do the rest
        lamina.push("a", bucket)
    proxy.fault = None
    assert whole(bucket) == ids("a")
    assert lamina.open(bucket).snapshot("x").number == 2


@pytest.mark.parametrize("kind", ["packs", "snapshots", "reads"])
def test_a_store_that_is_gone(kind: str, bucket: str, proxy: Proxy, home: Path) -> None:
    proxy.fault = at_first(1 << 30, KINDS[kind], ANSWERS["503"])  # type: ignore[assignment]
    with pytest.raises(StorageError) as caught:
        lamina.push("a", bucket)
    assert "503" in str(caught.value)
    assert bucket in str(caught.value)
    assert SECRET not in str(caught.value)
    proxy.fault = None
    assert whole(bucket) in ([], ids("a")[:1])
    assert not list((home / "journal").glob("*.json"))
    lamina.push("a", bucket)
    assert whole(bucket) == ids("a")


def test_a_number_that_another_write_has_just_taken(bucket: str, proxy: Proxy, home: Path) -> None:
    """409: another write is under way, and may fail; the number is tried again. 412: it is taken."""
    save("b", vectors(3), series="b")
    lamina.push("b", bucket)
    asked = []

    def fault(one: Asked, forward: Forward) -> Answer:
        if KINDS["snapshots"](one):
            asked.append(one.path)
            if len(asked) <= 2:
                return error(409, "ConditionalRequestConflict")
        return forward()

    proxy.fault = fault
    lamina.push("a", bucket)
    assert [path.rpartition("/")[2] for path in asked[:3]] == ["0000000002.json"] * 3
    assert whole(bucket) == [*ids("b"), *ids("a")]

    stale = Bucket(parse(bucket))
    stale._numbers.clear()  # as after a listing that lags
    data = lamina.open("a")._core.snapshot_bytes(2)
    assert stale.commit(data) == 3, "it is there already, under its number"
    assert whole(bucket) == [*ids("b"), *ids("a")]


def test_a_store_that_ignores_conditions_is_refused(bucket: str, proxy: Proxy, home: Path) -> None:
    def ignoring(asked: Asked, forward: Forward) -> Answer:
        asked.headers.pop("if-none-match", None)
        return forward()

    proxy.fault = ignoring
    with pytest.raises(UnsupportedFormatError, match=f"the store of {bucket} ignores the condition If-None-Match"):
        lamina.push("a", bucket)
    assert objects(bucket) == {}


@pytest.mark.parametrize(
    ("status", "code", "kind", "said"),
    [
        (404, "NoSuchBucket", NotFoundError, "there is no bucket s3://bucket-"),
        (403, "AccessDenied", StorageError, "no permission; expected credentials"),
        (403, "InvalidAccessKeyId", StorageError, "no permission; expected credentials"),
        (400, "ExpiredToken", StorageError, "the credentials have expired; renew them"),
    ],
)
def test_what_is_refused_for_good_says_what_helps(
    status: int, code: str, kind: type[LaminaError], said: str, bucket: str, proxy: Proxy, home: Path
) -> None:
    save("b", vectors(3), series="b")
    lamina.push("b", bucket)
    refused = at_first(1 << 30, lambda asked: True, lambda forward: error(status, code))
    for call in (lambda: lamina.push("a", bucket), lambda: lamina.open(bucket), lambda: lamina.pull(bucket, "c")):
        proxy.fault, proxy.asked = refused, []  # type: ignore[assignment]
        with pytest.raises(kind) as caught:
            call()
        assert said in str(caught.value)
        assert SECRET not in str(caught.value)
        assert len(proxy.asked) < 5, "it is asked again and again"
    proxy.fault = None
    assert whole(bucket) == ids("b")
    assert not Path("c").exists()


def test_a_body_that_breaks_off(bucket: str, proxy: Proxy, home: Path) -> None:
    lamina.push("a", bucket)
    cut = 0

    def breaking(asked: Asked, forward: Forward) -> Answer:
        nonlocal cut
        status, headers, body = forward()
        if ".pack" in asked.path and cut < 2:
            cut += 1
            headers |= {"x-cut": str(len(body) // 2), "x-length": str(len(body))}
        return status, headers, body

    proxy.fault = breaking
    lamina.export(bucket, "out")
    assert cut == 2
    assert Path("out/1.weights.h5").read_bytes() == Path("1.weights.h5").read_bytes()


ZYGOTE = """
import os, sys
import lamina.remote.push, lamina.remote.store, lamina.files.h5, obstore.store
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        endpoint, repository, address = line.split()
        os.environ["AWS_ENDPOINT_URL"] = endpoint
        try:
            lamina.remote.push.push(repository, address)
        finally:
            os._exit(0)
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("ended", flush=True)
"""


@pytest.fixture
def pushes(proxy: Proxy, tmp_path: Path) -> Iterator[Push]:
    """Pushes in a process of its own; a function is told its number before it begins."""
    environ = {**os.environ, **environment(proxy.url), "LAMINA_CACHE_DIR": str(tmp_path / "other")}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", ZYGOTE], stdin=pipe, stdout=pipe, text=True, env=environ) as zygote:
        assert zygote.stdin is not None
        assert zygote.stdout is not None

        def push(repository: str, address: str, begin: Callable[[int], None]) -> None:
            print(proxy.url, repository, address, file=zygote.stdin, flush=True)
            begin(int(zygote.stdout.readline()))
            assert zygote.stdout.readline() == "ended\n"

        yield push
        zygote.stdin.close()


class Killer:
    """Kills the sender at its request of this number; what it asks behind it is not answered."""

    def __init__(self, number: int, moment: str) -> None:
        self.number, self.moment = number, moment
        self.count = 0
        self._pid: int | None = None
        self._known = threading.Event()  # the proxy may hear of a request before anybody hears of the process

    def of(self, pid: int) -> None:
        self._pid = pid
        self._known.set()

    def __call__(self, asked: Asked, forward: Forward) -> Answer | None:
        self.count += 1
        if self.count < self.number:
            return forward()
        if self.count == self.number:
            if self.moment == "behind":
                forward()
            assert self._known.wait(30)
            assert self._pid is not None
            os.kill(self._pid, signal.SIGKILL)
        return None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a process")
@pytest.mark.parametrize("moment", ["before", "behind"])
def test_a_sender_that_is_killed_at_any_request(
    moment: str, proxy: Proxy, bucket: str, home: Path, pushes: Push
) -> None:
    """Before the store hears of it, or behind it, before the answer comes: at most there are packs too many."""
    pushes(str(home), f"{bucket}/0", lambda pid: None)
    total, expected, seen = len(proxy.asked), ids("a"), set()
    assert total > 12
    for number in range(1, total + 1):
        address, killer = f"{bucket}/{number}", Killer(number, moment)
        proxy.fault = killer
        pushes(str(home), address, killer.of)
        proxy.fault = None
        assert killer.count >= number
        there = whole(address)
        assert there == expected[: len(there)]
        seen.add(len(there))
        lamina.push(home, address)
        assert [(s.id, s.aliases) for s in lamina.open(address).snapshots()] == [
            (expected[0], []),
            (expected[1], ["latest", "x"]),
        ]
        assert not list((home / "journal").glob("*.json"))
    assert seen == {0, 1, 2}
