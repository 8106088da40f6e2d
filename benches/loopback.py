"""The loopback W&B server, in its own process, for the groups that go online."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: The server is among the tests' helpers, like the readers of recorded runs.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))


@contextlib.contextmanager
def loopback_server(folder: Path) -> Iterator[Any]:
    """A running server; wandb in this process talks to it."""
    import wandb

    from wandb_server.remote import RemoteServer

    wandb.teardown()
    before = dict(os.environ)
    try:
        with RemoteServer(folder / "server") as server:
            os.environ.update(server.environment(folder / "client"))
            yield server
            wandb.teardown()
    finally:
        os.environ.clear()
        os.environ.update(before)
