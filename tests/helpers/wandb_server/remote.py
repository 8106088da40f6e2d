"""The server in a process of its own, for measurements that must not share an interpreter with it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from .server import Server, client_environment

_CALLS = ("limit", "inject", "clear_faults", "reset_counters", "restart", "count")


class RemoteServer:
    """Starts `python -m wandb_server` and turns it by lines of JSON; closing its input ends it."""

    def __init__(self, root: Path, port: int = 0) -> None:
        command = [sys.executable, "-m", "wandb_server", str(root), str(port)]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
        )
        self.url: str = self._read()

    def environment(self, root: Path) -> dict[str, str]:
        return client_environment(self.url, root)

    def call(self, name: str, **given: Any) -> Any:
        """One of `limit`, `inject`, `clear_faults`, `reset_counters`, `restart`, `count` of `Server`, or
        `total(pattern=…)` (a FileCounter as a dict), `peaks()` (most transfers at the same time), `requests()` (how
        many GraphQL requests there were), `policy(dedup=…)`, `errors()`, `down(value=…)`."""
        assert self._child.stdin is not None
        print(json.dumps([name, given]), file=self._child.stdin, flush=True)
        return self._read()

    def _read(self) -> Any:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended with status {self._child.wait()}")
        return json.loads(line)

    def close(self) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.wait(timeout=30)
        self._child.stdout.close()

    def __enter__(self) -> RemoteServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(root: Path, port: int) -> None:
    """The other end: obey lines of JSON until the input ends."""
    with Server(root, port) as server:
        print(json.dumps(server.url), flush=True)
        for line in sys.stdin:
            name, given = json.loads(line)
            print(json.dumps(_obey(server, name, given)), flush=True)


def _obey(server: Server, name: str, given: dict[str, Any]) -> Any:
    if name in _CALLS:
        result = getattr(server, name)(**given)
        return result if isinstance(result, int) else None
    if name == "total":
        return asdict(server.counters.total(**given))
    if name == "peaks":
        return {"puts": server.counters.peak_puts, "gets": server.counters.peak_gets}
    if name == "requests":
        return len(server.operations)
    if name == "errors":
        return server.errors
    if name == "down":
        server.down = given["value"]
    elif name == "policy":
        for key, value in given.items():
            setattr(server.store.policy, key, value)
    else:
        raise ValueError(f"unknown call {name!r}")
    return None
