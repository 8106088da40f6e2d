"""Text that cannot be encoded, and names that are not UTF-8: a typed error, or it works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lamina
from lamina.errors import InvalidInputError
from lamina.files import h5

HALF = "a\udce9b"  # a lone surrogate, as `os.fsdecode` returns for a byte that is not UTF-8


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    h5.write_vectors(Path("m.weights.h5"), [np.ones(10, np.float32)])
    lamina.save("m.weights.h5", "repo")
    return Path("m.weights.h5")


def test_names_with_half_a_letter_are_refused(file: Path) -> None:
    repository = lamina.open("repo")
    for call in (
        lambda: lamina.save(file, "new", aliases=[HALF]),
        lambda: lamina.save(file, "repo", series=HALF),
        lambda: lamina.save(file, "repo", metadata={HALF: 1}),
        lambda: repository.set_alias("latest", HALF),
        lambda: repository.set_alias(HALF, "fine"),
        lambda: repository.remove_alias("default", HALF),
        lambda: repository.snapshot(HALF),
        lambda: repository.snapshot(series=HALF),
        lambda: repository.prune(series=HALF),
        lambda: lamina.read_tensors(f"repo@{HALF}"),
    ):
        with pytest.raises(InvalidInputError):
            call()
    assert len(repository.snapshots()) == 1
    assert not Path("new").exists()


def nested(depth: int, wrap: Any) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": value}], ids=["lists", "dicts"])
def test_metadata_is_taken_or_refused_by_its_depth(file: Path, wrap: Any) -> None:
    for depth in (900, 100_000):
        with pytest.raises(InvalidInputError, match="levels deep"):
            lamina.save(file, "repo", metadata={"deep": nested(depth, wrap)})
    saved = lamina.save(file, "repo", metadata={"deep": nested(100, wrap)})
    assert saved.metadata == {"deep": nested(100, wrap)}


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes are Linux's")
@pytest.mark.parametrize("name", [b"bad\xff", "ordn\u00e4r".encode()], ids=["no UTF-8", "UTF-8"])
@pytest.mark.parametrize("locale", ["C.UTF-8", "POSIX"])
def test_a_folder_of_any_name_in_any_locale(file: Path, name: bytes, locale: str) -> None:
    script = (
        "import os, sys, lamina, shutil\n"
        "name = os.fsdecode(sys.argv[1])\n"
        "lamina.save('m.weights.h5', name)\n"
        "found = lamina.open(name)\n"
        "found.stats(), found.verify(full=True), found.set_alias('latest', 'mine')\n"
        "lamina.read_tensors(name + '@mine')\n"
        "assert shutil.disk_usage(found.path).total\n"
        "assert [path.stat().st_size > 0 for path in lamina.export(found, name + '-out')] == [True]\n"
        "from lamina.report import gather, history\n"
        "from lamina.report.write import write\n"
        "write(gather(history(name)), 'report.html')\n"
    )
    environment = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", script, name], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert Path(os.fsdecode(name)).is_dir()


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes are Linux's")
def test_files_whose_names_are_no_utf8_are_refused(file: Path) -> None:
    Path("folder").mkdir()
    odd = Path("folder") / os.fsdecode(b"bad\xff.h5")
    odd.write_bytes(file.read_bytes())
    for source in (odd, "folder"):
        with pytest.raises(InvalidInputError, match="UTF-8"):
            lamina.save(source, "repo")
