"""Every subcommand that reads files, with files that are not checkpoints: one error line, an exit code, no change."""

from __future__ import annotations

import errno
import io
import os
import random
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from test_api import weights
from test_cli import COMMAND, no_lines_on_a_slow_machine, refused, tree  # noqa: F401
from typer.testing import CliRunner

import lamina
from lamina.cli import app

_DONE, _REFUSED = 0, (2, 3, 4, 5, 6)
_NOISE = random.Random(0).randbytes(5000)


def _archive(folder: Path) -> Path:
    """Names that lead out of a folder, and files that are not weights."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("../../evil", "x")
        archive.writestr("model.weights.h5", _NOISE)
    return _file("evil.keras", data.getvalue())(folder)


def _file(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def _cut(folder: Path) -> Path:
    path = weights(folder / "cut.weights.h5", 0)
    os.truncate(path, path.stat().st_size // 2)
    return path


def _loop(folder: Path) -> Path:
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / "fifo")  # to open it blocks for ever
    return folder / "fifo"


def _links(folder: Path) -> Path:
    (folder / "links").mkdir()
    (folder / "links" / "passwd").symlink_to("/etc/passwd")
    return folder / "links"


def _artifact(folder: Path) -> Path:
    (folder / "artifact").mkdir()
    (folder / "artifact" / "lamina.json").write_bytes(_NOISE[:300])
    (folder / "artifact" / "lamina.placement").write_bytes(b"LAMINAPL" + b"\xff" * 100)
    return folder / "artifact"


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "noise": _file("noise.weights.h5", _NOISE),
    "nothing": _file("nothing.keras", b""),
    "cut": _cut,
    "archive": _archive,
    "index": _file("x.weights.json", b'{"weight_map": {"a": ["../../etc/passwd"]}}'),
    "deep index": _file("deep.weights.json", b"[" * 100_000),
    "loop": _loop,
    "fifo": _fifo,
    "links": _links,
    "artifact": _artifact,
    "long name": lambda _: Path("x" * 5000),
    "no reference": lambda folder: Path(f"{folder}/repo@::::"),
    "large number": lambda folder: Path(f"{folder}/repo@99999999999999999999"),
}
VERBS: dict[str, list[str]] = {
    "ls": [],
    "show": ["--tensors"],
    "diff": ["{}/repo@1"],
    "export": ["{}/out"],
    "restore": ["{}/out"],
    "verify": ["--full"],
    "stats": [],
    "prune": ["--yes"],
    "save": ["{}/repo"],
    "doctor": [],
    "report": ["--json"],
    "bench": ["--repeats", "1", "--folder", "{}"],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_checkpoint(name: str, tmp_path: Path) -> None:
    lamina.save(weights(tmp_path / "m.weights.h5", 0), tmp_path / "repo")
    source = HOSTILE[name](tmp_path)
    before = tree(tmp_path)
    for verb, more in VERBS.items():
        done = CliRunner().invoke(app, [verb, str(source), *(text.format(tmp_path) for text in more)])
        assert done.exit_code in (_DONE, *_REFUSED), (verb, done.output)
        assert "unexpected" not in done.stderr, verb
        if done.exit_code:
            assert done.stderr.startswith("lamina: "), verb
            assert done.stderr.count("\n") == 1, (verb, done.stderr)
    after = tree(tmp_path)
    assert {path: data for path, data in after.items() if path in before} == before
    assert all(path.startswith(("repo/", "out/")) for path in after.keys() - before.keys())
    assert lamina.open(tmp_path / "repo").verify(full=True)


def test_a_file_that_is_a_terabyte_long(tmp_path: Path) -> None:
    """The file is sparse; its claimed size must not be allocated."""
    path = weights(tmp_path / "huge.weights.h5", 0)
    os.truncate(path, 1 << 40)
    assert CliRunner().invoke(app, ["show", str(path)]).exit_code == 0
    assert CliRunner().invoke(app, ["report", str(path), "--json"]).exit_code == 0
    assert "free" in refused(6, "bench", path, "--folder", tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_copy_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    path = weights(tmp_path / "m.weights.h5", 0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / path.name).write_bytes(b"mine")
    before = tree(tmp_path)
    monkeypatch.setattr(shutil, "copyfile", full)
    assert "No space left" in refused(6, "export", path, tmp_path / "out", "--force")
    assert tree(tmp_path) == before
    monkeypatch.undo()
    assert CliRunner().invoke(app, ["export", str(path), str(tmp_path / "out"), "--force"]).exit_code == 0
    assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_completion() -> None:
    def completed(words: str, at: int) -> list[str]:
        environment = os.environ | {"_LAMINA_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        return subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=True).stdout.split()

    assert completed("lamina ve", 1) == ["verify"]
    assert {"--full", "--sample", "--seed", "--json"} <= set(completed("lamina verify --", 2))
