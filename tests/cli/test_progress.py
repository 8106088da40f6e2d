"""Progress of long calls: what the engine counts, what is displayed, and what Ctrl-C leaves."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest
from test_api import weights
from test_cli import terminal, tree

import lamina
import lamina.api
import lamina.writing
from lamina import _core
from lamina.cli import output
from lamina.repository.repository import Repository
from lamina.units import duration

pytestmark = pytest.mark.quick


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Repository, int]:
    path = weights(tmp_path / "m.weights.h5", 0)
    target = lamina.writing.as_repository(tmp_path / "repo")
    lamina.writing.save_path(target, path, {"series": "s"})
    return target, path.stat().st_size


@pytest.fixture
def meter() -> _core.Progress:
    """Watches this thread."""
    found = _core.Progress()
    _core.watch(found)
    yield found
    _core.watch(None)


def test_the_engine_counts_what_is_done(saved: tuple[Repository, int], meter: _core.Progress, tmp_path: Path) -> None:
    repository, size = saved
    assert meter.read()[:3] == ("", 0, 0)
    again = lamina.writing.save_path(repository, tmp_path / "m.weights.h5", {"series": "s"})
    assert meter.read()[:3] == ("saving", again.bytes_total, again.bytes_total)
    report = repository.verify(full=True)
    assert meter.read()[:3] == ("verifying", report.bytes, report.bytes)
    report = repository.verify(sample=0.5)
    assert meter.read()[:3] == ("reading a sample", report.bytes, report.bytes)
    lamina.export(again, tmp_path / "out")
    assert meter.read()[:3] == ("exporting", size, size)


def test_only_the_watched_thread_counts(saved: tuple[Repository, int], meter: _core.Progress) -> None:
    other = threading.Thread(target=saved[0].verify, args=(True,))
    other.start()
    other.join()
    assert meter.read()[:3] == ("", 0, 0)
    _core.watch(None)
    saved[0].verify(full=True)
    assert meter.read()[:3] == ("", 0, 0)
    assert _core.watcher() is None


@pytest.mark.parametrize(
    ("done", "total", "seconds", "text"),
    [
        (0, 0, 7.4, "7.4 s"),
        (0, 100, 3, "0 B of 100 B"),
        (5 * 10**8, 2 * 10**9, 2, "500 MB of 2.00 GB, 250 MB/s, 6 s left"),
        (10**9, 10**12, 10, "1.00 GB of 1.00 TB, 100 MB/s, 2 h 46 min left"),
        (3, 3, 200, "3 B of 3 B, 0 B/s, 0 s left"),
        (9, 3, 1, "9 B of 3 B, 9 B/s, 0 s left"),
    ],
)
def test_figures(done: int, total: int, seconds: float, text: str) -> None:
    assert output.figures(done, total, seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.00042, "0.4 ms"), (0.0421, "42 ms"), (0.9999, "1 s"), (1.26, "1.3 s"), (9.94, "9.9 s"),
     (9.96, "10 s"), (99.4, "99 s"), (99.6, "1 min 40 s"), (5999, "99 min 59 s"), (6000, "1 h 40 min")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_pipe_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(output, "LINE_SECONDS", 0.01)
    seen = ""
    with output.progress("pulling \x1b[31mx", 1000) as advance:
        advance(500)
        while seen.count("\n") < 2:
            seen += capsys.readouterr().err
    line = seen.splitlines()[0]
    assert re.fullmatch(r"lamina: pulling \\x1b\[31mx: 500 B of 1000 B, .* left", line.replace("1.00 kB", "1000 B"))
    monkeypatch.undo()
    with output.progress("short"):
        assert _core.watcher() is not None
    assert (capsys.readouterr().err, _core.watcher()) == ("", None)


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    big, repo = tmp_path / "big.bin", tmp_path / "repo"
    with big.open("wb") as file:
        os.truncate(file.fileno(), 2 << 30)  # sparse, and takes seconds to read
    with terminal("save", big, repo) as session:
        session.until("of 2.15 GB")
        session.type("\x03")
        assert session.code() == 130, session.seen[-500:]
    assert "lamina: interrupted; everything committed stays" in session.seen
    assert "Traceback" not in session.seen
    assert lamina.open(repo).snapshots() == []
    assert set(tree(repo)) <= {"config.json", ".gitignore"}
    os.truncate(big, 1 << 29)
    lamina.save(big, repo)
    whole = tree(repo)
    with terminal("export", repo, tmp_path / "out") as session:
        session.until("of 537 MB")
        session.type("\x03")
        assert session.code() == 130, session.seen[-500:]
    assert list((tmp_path / "out").iterdir()) == []
    assert tree(repo) == whole
