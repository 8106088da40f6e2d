"""Fixtures and settings of all tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Set before a backend is imported: only `make test-gpu` searches for a GPU, and TensorFlow prints no start-up messages.
if "LAMINA_GPU" not in os.environ:
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("WANDB_MODE", "offline")  # tests with a server override it

pytest_plugins = ["wandb_server.fixtures", "recorded_run", "bucket_server"]

#: With less free space a save makes no snapshot (`RESERVE_BYTES` in `lamina.keras.saving.job`), and tests would fail
#: far from the cause.
_ROOM = 3 << 30


def pytest_sessionstart(session: pytest.Session) -> None:
    where = Path(session.config.option.basetemp or tempfile.gettempdir()).absolute()
    while not where.exists():
        where = where.parent
    free = shutil.disk_usage(where).free
    if free < _ROOM:
        pytest.exit(f"{free >> 20} MiB are free in {where}, the tests need {_ROOM >> 20}: make room or set TMPDIR", 1)


# The independent reader skips a repository over this size: it is thorough, not fast.
_TRAVEL_LIMIT = 30 << 20


@pytest.fixture(autouse=True)
def _read_by_the_independent_reader(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each intact repository that a test leaves is also verified by the independent reader."""
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
