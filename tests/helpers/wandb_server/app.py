"""The HTTP face: /graphql, the file stream, and a bucket that takes PUT and gives ranges to GET."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import md5
from threading import RLock
from typing import Any
from urllib.parse import quote
from weakref import WeakKeyDictionary

from aiohttp import web

from .artifacts import Artifacts, Policy
from .executor import GraphQLError, Request, execute, read_request
from .mutations import Mutations
from .runs import Runs
from .schema import Schema
from .state import State
from .storage import Storage, flip
from .sweeps import Sweeps
from .traffic import Bandwidth, Counters, Fault, Faults, FileCounter, Operation, pay

CHUNK = 256 * 1024  # small enough for limits to bite smoothly, large enough not to cost throughput
MAX_BODY = 1 << 30  # of GraphQL and file stream requests
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def blob_key_of(path: str) -> str:
    """The blob behind a storage path; what follows a content's address is only its name."""
    parts = path.split("/")
    depth = {"artifacts": 3, "manifests": 2, "parts": 3}.get(parts[0], len(parts))
    return "/".join(parts[:depth])


class App:
    """One life of the server; what outlives it is in the arguments."""

    def __init__(self, state: State, storage: Storage, policy: Policy, url: str, lock: RLock, traffic: Traffic) -> None:
        self.lock = lock
        self.traffic = traffic
        self._storage = storage
        self._policy = policy
        self._runs = Runs(state)
        self._artifacts = Artifacts(state, storage, policy)
        sweeps = Sweeps(state)
        schema = Schema(state, self._runs, sweeps, self._artifacts, url)
        self._root = {**schema.root(), **Mutations(state, self._runs, sweeps, self._artifacts, schema).root()}
        self._connections: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()

    def web_app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._gate])
        app.router.add_post("/graphql", self._graphql)
        app.router.add_post("/files/{entity}/{project}/{run}/file_stream", self._file_stream)
        app.router.add_put("/storage/{path:.*}", self._put)
        app.router.add_get("/storage/{path:.*}", self._get)
        app.router.add_get("/artifactsV2/{region}/{entity}/{project}/{collection}/{rest:.*}", self._artifact_file)
        return app

    # --- before any handler -----------------------------------------------------------------------

    @web.middleware
    async def _gate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.traffic.down:
            return _abort(request)
        if not request.path.startswith("/storage/") and not _authorized(request):
            return web.json_response({"errors": [{"message": "invalid API key"}]}, status=401)
        return await handler(request)

    async def _struck(self, fault: Fault | None, request: web.Request) -> web.StreamResponse | None:
        """Do what a fault does before a request is served; an answer here is instead of the real one."""
        if fault is None:
            return None
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.status is not None:
            await request.read()
            return web.json_response({"errors": [{"message": fault.error or "injected"}]}, status=fault.status)
        return None

    # --- API --------------------------------------------------------------------------------------

    async def _graphql(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        operation = Operation(started=time.monotonic(), user_agent=request.headers.get("User-Agent", ""))
        self.traffic.log(operation)
        try:
            return await self._run_operation(request, body, operation)
        except GraphQLError as error:
            operation.error = str(error)
            return _refusal(operation.error)
        finally:
            operation.seconds = time.monotonic() - operation.started

    async def _run_operation(
        self, request: web.Request, body: dict[str, Any], operation: Operation
    ) -> web.StreamResponse:
        parsed = read_request(body["query"], body.get("variables"), body.get("operationName"))
        operation.name, operation.fields = parsed.name, parsed.root_fields
        operation.variables = dict(parsed.variables)
        fault = self.traffic.faults.take("POST", "/graphql", operation.name)
        if answer := await self._struck(fault, request):
            operation.error = f"injected status {answer.status}"
            return answer
        if fault and fault.error:
            raise GraphQLError(fault.error)
        response = self._answer(parsed, operation)
        if fault and fault.reset_after is not None:  # the work is done, the answer is lost
            return _abort(request)
        return response

    def _answer(self, parsed: Request, operation: Operation) -> web.Response:
        try:
            with self.lock:
                return web.json_response({"data": execute(parsed, self._root)})
        except GraphQLError:
            raise
        except Exception as error:  # a bug of this server must not look like one that a retry may heal
            traceback.print_exc(file=sys.stderr)
            operation.error = f"loopback server bug: {error!r}"
            return _refusal(operation.error)

    async def _file_stream(self, request: web.Request) -> web.StreamResponse:
        fault = self.traffic.faults.take("POST", request.path)
        if answer := await self._struck(fault, request):
            return answer
        body = json.loads(await request.read())
        place = request.match_info
        with self.lock:
            run = self._runs.find(place["entity"], place["project"], place["run"])
            if run is None:
                return web.json_response({"error": "run not found"}, status=404)
            reply = self._runs.stream(run, body)
        if fault and fault.reset_after is not None:  # the work is done, the answer is lost
            return _abort(request)
        return web.json_response(reply)

    async def _artifact_file(self, request: web.Request) -> web.StreamResponse:
        """…/[artifact id/]birth id/digest/name, as entry.download() asks on its own."""
        birth, digest, name = request.match_info["rest"].split("/")[-3:]
        target = f"/storage/artifacts/{quote(birth)}/{digest}/{quote(name)}"
        return web.Response(status=307, headers={"Location": target})

    # --- storage ----------------------------------------------------------------------------------

    async def _put(self, request: web.Request) -> web.StreamResponse:
        path, counters = request.match_info["path"], self.traffic.counters
        counter = counters.file(path)
        counter.put_attempts += 1
        counters.begin("PUT")
        try:
            return await self._store(request, path, counter)
        finally:
            counters.end("PUT")

    async def _store(self, request: web.Request, path: str, counter: FileCounter) -> web.StreamResponse:
        fault = self.traffic.faults.take("PUT", request.path)
        if fault and fault.delay:
            await asyncio.sleep(fault.delay)
        hashed = self._policy.check_md5 or path.startswith("parts/")
        temporary, digest, received = self._storage.incoming(), md5(), 0
        with temporary.open("wb") as file:
            async for chunk in self._incoming(request):
                received += len(chunk)
                counter.put_bytes += len(chunk)
                if hashed:
                    digest.update(chunk)
                file.write(flip(chunk) if fault and fault.corrupt and received == len(chunk) else chunk)
                if fault and fault.reset_after is not None and received >= fault.reset_after:
                    break
        if fault and fault.reset_after is not None:
            temporary.unlink()
            return _abort(request)
        if fault and fault.status is not None:
            temporary.unlink()
            return web.Response(status=fault.status, text="injected")
        if hashed and (problem := _digest_problem(request, digest.hexdigest())):
            temporary.unlink()
            return web.Response(status=400, text=problem)
        self._accept(path, temporary, received)
        counter.puts += 1
        return web.Response(headers={"ETag": f'"{digest.hexdigest()}"'})

    def _accept(self, path: str, temporary: Any, size: int) -> None:
        with self.lock:
            self._storage.accept(temporary, blob_key_of(path))
            if path.startswith("runs/"):
                _, entity, project, run_name, name = path.split("/", 4)
                if run := self._runs.find(entity, project, run_name):
                    run.files[name] = size

    async def _incoming(self, request: web.Request) -> AsyncIterator[bytes]:
        buckets = self.traffic.bandwidth.buckets(self._connection(request))
        async for chunk in request.content.iter_any():
            await pay(buckets, len(chunk))
            yield chunk

    def _connection(self, request: web.Request) -> dict[str, Any]:
        if request.transport not in self._connections:
            self._connections[request.transport] = {}
            self.traffic.counters.storage_connections += 1
        return self._connections[request.transport]

    async def _get(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        fault = self.traffic.faults.take("GET", request.path)
        if answer := await self._struck(fault, request):
            return answer
        if not self._storage.exists(blob_key_of(path)):
            return web.Response(status=404, text=f"no such file: {path}")
        counters = self.traffic.counters
        counters.begin("GET")
        try:
            return await self._send(request, path, fault)
        finally:
            counters.end("GET")

    async def _send(self, request: web.Request, path: str, fault: Fault | None) -> web.StreamResponse:
        key = blob_key_of(path)
        size = self._storage.size(key)
        span = _span(request.headers.get("Range"), size)
        if span is None:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
        start, stop = span
        response = web.StreamResponse(status=206 if "Range" in request.headers else 200)
        response.headers["Accept-Ranges"] = "bytes"
        if response.status == 206:
            response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        response.content_length = stop - start
        await response.prepare(request)
        if request.method == "GET":
            counter = self.traffic.counters.file(path)
            counter.gets += 1
            counter.ranges.append(span)
            await self._send_span(request, response, (key, *span), fault, counter)
        return response

    async def _send_span(
        self,
        request: web.Request,
        response: web.StreamResponse,
        span: tuple[str, int, int],
        fault: Fault | None,
        counter: FileCounter,
    ) -> None:
        key, start, stop = span
        buckets = self.traffic.bandwidth.buckets(self._connection(request))
        cut = stop if fault is None or fault.reset_after is None else min(stop, start + fault.reset_after)
        with self._storage.path(key).open("rb") as file:
            file.seek(start)
            for position in range(start, cut, CHUNK):
                chunk = file.read(min(CHUNK, cut - position))
                if fault and fault.corrupt and position == start:
                    chunk = flip(chunk)
                await pay(buckets, len(chunk))
                await response.write(chunk)
                counter.get_bytes += len(chunk)
        if fault and fault.reset_after is not None:
            await _flush(request)
            _abort(request)


class Traffic:
    """What tests watch and turn; it outlives restarts."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.faults = Faults()
        self.bandwidth = Bandwidth()
        self.operations: list[Operation] = []
        self.down = False

    def log(self, operation: Operation) -> None:
        self.operations.append(operation)


def _refusal(message: str | None) -> web.Response:
    return web.json_response({"data": None, "errors": [{"message": message}]})


def _authorized(request: web.Request) -> bool:
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme != "Basic":
        return False
    user, _, key = base64.b64decode(credentials).decode().partition(":")
    return user == "api" and len(key) >= 40


def _abort(request: web.Request) -> web.Response:
    """Cut the connection; the answer finds nobody to go to."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=503)


async def _flush(request: web.Request) -> None:
    """Wait until the bytes written so far are with the kernel, so that a cut comes after them."""
    transport = request.transport
    if transport is None:
        return
    transport.set_write_buffer_limits(high=0)
    while not transport.is_closing() and transport.get_write_buffer_size():
        await asyncio.sleep(0)


def _digest_problem(request: web.Request, stored: str) -> str | None:
    """A bucket refuses a body whose MD5 is not the one that its URL or header announced."""
    header = request.headers.get("Content-MD5")
    wanted = {request.query.get("md5"), base64.b64decode(header).hex() if header else None} - {None, ""}
    return None if wanted <= {stored} else f"BadDigest: {sorted(map(str, wanted))} announced, {stored} received"


def _span(header: str | None, size: int) -> tuple[int, int] | None:
    """The bytes that a Range header asks for; None when there are none."""
    if header is None:
        return 0, size
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    stop = min(size, int(last) + 1) if last else size
    return (int(first), stop) if int(first) < stop else None
