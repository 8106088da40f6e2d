"""The loopback W&B server, in a process of its own, for the groups that go online."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: It stands with the tests, as do readers of what W&B recorded.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))


@contextlib.contextmanager
def loopback_server(folder: Path) -> Iterator[Any]:
    """A server that the wandb of this process talks to while it runs."""
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
