"""Downloads of artifacts with false sizes, and what they leave on disk; without a server."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lamina.wandb
from lamina.errors import ArtifactError, CorruptDataError, StorageError
from lamina.fetching.folder import new_folder
from lamina.fetching.packs import PackStore
from lamina.fetching.transfer import PART_BYTES, Range, make_sparse
from lamina.wandb.download.transfer import Transfer
from travel_writer import Chunk, make_pack, make_placement

pytestmark = pytest.mark.wandb


class Fetches(Transfer):
    """Records the requested parts, and fails at one of them."""

    def __init__(self, fails_at: int) -> None:
        super().__init__(SimpleNamespace(name="evil:v0"))
        self.fails_at, self.asked, self.lock = fails_at, list[Range](), threading.Lock()

    def _find_urls(self, names: Any) -> None:
        self._urls.update(dict.fromkeys(names, "nowhere"))

    def _fetch(self, part: Range) -> None:
        with self.lock:
            self.asked.append(part)
            if len(self.asked) == self.fails_at:
                raise ArtifactError("there are fewer bytes than the manifest says")


def test_a_manifest_that_tells_of_terabytes(tmp_path: Path) -> None:
    """It fails at the first bytes, and never lists its millions of parts."""
    transfer = Fetches(fails_at=40)
    ranges = [Range(f"{number}", 0, 1 << 43, tmp_path / "x") for number in range(100)]
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match="fewer bytes"):
            transfer.fetch(ranges)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert len(transfer.asked) < 40 + 1000


def test_each_part_is_fetched_once(tmp_path: Path) -> None:
    transfer = Fetches(fails_at=0)
    lengths = [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 40 * PART_BYTES + 5]
    ranges = [Range(f"{number}", 7, length, tmp_path / "x") for number, length in enumerate(lengths)]
    transfer.fetch(iter(ranges))
    asked = sorted((part.name, part.offset, part.length) for part in transfer.asked)
    assert asked == sorted((part.name, part.offset, part.length) for some in ranges for part in some.parts())
    for number, length in enumerate(lengths):
        mine = [(offset, size) for name, offset, size in asked if name == str(number)]
        assert sum(size for _, size in mine) == length
        assert [offset for offset, _ in mine] == [7 + sum(size for _, size in mine[:n]) for n in range(len(mine))]


class Asked(PackStore):
    """Fails if chunks are looked up endlessly."""

    asked = 0

    def _readable(self, chunk: str) -> Any:
        self.asked += 1
        assert self.asked < 100, "endless loop"
        return super()._readable(chunk)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_differences_that_lead_in_a_circle(length: int, tmp_path: Path) -> None:
    """A placement can claim that, and Python reads it before the engine checks it."""
    chunks = [Chunk(bytes([number]) * 9, codec=3) for number in range(length)]
    bases = b"".join(chunk.name for chunk in [*chunks[1:], chunks[0]])
    placement = make_placement([make_pack(chunks, required=1, base=bases)])
    store = Asked(tmp_path / "packs", Fetches(fails_at=0), placement, [], "evil:v0")
    with pytest.raises(CorruptDataError, match="arrived damaged"):  # of what this server never sends
        store.need({chunks[0].name.hex()})
    assert store.asked == length


@pytest.mark.parametrize("name", ["a" * 300, "/".join("a" * 200 for _ in range(40))])
def test_a_name_that_no_file_system_takes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = SimpleNamespace(size=1, ref=None, digest="", extra={})
    artifact: Any = SimpleNamespace(name="evil:v0", manifest=SimpleNamespace(entries={name: entry}))
    artifact.wait = lambda: artifact
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path))
    with pytest.raises(StorageError, match="cannot create"):
        lamina.wandb.open_artifact(artifact)
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_no_file_has(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot create"):
        make_sparse(tmp_path / "x", 1 << 63 - 1)


HOLDS = """
import sys
from lamina.fetching.folder import new_folder
held = new_folder()
(held.path / "pack").write_bytes(bytes(1000))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_killed_download_leaves_nothing_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "mine").write_bytes(b"mine")
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        new_folder().remove()
        (left,) = (path for path in (tmp_path / "cache").iterdir() if path.name != "mine")
        assert (left / "pack").exists(), "its owner lives"
        assert stat.S_IMODE(left.stat().st_mode) == 0o700
        process.send_signal(signal.SIGKILL)
        process.wait()
    new_folder().remove()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["mine"]
