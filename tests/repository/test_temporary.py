"""The next save removes what a killed save left beside a plain file, but no file of a live process or of others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from lamina import _core
from stopped_process import stop_within

#: Writes a file again and again until it is stopped.
_WRITES = """
import sys
import numpy as np
from lamina import _core
data = np.zeros(64 << 20, np.uint8)
while True:
    _core.write_file(sys.argv[1], data.nbytes, [(0, data)], np.zeros(0, np.uint8), 1)
"""

#: Creates the folder for a file that Keras writes, and waits.
_HOLDS = """
import sys
from pathlib import Path
from lamina import _core
held = _core.Temporary(Path(sys.argv[1]).parent)
(held.path / "m.h5").write_bytes(bytes(1000))
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def running(code: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def hidden(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".")]


def save(path: Path) -> None:
    data = np.arange(100, dtype=np.uint8)
    _core.write_file(path, data.nbytes, [(0, data)], np.zeros(0, np.uint8), 1)


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="stops a process by a signal")
def test_a_killed_writer_leaves_nothing_for_long(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    with running(_WRITES, path) as process:
        stop_within(process, lambda: hidden(tmp_path))
        left = hidden(tmp_path)
        save(path)
        assert hidden(tmp_path) == left  # its owner is alive, though stopped
        process.kill()
        process.wait()
    assert hidden(tmp_path) == left
    save(path)
    assert hidden(tmp_path) == []
    assert path.stat().st_size == 100


def test_a_killed_save_of_keras_leaves_nothing_for_long(tmp_path: Path) -> None:
    with running(_HOLDS, tmp_path / "m.h5") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        _core.Temporary(tmp_path).remove()
        (left,) = hidden(tmp_path)
        assert (tmp_path / left / "m.h5").exists()
        process.kill()
        process.wait()
    save(tmp_path / "m.h5")
    assert hidden(tmp_path) == []


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    number = "0123456789abcdef" * 2
    others = [f".{number}.tmp", f".lamina-{number}", f".lamina-{number.upper()}.tmp", ".lamina-notes.tmp", ".m.tmp"]
    for name in others:
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / f".lamina-{number[::-1]}.tmp").symlink_to(tmp_path / ".m.tmp")
    (tmp_path / f".lamina-{number}.tmp").write_bytes(b"left")
    save(tmp_path / "m.h5")
    assert sorted(hidden(tmp_path)) == sorted([*others, f".lamina-{number[::-1]}.tmp"])
    assert (tmp_path / ".m.tmp").read_bytes() == b"mine"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:os.fork")
def test_a_forked_child_takes_nothing_away(tmp_path: Path) -> None:
    held = _core.Temporary(tmp_path)
    child = os.fork()
    if child == 0:
        held.remove()
        del held
        os._exit(0 if hidden(tmp_path) else 1)
    assert os.waitpid(child, 0)[1] == 0
    _core.Temporary(tmp_path).remove()
    assert hidden(tmp_path) == [held.path.name]
    held.remove()
    assert hidden(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:os.fork")
def test_a_worker_of_the_dead_holds_nothing(tmp_path: Path) -> None:
    """A data loader worker outlives the killed process, and has copies of all its descriptors."""
    code = _HOLDS.replace("print(", "import os, lamina.repository.repository\nif os.fork() == 0: print(")
    with running(code, tmp_path / "m.h5") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert len(hidden(tmp_path)) == 1
        process.kill()
        process.wait()
    save(tmp_path / "m.h5")
    assert hidden(tmp_path) == []
