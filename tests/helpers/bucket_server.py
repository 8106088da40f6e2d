"""An S3 store on loopback (moto's server), and a proxy in front of it that counts requests and makes trouble."""

from __future__ import annotations

import http.client
import itertools
import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SECRET = "a-secret-that-nobody-may-see"
_numbers = itertools.count(1)

#: What a fault does with a request: `forward` sends it on, and gives status, headers and body.
Forward = Callable[[], tuple[int, dict[str, str], bytes]]
Fault = Callable[["Asked", Forward], tuple[int, dict[str, str], bytes] | None]


class Asked:
    """One request."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        self.method, self.path, self.headers, self.body = method, path, headers, body

    @property
    def conditional(self) -> bool:
        return "if-none-match" in self.headers

    def __repr__(self) -> str:
        return f"{self.method} {self.path}"


class Proxy(ThreadingHTTPServer):
    """``fault`` may answer in the store's place: None closes the connection without an answer."""

    daemon_threads = True

    def __init__(self, store: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = store
        self.fault: Fault | None = None
        self.asked: list[Asked] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def count(self, method: str, part: str = "") -> int:
        return sum(one.method == method and part in one.path for one in self.asked)

    def sent(self, part: str = "") -> int:
        """Bytes that were written."""
        return sum(len(one.body) for one in self.asked if one.method == "PUT" and part in one.path)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one piece: else each answer waits 40 ms for the client's TCP
    disable_nagle_algorithm = True
    server: Proxy

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, self.path, headers, body)
        self.server.asked.append(asked)
        fault, forward = self.server.fault, lambda: self._forward(asked)
        answer = forward() if fault is None else fault(asked, forward)
        if answer is None:
            self._reset()
            return
        status, given, content = answer
        cut = int(given.pop("x-cut", -1))
        self.send_response_only(status)
        for name, value in given.items():
            self.send_header(name, value)
        self.send_header("Content-Length", given.get("x-length", str(len(content))))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content if cut < 0 else content[:cut])
        if cut >= 0:
            self._reset()

    def _reset(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _forward(self, asked: Asked) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(*self.server.store, timeout=30)
        connection.request(asked.method, asked.path, asked.body, asked.headers)
        response = connection.getresponse()
        content = response.read()
        skipped = {"content-length", "connection", "transfer-encoding"}
        given = {name: value for name, value in response.getheaders() if name.lower() not in skipped}
        connection.close()
        return response.status, given, content

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _do

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="session")
def _store() -> Iterator[tuple[str, int]]:
    moto = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture
def proxy(_store: tuple[str, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Proxy]:
    """The store, as every client finds it by the conventions of S3; requests are repeated at once, and not for long."""
    from lamina.remote import store

    proxy = Proxy(_store)
    for name, value in environment(proxy.url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path / "cache"))
    once = timedelta(milliseconds=1)
    backoff = {"init_backoff": once, "max_backoff": once, "base": 2}
    monkeypatch.setattr(store, "RETRY", {"max_retries": 2, "backoff": backoff, "retry_timeout": timedelta(seconds=30)})
    yield proxy
    proxy.shutdown()
    proxy.server_close()


def environment(url: str) -> dict[str, str]:
    keys = {"AWS_ACCESS_KEY_ID": "a-key", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
    return {"AWS_ENDPOINT_URL": url, **keys}


@pytest.fixture
def bucket(proxy: Proxy) -> str:
    """The address of a new, empty bucket's prefix."""
    name = f"bucket-{next(_numbers)}"
    _Plain(proxy).request("PUT", f"/{name}")
    return f"s3://{name}/runs/a"


class _Plain:
    """Plain requests to the store, past the proxy."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        connection = http.client.HTTPConnection(*self.proxy.store, timeout=30)
        key = "AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=s"
        connection.request(method, path, body, {"Authorization": key, "Content-Length": str(len(body))})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        assert response.status < 300, (method, path, response.status, content)
        return content


def plain(proxy: Proxy, address: str) -> Callable[..., bytes]:
    """What a tool without lamina does with the objects of an address: ``ask("GET", "packs/x.pack")``."""
    _, _, place = address.partition("://")
    return lambda method, name, body=b"": _Plain(proxy).request(method, f"/{place}/{name}", body)
