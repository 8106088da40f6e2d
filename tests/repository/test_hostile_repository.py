"""An untrusted repository: hostile small files with valid digests, and special files in their places.

Snapshots, packs and structures stand in ``test_damage.py`` and ``test_hostile.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_api import weights
from test_hostile import posix

import lamina
from lamina.errors import CorruptDataError, LaminaError
from lamina.repository.repository import Repository
from travel_writer import blake3, make_envelope, restored

NAME = "0123456789abcdef" * 2


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with two snapshots; the first has an alias."""
    root = tmp_path / "inner" / "repo"
    root.parent.mkdir()
    for seed in (0, 1):
        lamina.save(weights(tmp_path / "m.weights.h5", seed), root, series="s", aliases=["mine"] * (seed == 0))
    return root


def _alias(series: object, alias: object, snapshot: object, named: tuple[str, str] | None = None) -> tuple[str, bytes]:
    """Write an alias file under the name for its series and alias, or for those in ``named``."""
    digest = blake3("\0".join(named or (str(series), str(alias))).encode()).hex()[:32]
    return f"aliases/{digest}.json", make_envelope("alias", {"series": series, "alias": alias, "snapshot": snapshot})


def _file(name: str, kind: str, **body: Any) -> tuple[str, bytes]:
    return name, make_envelope(kind, body)


def _other_kind() -> tuple[str, bytes]:
    return f"aliases/{NAME}.json", make_envelope("config", {"id": NAME})


SMALL: dict[str, Callable[[], tuple[str, bytes]]] = {
    "alias without its fields": lambda: _file(f"aliases/{NAME}.json", "alias"),
    "alias of a number": lambda: _alias(3, "a", NAME),
    "alias of a list": lambda: _alias("s", ["a"], NAME),
    "alias to a number": lambda: _alias("s", "a", 3),
    "alias to a path": lambda: _alias("s", "a", "../../../etc/passwd"),
    "alias to nothing": lambda: _alias("s", "a", ""),
    "alias under another name": lambda: _alias("s", "a", NAME, named=("s", "b")),
    "alias that commands a terminal": lambda: _alias("s", "\x1b[2J/..", NAME),
    "alias of a megabyte": lambda: _alias("s", "a" * (1 << 20), NAME),
    "alias that is a config": _other_kind,
    "condemned list": lambda: _file("condemned.json", "condemned", packs=["a"]),
    "condemned number": lambda: _file("condemned.json", "condemned", packs=3),
    "condemned nothing": lambda: _file("condemned.json", "condemned"),
    "condemned path": lambda: _file("condemned.json", "condemned", packs={"../../outside": []}),
    "condemned by a path": lambda: _file("condemned.json", "condemned", packs={"0" * 64: ["../../../outside"]}),
    "condemned by a number": lambda: _file("condemned.json", "condemned", packs={"0" * 64: [3]}),
    "journal of numbers": lambda: _file("journal/a.json", "journal", snapshots=3, packs=[3, None, "../x"]),
    "journal of nothing": lambda: _file("journal/a.json", "journal"),
    "journal that is deep": lambda: ("journal/a.json", b"[" * 100_000),
    "config with a number": lambda: _file("config.json", "config", id=3),
    "config with a path": lambda: _file("config.json", "config", id="../../outside"),
    "config of nothing": lambda: _file("config.json", "config"),
    "uploads": lambda: (
        "uploads.jsonl",
        b'{"snapshot": 3}\n[]\nnull\n{"snapshot": "a", "seconds": 1e999}\n\xff\n' * 99,
    ),
}


def _use(root: Path, work: dict[str, Callable[[Repository], object]]) -> dict[str, str]:
    """The outcome of each operation on the newly opened repository: nothing, or an error of lamina."""
    found = {}
    for name, do in work.items():
        try:
            do(lamina.open(root))
            found[name] = ""
        except LaminaError as error:
            found[name] = type(error).__name__
    return found


def _work(folder: Path) -> dict[str, Callable[[Repository], object]]:
    return {
        "read": lambda r: lamina.export(r.snapshot("2"), folder / "out"),
        "list": lambda r: [(s.aliases, s.id) for s in r.snapshots()],
        "alias": lambda r: r.snapshot("s:mine"),
        "verify": lambda r: r.verify(full=True),
        "set": lambda r: r.set_alias("2", "other"),
        "prune": lambda r: r.prune(lamina.Keep(last=1)),
        "save": lambda r: lamina.save(folder.parent / "m.weights.h5", r, series="s"),
        "repair": lambda r: r.repair(),
    }


@pytest.mark.parametrize("case", SMALL)
def test_small_files_with_right_digests(case: str, repo: Path, tmp_path: Path) -> None:
    """Whatever they contain: lamina's error or none, no change outside, and the snapshot of an alias stays readable."""
    first = lamina.open(repo).snapshot("s:mine")
    before = {name: data for name, data in restored(tmp_path).items() if not name.startswith("inner/")}
    name, data = SMALL[case]()
    (repo / name).parent.mkdir(exist_ok=True)
    (repo / name).write_bytes(data)
    found = _use(repo, _work(repo.parent))
    assert found["read"] == ""
    assert found["save"] == "", "what is new can be kept"
    assert set(found.values()) <= {"", "CorruptDataError", "NotFoundError"}
    after = {name: data for name, data in restored(tmp_path).items() if not name.startswith("inner/")}
    assert after == before
    assert {path.name for path in repo.parent.iterdir()} == {"repo", "out"}
    assert lamina.read_tensors(lamina.open(repo).snapshot(first.id))


def test_names_that_are_no_text_are_not_ours(repo: Path) -> None:
    for place in ("snapshots", "packs", "aliases", "sessions", "journal"):
        (repo / place).mkdir(exist_ok=True)
        with open(os.fsencode(repo / place) + b"/\xff\xfe.json", "wb") as file:
            file.write(b"theirs")
    assert set(_use(repo, _work(repo.parent)).values()) == {""}
    assert len(lamina.open(repo).snapshots()) == 3
    for place in ("snapshots", "packs", "aliases", "sessions", "journal"):
        assert Path(os.fsdecode(os.fsencode(repo / place) + b"/\xff\xfe.json")).read_bytes() == b"theirs"


# --- Special files and links. Opening a pipe without a writer blocks for ever; a device never ends.

SPECIAL: dict[str, Callable[[Path, Path], None]] = {
    "pipe": lambda path, outside: os.mkfifo(path),
    "zeros": lambda path, outside: path.symlink_to("/dev/zero"),
    "loop": lambda path, outside: path.symlink_to(path.name),
    "folder": lambda path, outside: path.mkdir(),
    "link to a file": lambda path, outside: path.symlink_to(outside / "file"),
    "link to nothing": lambda path, outside: path.symlink_to(outside / "absent"),
    "link to a folder": lambda path, outside: path.symlink_to(outside),
}
PLACES = [
    *("aliases/mine", "aliases/0.json", "journal/a.json", "condemned.json", ".condemned.tmp", "prune.lock"),
    *(f"sessions/{NAME}", f"sessions/{NAME}/lock", f"sessions/.{NAME}", "quarantine", ".gitignore"),
    *("uploads.jsonl", "snapshots/0000000003.json", "snapshots/0000000003.claim", f"packs/{'0' * 64}.pack"),
]
USE = """
import json, resource, sys
from pathlib import Path
import lamina
from lamina import report
from lamina.repository import upload_times
from lamina.wandb.upload.staging import Staging
from lamina.wandb.upload.journal import records
from test_hostile_repository import _use, _work
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
for root in map(Path, sys.argv[1:]):
    print(root, flush=True)
    work = _work(root.parent)
    work |= {
        "records": lambda r: list(records(Staging.of_repository(r))),
        "note": lambda r: upload_times.note(r.path, "a", 1.0),
        "known": lambda r: upload_times.known(r.path),
        "report": lambda r: report.gather(report.history(r.snapshot("2"))),
    }
    print(json.dumps(_use(root, work)), flush=True)
"""


def _place(root: Path, place: str) -> Path:
    """The path for the special file; an existing file is removed."""
    path = next((root / "aliases").iterdir()) if place == "aliases/mine" else root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.unlink()
    return path


@posix
@pytest.mark.parametrize("kind", SPECIAL)
def test_special_files_in_its_places(kind: str, repo: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"theirs")
    roots = []
    for number, place in enumerate(PLACES):
        root = tmp_path / f"inner-{number}" / "repo"
        shutil.copytree(repo, root)
        SPECIAL[kind](_place(root, place), outside)
        roots.append(root)
    done = subprocess.run(
        [sys.executable, "-c", USE, *map(str, roots)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, (done.stdout[-300:], done.stderr[-2000:])
    for place, line in zip(PLACES, done.stdout.splitlines()[1::2], strict=True):
        found = json.loads(line)
        # The system cannot tell what a looping link is, so lamina cannot either.
        assert found["read"] == "" or (kind == "loop" and place.startswith(("packs/", "snapshots/"))), (place, found)
        assert set(found.values()) <= {"", "CorruptDataError", "NotFoundError", "StorageError"}, (place, found)
        shutil.rmtree(tmp_path / f"inner-{PLACES.index(place)}")
    assert restored(outside) == {"file": b"theirs"}


def test_the_last_number(repo: Path, tmp_path: Path) -> None:
    """Numbers have ten digits. If the last one is used, no snapshot can be added, and the error says so."""
    (repo / "snapshots" / "9999999999.claim").touch()
    with pytest.raises(CorruptDataError, match="number"):
        lamina.save(weights(tmp_path / "m.weights.h5", 5), repo, series="s")
    assert [snapshot.number for snapshot in lamina.open(repo).snapshots()] == [1, 2]
