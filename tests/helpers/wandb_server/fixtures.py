"""Fixtures: a server of its own for each test, and the client of this process pointed at it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .server import Server


@pytest.fixture
def wandb_server(tmp_path: Path) -> Iterator[Server]:
    """A running server; give `server.environment(folder)` to client processes."""
    with Server(tmp_path / "wandb-server") as server:
        yield server


@pytest.fixture
def wandb_online(wandb_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running server that the wandb of this process talks to."""
    import wandb
    from wandb.sdk.artifacts.artifact_instance_cache import artifact_instance_cache

    wandb.teardown()  # what an earlier test left knows another server
    artifact_instance_cache.clear()  # every server gives out the same ids
    for name, value in wandb_server.environment(tmp_path / "wandb-client").items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)  # artifact downloads go to the working directory by default
    yield wandb_server
    wandb_server.clear_faults()
    wandb_server.limit()
    wandb_server.down = False
    wandb.teardown()
