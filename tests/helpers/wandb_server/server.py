"""The server as tests hold it: a thread with its own event loop, listening on 127.0.0.1 only."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from threading import RLock, Thread
from types import TracebackType
from typing import Any

from aiohttp import web

from .app import App, Traffic
from .artifacts import Policy
from .state import State
from .storage import Storage
from .traffic import Counters, Fault, Operation
from .views import Store

HOST = "127.0.0.1"
API_KEY = "0123456789abcdef" * 2 + "loopback"  # clients want 40 characters


_RETRYING = (
    "FILE_TRANSFER",
    "GRAPHQL",
    "FILE_STREAM",
)  # wait 2 s by default; parts of seconds count as unset


def client_environment(url: str, root: Path) -> dict[str, str]:
    """What `Server.environment` gives, for a server that is only known by its URL."""
    folders = {
        "WANDB_DIR": root,
        "WANDB_CACHE_DIR": root / "cache",
        "WANDB_DATA_DIR": root / "data",
        "WANDB_CONFIG_DIR": root / "config",
        "WANDB_ARTIFACT_DIR": root / "artifacts",
    }
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return {
        **{name: str(folder) for name, folder in folders.items()},
        "WANDB_BASE_URL": url,
        "WANDB_API_KEY": API_KEY,
        "WANDB_PROJECT": "lamina-tests",
        "WANDB_MODE": "online",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        "WANDB_DISABLE_GIT": "true",
        "WANDB_DISABLE_CODE": "true",
        "WANDB_X_DISABLE_STATS": "true",
        "WANDB_X_DISABLE_META": "true",
        "NETRC": str(root / "netrc"),  # nobody's own keys
        "NO_PROXY": HOST,
        "no_proxy": HOST,
        **{f"WANDB_X_{name}_RETRY_WAIT_MIN_SECONDS": "1" for name in _RETRYING},
        **{f"WANDB_X_{name}_RETRY_WAIT_MAX_SECONDS": "2" for name in _RETRYING},
    }


class Server:
    """A loopback W&B server; its state is in `root` and survives `restart()` and a new `Server(root)`."""

    def __init__(self, root: Path, port: int = 0) -> None:
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        self._policy = Policy()
        self._lock = RLock()
        self._traffic = Traffic()
        self._port = port
        self._socket: socket.socket | None = None
        self._life: _Life | None = None
        self.store: Store

    # --- life -------------------------------------------------------------------------------------

    def start(self) -> Server:
        """Listen; the port is chosen once and stays the same until `stop()`."""
        self._socket = socket.create_server((HOST, self._port), backlog=512)
        self._port = self._socket.getsockname()[1]
        self._begin()
        return self

    def stop(self) -> None:
        self._end()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def restart(self) -> None:
        """Cut every connection, forget everything but the disk, come back on the same port.

        The listening socket stays open meanwhile, so a new connection waits instead of being refused,
        and nobody else gets the port.
        """
        self._end()
        self._begin()

    def _begin(self) -> None:
        assert self._socket is not None, "the server is not started"
        state = State.load(self._state_path)
        storage = Storage(self.root)
        self.store = Store(state, storage, self._policy, self._lock)
        app = App(state, storage, self._policy, self.url, self._lock, self._traffic)
        self._life = _Life(app, self._socket.dup())
        self._state = state

    def _end(self) -> None:
        if self._life is not None:
            self._life.end()
            self._life = None
            self._state.save(self._state_path)

    @property
    def _state_path(self) -> Path:
        return self.root / "state.pickle"

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- where it is ------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    def environment(self, root: Path) -> dict[str, str]:
        """The variables that make a wandb client talk to this server and keep its files below `root`."""
        return client_environment(self.url, root)

    # --- watching and turning ---------------------------------------------------------------------

    @property
    def counters(self) -> Counters:
        return self._traffic.counters

    @property
    def operations(self) -> list[Operation]:
        """The GraphQL requests so far, in order of arrival."""
        return list(self._traffic.operations)

    def count(self, operation: str) -> int:
        return sum(item.name == operation for item in self.operations)

    @property
    def errors(self) -> list[str]:
        """What GraphQL requests were refused with: an unknown field shows up here."""
        return [f"{item.name}: {item.error}" for item in self.operations if item.error]

    def reset_counters(self) -> None:
        """Begin counting anew; transfers under way go on counting in the old counters."""
        self._traffic.counters = Counters()
        self._traffic.operations.clear()

    def inject(
        self,
        *,
        operation: str | None = None,
        path: str | None = None,
        method: str | None = None,
        status: int | None = None,
        error: str | None = None,
        delay: float = 0.0,
        reset_after: int | None = None,
        corrupt: bool = False,
        times: int | None = 1,
        skip: int = 0,
    ) -> Fault:
        """Let requests that match fail or lag; see the README for what each kind does."""
        fault = Fault(operation, path, method, status, error, delay, reset_after, corrupt, times, skip)
        return self._traffic.faults.add(fault)

    def clear_faults(self) -> None:
        self._traffic.faults.clear()

    def limit(self, *, per_connection: float | None = None, total: float | None = None) -> None:
        """Limit file bodies, up and down, to so many bytes per second; None is no limit."""
        self._traffic.bandwidth.limit(per_connection, total)

    @property
    def down(self) -> bool:
        return self._traffic.down

    @down.setter
    def down(self, value: bool) -> None:
        """While down, every connection is cut as soon as a request arrives, and those open are cut now."""
        self._traffic.down = value
        if value and self._life is not None:
            self._life.cut_connections()


class _Life:
    """One running event loop with the app on it."""

    def __init__(self, app: App, listener: socket.socket) -> None:
        self._loop = asyncio.new_event_loop()
        self._runner = web.AppRunner(app.web_app(), access_log=None, handler_cancellation=True, shutdown_timeout=0)
        self._thread = Thread(target=self._loop.run_forever, name="wandb-server", daemon=True)
        self._thread.start()
        self._call(self._open(listener))

    async def _open(self, listener: socket.socket) -> None:
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()

    def _call(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    def cut_connections(self) -> None:
        self._call(self._cut())

    async def _cut(self) -> None:
        server = self._runner.server
        for handler in list(server.connections) if server else ():
            if handler.transport is not None:
                handler.transport.abort()

    def end(self) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=30)
        self._loop.close()

    async def _close(self) -> None:
        await self._cut()
        await self._runner.cleanup()
