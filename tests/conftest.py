"""What all tests share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports a backend: tests never look for a GPU, and TensorFlow keeps to itself what it found.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("WANDB_MODE", "offline")  # a test that wants a server says so

pytest_plugins = ["wandb_server.fixtures", "recorded_run", "bucket_server"]

#: Where less is free, a save keeps no snapshot (`RESERVE_BYTES` in `lamina.keras.saving.job`), and tests fail far from
#: the cause.
_ROOM = 3 << 30


def pytest_sessionstart(session: pytest.Session) -> None:
    where = Path(session.config.option.basetemp or tempfile.gettempdir()).absolute()
    while not where.exists():
        where = where.parent
    free = shutil.disk_usage(where).free
    if free < _ROOM:
        pytest.exit(f"{free >> 20} MiB are free in {where}, the tests need {_ROOM >> 20}: make room or set TMPDIR", 1)


# A repository over this size is left to the engine: the independent reader is thorough, not fast.
_TRAVEL_LIMIT = 30 << 20


@pytest.fixture(autouse=True)
def _read_by_the_independent_reader(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever repository a test leaves whole, the reader that travels in artifacts verifies as well."""
    root: Path | None = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    for config in root.glob("**/config.json") if root else ():
        if (config.parent / "snapshots").is_dir() and (config.parent / "packs").is_dir():
            _check(config.parent)


def _check(repository: Path) -> None:
    import lamina
    from travel_writer import restore

    try:
        opened = lamina.open(repository)
        opened.verify(full=True)
        snapshots = opened.snapshots()
    except lamina.errors.LaminaError:
        return  # damaged on purpose
    if sum(pack.stat().st_size for pack in (repository / "packs").iterdir()) > _TRAVEL_LIMIT:
        return
    source = restore.open_source(repository)
    assert len(source.snapshots()) == len(snapshots)
    for snapshot in snapshots:
        source.verify(snapshot.id)
