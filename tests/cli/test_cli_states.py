"""Every subcommand that reads a repository, with every state of one: exit code, one error line, and nothing lost."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_api import weights
from test_cli import flip, no_lines_on_a_slow_machine, tree  # noqa: F401
from typer.testing import CliRunner

import lamina
from lamina.cli import app
from travel_writer import Chunk, make_envelope, make_pack

#: The arguments of each subcommand, in this order.
CALLS = {
    "ls": ["ls", "{repo}"],
    "show": ["show", "{repo}@mine", "--tensors"],
    "diff": ["diff", "{repo}@1", "{repo}@2"],
    "export": ["export", "{repo}@1", "{out}/first"],
    "restore": ["restore", "{repo}@2", "{out}/second"],
    "verify": ["verify", "{repo}"],
    "verify --full": ["verify", "{repo}", "--full"],
    "verify --sample": ["verify", "{repo}", "--sample", "100%"],
    "verify SNAPSHOT": ["verify", "{repo}@1"],
    "stats": ["stats", "{repo}"],
    "report": ["report", "{repo}", "--json"],
    "doctor": ["doctor", "{repo}"],
    "prune": ["prune", "{repo}", "--keep-last", "1", "--yes"],
    "save": ["save", "{other}", "{repo}"],
}
CONTENTS = ["diff", "export", "verify --full", "verify --sample", "verify SNAPSHOT", "report"]
PACKS = [*CONTENTS, "verify", "prune"]
STRUCTURE = [*PACKS, "show"]
EVERYTHING = [verb for verb in CALLS if verb != "doctor"]


def _pack(repo: Path) -> Path:
    """The pack of the first snapshot."""
    opened = lamina.open(repo)
    ((name, _),) = opened._core.packs_of(opened.snapshot("1")._core)
    return repo / "packs" / f"{name}.pack"


def _cut(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size // 2)


def _snapshot(repo: Path) -> Path:
    return repo / "snapshots" / "0000000001.json"


def _newer(path: Path, **changes: Any) -> None:
    """Change the file as a later release may write it."""
    kind, body = json.loads(path.read_bytes())["lamina"], json.loads(path.read_bytes())["body"]
    version = changes.pop("version", 1)
    path.chmod(0o644)
    path.write_bytes(make_envelope(kind, body | changes, version=version))


def _newer_pack(repo: Path, **changes: Any) -> None:
    _pack(repo).write_bytes(make_pack([Chunk(b"a later release")], **changes))


def _alias(repo: Path) -> Path:
    return next((repo / "aliases").iterdir())


def _newer_journal(repo: Path) -> None:
    (repo / "journal").mkdir()
    (repo / "journal" / "up.json").write_bytes(make_envelope("journal", {"snapshots": [], "packs": []}, version=2))


def _newer_codes(*verbs: str) -> dict[str, int]:
    """The refusals of subcommands that need what a later release wrote; a verify lists it among its problems."""
    return dict.fromkeys(verbs, 5) | dict.fromkeys(["verify", "verify --full", "verify --sample"], 4)


#: State → how to create it, and which subcommands refuse it with which exit code; all others work.
STATES: dict[str, tuple[Callable[[Path], object], dict[str, int]]] = {
    "whole": (lambda repo: None, {}),
    "pack flipped": (lambda repo: flip(_pack(repo)), dict.fromkeys(CONTENTS, 4)),
    "pack cut": (lambda repo: _cut(_pack(repo)), dict.fromkeys(PACKS, 4)),
    "pack gone": (lambda repo: _pack(repo).unlink(), dict.fromkeys(PACKS, 4)),
    "snapshot flipped": (lambda repo: flip(_snapshot(repo)), dict.fromkeys([*STRUCTURE, "ls", "stats"], 4)),
    "snapshot cut": (lambda repo: _cut(_snapshot(repo)), dict.fromkeys([*STRUCTURE, "ls", "stats"], 4)),
    "snapshot gone": (
        lambda repo: _snapshot(repo).unlink(),
        dict.fromkeys(["verify", "verify --full", "verify --sample", "prune"], 4)
        | dict.fromkeys(["show", "diff", "export", "verify SNAPSHOT"], 3),
    ),
    "alias flipped": (
        lambda repo: flip(next((repo / "aliases").iterdir()), 20),
        dict.fromkeys(["ls", "show", "verify", "verify --full", "verify --sample", "report", "prune"], 4),
    ),
    "config flipped": (lambda repo: flip(repo / "config.json", 20), dict.fromkeys(EVERYTHING, 4)),
    # Files of a later release are not damage: they are refused by name and not changed.
    "config newer": (lambda repo: _newer(repo / "config.json", version=2), dict.fromkeys(EVERYTHING, 5)),
    "config needs more": (lambda repo: _newer(repo / "config.json", required=["x"]), dict.fromkeys(EVERYTHING, 5)),
    "snapshot newer": (lambda repo: _newer(_snapshot(repo), version=2), _newer_codes("ls", "stats", *STRUCTURE)),
    "snapshot needs more": (
        lambda repo: _newer(_snapshot(repo), required=["x"]),
        _newer_codes("ls", "stats", *STRUCTURE),
    ),
    "alias newer": (lambda repo: _newer(_alias(repo), version=2), _newer_codes("ls", "show", "report", "prune")),
    "pack newer": (lambda repo: _newer_pack(repo, version=2), _newer_codes(*PACKS)),
    "pack needs more": (lambda repo: _newer_pack(repo, required=1 << 9), _newer_codes(*PACKS)),
    "journal newer": (_newer_journal, _newer_codes("prune")),
    "config gone": (lambda repo: (repo / "config.json").unlink(), dict.fromkeys(EVERYTHING, 3) | {"save": 2}),
}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Two snapshots in two packs; the first has an alias, so that prune keeps it."""
    root = tmp_path / "repo"
    for seed in (0, 1):
        lamina.save(weights(tmp_path / "m.weights.h5", seed), root, aliases=["mine"] * (seed == 0))
    weights(tmp_path / "other.weights.h5", 2)
    return root


def _words(verb: str, repo: Path) -> list[str]:
    place = repo.parent
    return [word.format(repo=repo, out=place / "out", other=place / "other.weights.h5") for word in CALLS[verb]]


def _is_one_sentence(stderr: str, code: int) -> bool:
    if code == 0:
        return stderr == ""
    return stderr.startswith("lamina: ") and stderr.count("\n") == 1 and "unexpected" not in stderr


@pytest.mark.parametrize("state", STATES)
def test_every_verb_in_every_state(state: str, repo: Path) -> None:
    harm, refusals = STATES[state]
    harm(repo)
    before = tree(repo)
    for verb in CALLS:
        done = CliRunner().invoke(app, _words(verb, repo))
        expected = refusals.get(verb, 0)
        assert done.exit_code == expected, (verb, done.output)
        assert _is_one_sentence(done.stderr, expected), (verb, done.stderr)
        after = tree(repo)
        added = {path.partition("/")[0] for path in after.keys() - before.keys()}
        may_add = {"prune": {"prune.lock"}, "save": {"packs", "snapshots"}}.get(verb, set())
        assert added <= may_add, verb
        gone = {path: data for path, data in before.items() if after.get(path) != data}
        assert gone == {}, verb
        before = after
    out = tree(repo.parent / "out") if (repo.parent / "out").exists() else {}
    assert set(out) == {f"{folder}/m.weights.h5" for verb, folder in _EXPORTS.items() if verb not in refusals}
    if "save" not in refusals:  # damage elsewhere must not prevent a save
        lamina.export(f"{repo}@3", repo.parent / "new")
        assert (repo.parent / "new/other.weights.h5").read_bytes() == (repo.parent / "other.weights.h5").read_bytes()


_EXPORTS = {"export": "first", "restore": "second"}

# --- Without permission. Root may read and write everything, unless it drops that capability.

RUNNER = """
import json, sys
from typer.testing import CliRunner
from lamina.cli import app, output
output.LINE_SECONDS = 3600.0
done = {verb: CliRunner().invoke(app, words) for verb, words in json.load(sys.stdin).items()}
print(json.dumps({verb: [result.exit_code, result.stderr] for verb, result in done.items()}))
"""
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2


def _like_anybody() -> None:
    if os.geteuid() == 0:
        for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
            if ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
                os._exit(99)


def _run_like_anybody(calls: dict[str, list[str]]) -> dict[str, tuple[int, str]]:
    if not sys.platform.startswith("linux"):
        pytest.skip("capabilities are Linux's")
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        preexec_fn=_like_anybody,
        check=False,
    )
    if done.returncode == 99:
        pytest.skip("root cannot give up its capabilities here")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return {verb: (code, stderr) for verb, (code, stderr) in found.items()}


FORBIDDEN: dict[str, tuple[Callable[[Path], Path], int, dict[str, int]]] = {
    "a pack that cannot be read": (_pack, 0, dict.fromkeys([*STRUCTURE, "restore", "save"], 6)),
    "a snapshot that cannot be read": (_snapshot, 0, dict.fromkeys([*STRUCTURE, "restore", "ls", "stats"], 6)),
    "a repository that cannot be read": (lambda repo: repo, 0, dict.fromkeys(EVERYTHING, 6)),
    # Prune has nothing to delete there.
    "a repository that cannot be written": (lambda repo: repo, 0o555, {"save": 6}),
}


@pytest.mark.parametrize("state", FORBIDDEN)
def test_without_permission(state: str, repo: Path) -> None:
    place, mode, refusals = FORBIDDEN[state]
    before, path = tree(repo), place(repo)
    others = [repo / "snapshots", repo / "packs"] if mode else []
    for some in (path, *others):
        some.chmod(mode)
    try:
        found = _run_like_anybody({verb: _words(verb, repo) for verb in CALLS})
    finally:
        for some in (path, *others):
            some.chmod(0o755)
    after = tree(repo)
    assert {path: after.get(path) for path in before} == before
    assert {verb: code for verb, (code, _) in found.items() if code} == refusals
    assert all(_is_one_sentence(stderr, code) for code, stderr in found.values()), found
