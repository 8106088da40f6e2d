"""The `lamina` command with good, damaged and hostile input: its output, exit codes, and what it must not change."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_api import weights
from typer.testing import CliRunner

import lamina
import lamina.api
import lamina.writing
from lamina import benchmark, errors
from lamina.cli import app, doctor, machine, output
from lamina.cli.command import EXIT_CODES
from lamina.cli.docs_page import page
from lamina.compare import distance
from lamina.repository.repository import Repository
from lamina.sources import resolve
from lamina.writing import save_path
from places import ROOT
from travel_writer import make_envelope
from wandb_server import Server

pytestmark = pytest.mark.quick

COMMAND = [sys.executable, "-W", "error", "-m", "lamina"]
VERBS = (
    *("ls", "show", "diff", "save", "export", "restore", "push", "pull", "promote"),
    *("verify", "prune", "stats", "bench", "report", "doctor"),
)


@pytest.fixture(autouse=True)
def no_lines_on_a_slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine, progress lines would be mixed into the compared output."""
    monkeypatch.setattr(output, "LINE_SECONDS", 3600.0)


def lamina_command(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command, in a pipe."""
    env = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "LAMINA_DEBUG")}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env | {"COLUMNS": "100"} | environment,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


def ok(*arguments: object) -> str:
    """stdout of the command in this process."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    return done.stdout


def parsed(*arguments: object) -> Any:
    return json.loads(ok(*arguments, "--json"), parse_constant=pytest.fail)


def refused(code: int, *arguments: object) -> str:
    """The single error line of the command; nothing goes to stdout."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert (done.exit_code, done.stdout) == (code, ""), done.output
    assert done.stderr.startswith("lamina: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("lamina: ").rstrip("\n")


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Four epochs and an alias; the second value is the best."""
    root = tmp_path / "repo"
    target = lamina.writing.as_repository(root)
    for epoch, value in enumerate([0.5, 0.25, float("nan"), 0.75]):
        path = weights(tmp_path / "m.weights.h5", epoch)
        _save(target, path, epoch, value)
    target.set_alias("1", "mine")
    return root


def _save(target: Repository, path: Path, epoch: int, value: float, series: str = "s") -> None:
    fields = {"series": series, "epoch": epoch, "next_epoch": epoch + 1, "monitor": "val_loss", "mode": "min"}
    save_path(target, path, fields | {"value": value, "logs": {"val_loss": value}, "best": epoch < 2})


def flip(path: Path, at: int = 100) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


# --- The command itself.


def test_the_page_is_up_to_date() -> None:
    written = ROOT / "docs" / "cli.md"
    assert written.read_text() == page(), "python -m lamina.cli.docs_page > docs/cli.md"


def test_every_verb_has_help_with_an_example_and_keys() -> None:
    for verb in VERBS:
        shown = " ".join(ok(verb, "--help").split())
        assert f"Example: lamina {verb} " in shown
        assert "--json: " in shown
    top = ok("--help")
    assert [verb for verb in VERBS if f"│ {verb} " not in top] == []
    for meaning in EXIT_CODES.values():
        assert meaning.split()[0] in top


def test_exit_codes_are_those_of_the_errors() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert {kind.exit_code for kind in kinds} | {0, 130} == set(EXIT_CODES)


def test_help_and_version_are_real_commands() -> None:
    for arguments in (["--help"], ["ls", "-h"], ["--version"]):
        done = lamina_command(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
    assert lamina_command().returncode in (0, 2)
    assert lamina_command("no-such-verb").returncode == 2
    assert lamina_command("ls").returncode == 2
    assert lamina_command("prune", "x", "--keep-last", "0").returncode == 2
    assert lamina_command("diff", "a", "b", "--sort", "mood").returncode == 2


def test_it_starts_light(repo: Path) -> None:
    code = (
        "import json, sys; from lamina.cli import main\n"
        "assert not {'numpy', 'lamina._core', 'rich.table'} & set(sys.modules)\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print('\\n' + json.dumps(list(sys.modules)))"
    )
    heavy = {"keras", "tensorflow", "torch", "jax", "h5py", "wandb"}
    first = [["ls", repo], ["stats", repo], ["verify", repo], ["prune", repo, "--keep-last", "9", "--dry-run"]]
    for verb in [*first, ["show", repo], ["diff", f"{repo}@1", f"{repo}@2"]]:
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, verb)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        loaded = set(json.loads(done.stdout.splitlines()[-1]))
        assert not loaded & heavy, verb
        assert "lamina.cli.bench" not in loaded, verb
        assert verb not in first or not loaded & {"numpy", "rich.console"}, verb
    light = "import sys, lamina; assert not {'typer', 'rich', 'numpy', 'importlib.metadata'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", light], check=True)


def test_debug_shows_the_traceback_and_keeps_the_code(tmp_path: Path) -> None:
    quiet = lamina_command("ls", tmp_path / "none")
    loud = lamina_command("ls", tmp_path / "none", LAMINA_DEBUG="1")
    assert (quiet.returncode, loud.returncode) == (3, 3)
    assert "Traceback" not in quiet.stderr
    assert "NotFoundError" in loud.stderr
    assert loud.stderr.endswith(quiet.stderr)


def test_what_nobody_expected_is_a_sentence_too(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("odd")

    monkeypatch.setattr(Repository, "snapshots", broken)
    assert refused(1, "ls", repo) == "unexpected KeyError: 'odd' (LAMINA_DEBUG=1 shows where)"


def test_a_missing_package_is_named() -> None:
    code = "import sys; sys.modules['wandb'] = None; from lamina.cli import main; main()"
    command = [sys.executable, "-c", code, "show", "wandb:a/b/c:latest"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "lamina: this command needs the package wandb: pip install wandb\n"


def test_interrupted(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lamina.api, "save", interrupted)
    assert refused(130, "save", tmp_path / "m.weights.h5", repo) == "interrupted; everything committed stays"


def test_a_full_disk_behind_a_redirection(repo: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "ls", repo], stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False
        )
    assert done.returncode == 6
    assert done.stderr.startswith("lamina: No space left")
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away(repo: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*COMMAND, "ls", repo], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


# --- ls and show.


def test_ls_in_a_pipe_is_plain_and_aligned(repo: Path) -> None:
    done = lamina_command("ls", repo)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert "\t" not in done.stdout
    assert "\x1b" not in done.stdout
    assert all(line == line.rstrip() for line in lines)
    at = lines[0].index("id")
    assert {line[at - 2 : at] for line in lines} == {"  "}
    assert re.search(r"val_loss 0.25 \* +\d+ kB", lines[2])
    assert lines[1].endswith("epoch_0, mine")
    assert "best" in lines[2]


def test_ls_as_json(repo: Path, tmp_path: Path) -> None:
    found = parsed("ls", repo)
    assert found["source"] == str(repo)
    assert [s["number"] for s in found["snapshots"]] == [1, 2, 3, 4]
    assert [s["value"] for s in found["snapshots"]] == [0.5, 0.25, "nan", 0.75]
    newest = lamina.open(repo).snapshot()
    shown = found["snapshots"][-1]
    assert (shown["id"], shown["bytes_new"]) == (newest.id, newest.bytes_new)
    assert set(shown["aliases"]) == {"latest", "epoch_3"}
    (one,) = parsed("ls", f"{repo}@best")["snapshots"]
    assert one["epoch"] == 1
    (file,) = parsed("ls", tmp_path / "m.weights.h5")["snapshots"]
    assert (file["id"], file["number"], file["kind"]) == (None, None, "weights")
    assert set(file) == set(shown)


def test_ls_of_one_series(repo: Path, tmp_path: Path) -> None:
    _save(lamina.open(repo), tmp_path / "m.weights.h5", 0, 1.0, "other")
    assert [s["series"] for s in parsed("ls", repo, "--series", "other")["snapshots"]] == ["other"]
    assert '"other"' in refused(3, "ls", repo, "--series", "none")
    assert "several series" in refused(2, "show", repo)
    assert parsed("show", f"{repo}@other:latest")["snapshot"]["series"] == "other"


def test_show(repo: Path) -> None:
    shown = parsed("show", f"{repo}@best")
    assert shown["snapshot"]["epoch"] == 1
    size = shown["files"][0].pop("bytes")
    assert shown["files"] == [{"path": "m.weights.h5"}]
    assert size == shown["snapshot"]["bytes_total"]
    kernel = next(tensor for tensor in shown["tensors"] if tensor["name"] == "layers/dense_0/vars/0")
    assert (kernel["dtype"], kernel["shape"], kernel["bytes"]) == ("<f4", [120, 120], 57600)
    text = ok("show", f"{repo}@best", "--tensors")
    assert re.search(r"^layers/dense_0/vars/0 +<f4 +120x120 +57.6 kB +weights$", text, re.MULTILINE)
    assert re.search(r"^monitor +val_loss \(min\) 0.25$", text, re.MULTILINE)
    assert "layers" not in ok("show", f"{repo}@best")


def test_every_kind_of_source(repo: Path, tmp_path: Path) -> None:
    number = lamina.open(repo).snapshot().id
    sources = [repo, f"{repo}@latest", f"{repo}@s:epoch_3", f"{repo}@4", f"{repo}@{number[:10]}"]
    shown = [parsed("show", source)["snapshot"]["id"] for source in sources]
    assert set(shown) == {number}
    assert parsed("show", tmp_path / "m.weights.h5")["tensors"] != []
    odd = tmp_path / "odd@name.weights.h5"  # an existing path wins over DIR@ALIAS
    shutil.copy(tmp_path / "m.weights.h5", odd)
    assert parsed("show", odd)["files"][0]["path"] == odd.name


@pytest.mark.parametrize(
    "verb", [["ls"], ["show"], ["verify"], ["stats"], ["export", "{}", "out"], ["diff", "{}", "x"]]
)
def test_what_does_not_exist(verb: list[str], tmp_path: Path, repo: Path) -> None:
    def line(source: str) -> list[str]:
        return [part.format(source) for part in verb] + ([source] if len(verb) == 1 else [])

    refused(3, *line(str(tmp_path / "none")))
    if verb != ["stats"]:
        assert "no snapshot" in refused(3, *line(f"{repo}@none"))
    refused(6, *line(str(tmp_path / ("long" * 100))) if verb != ["stats"] else line(f"{tmp_path}/m.weights.h5/x"))


# --- diff.


def test_diff_measures_how_far_tensors_moved(tmp_path: Path) -> None:
    a, b = tmp_path / "a.weights.h5", tmp_path / "b.weights.h5"
    weights(a, gone=np.zeros(3), scaled=np.full(40_000, 2.0, "f4"), shape=np.zeros((2, 3)), text=np.void(b"ab"))
    weights(b, new=np.zeros(3), scaled=np.full(40_000, 3.0, "f4"), shape=np.zeros((3, 2)), text=np.void(b"ax"))
    for before, after in ((a, b), (_repository(a), _repository(b)), (a, _repository(b))):
        found = parsed("diff", before, after)
        assert found["counts"] == {"added": 1, "removed": 1, "changed": 3, "same": 8}
        by_name = {tensor["name"]: tensor for tensor in found["tensors"]}
        assert set(by_name) == {"gone", "new", "scaled", "shape", "text"}
        scaled = by_name["scaled"]
        assert (scaled["l2"], scaled["max"], scaled["changed_bytes"]) == (0.5, 1.0, 160_000)
        assert (by_name["gone"]["status"], by_name["gone"]["after"]) == ("removed", None)
        assert (by_name["shape"]["l2"], by_name["shape"]["before"]["shape"]) == (None, [2, 3])
        assert (by_name["text"]["l2"], by_name["text"]["changed_bytes"]) == (None, 2)
        assert found["tensors"][-1]["name"] == "scaled"
    text = ok("diff", a, b, "--sort", "name")
    names = [line.split()[0] for line in text.splitlines()[1:-1]]
    assert names == sorted(names)
    assert text.splitlines()[-1] == "13 tensors: 3 changed, 1 added, 1 removed, 8 same"
    assert len(parsed("diff", a, b, "--all")["tensors"]) == 13


def _repository(path: Path) -> Path:
    root = path.with_suffix(".repo")
    lamina.save(path, root)
    return root


def test_diff_of_what_is_equal(repo: Path, tmp_path: Path) -> None:
    assert ok("diff", repo, tmp_path / "m.weights.h5") == "no difference in 8 tensors\n"
    assert ok("diff", repo, repo) == "no difference in 8 tensors\n"
    assert parsed("diff", f"{repo}@1", f"{repo}@2")["counts"]["changed"] == 8


def test_diff_of_small_tensors_that_changed_places(tmp_path: Path) -> None:
    """They share a chunk, which is the same in both snapshots."""
    # Names that end no group (docs/format.md §5.2).
    a = weights(tmp_path / "a.weights.h5", layers=0, v1=np.float32([1, 2]), v2=np.float32([3, 4]))
    b = weights(tmp_path / "b.weights.h5", layers=0, v2=np.float32([1, 2]), v1=np.float32([3, 4]))
    chunks = [resolve(_repository(path)).content for path in (a, b)]
    assert len({str(content.chunks(tensor)) for content in chunks for tensor in content.tensors.values()}) == 1
    found = parsed("diff", _repository(a), _repository(b))
    assert found["counts"]["changed"] == 2


def test_diff_of_files_without_tensors(tmp_path: Path) -> None:
    for name, data in (("a", b"1"), ("b", b"2")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "same.txt").write_bytes(b"same" * 1000)
        (folder / "other.txt").write_bytes(data * 1000)
        (folder / f"only-{name}").write_bytes(b"")
    for a, b in ((tmp_path / "a", tmp_path / "b"), (_repository(tmp_path / "a"), _repository(tmp_path / "b"))):
        assert {file["path"]: file["status"] for file in parsed("diff", a, b)["files"]} == {
            "other.txt": "changed",
            "only-a": "removed",
            "only-b": "added",
        }


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0.0, -0.0], [0.0, 0.0], (1, 0.0, 0.0)),
        ([1.0, np.nan], [1.0, np.nan], (0, 0.0, 0.0)),
        ([1.0, 2.0], [1.0, np.nan], (1, np.nan, np.nan)),
        ([0.0], [5.0], (1, np.inf, 5.0)),
        ([np.inf, 1.0], [np.inf, 3.0], (1, 0.0, 2.0)),
        ([3 + 4j], [0j], (1, 1.0, 5.0)),
        ([True, False], [True, True], (1, 1.0, 1.0)),
        (np.uint8([0, 255]), np.uint8([255, 255]), (1, 1.0, 255.0)),
        ([], [], (0, 0.0, 0.0)),
    ],
)
def test_distances(a: Any, b: Any, expected: tuple[int, float, float]) -> None:
    np.testing.assert_equal(distance(np.array(a), np.array(b)), expected)


def test_distances_of_bfloat16_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    import ml_dtypes

    monkeypatch.setattr("lamina.compare.BLOCK", 7)
    a = np.ones(100, ml_dtypes.bfloat16)
    b = a.copy()
    b[13] = 3
    assert distance(a, b) == (1, 0.2, 2.0)


# --- save, export and restore.


def test_save(tmp_path: Path) -> None:
    path, repo = weights(tmp_path / "m.weights.h5"), tmp_path / "new" / "repo"
    repo.parent.mkdir()
    arguments = ["--alias", "a", "--alias", "b", "--series", "mine", "--metadata", "lr=0.1", "--metadata", "note=é=1"]
    found = parsed("save", path, repo, *arguments, "--codec", "zstd")
    assert found["repository"] == str(repo)
    snapshot = lamina.open(repo).snapshot("mine:a")
    assert found["snapshot"]["id"] == snapshot.id
    assert snapshot.metadata == {"lr": 0.1, "note": "é=1"}
    assert set(snapshot.aliases) == {"latest", "a", "b"}
    line = ok("save", path, repo)
    assert re.fullmatch(r"saved \S+ as \S+@2 \([0-9a-f]{12}\): 245 kB, 0 B new, .* stored\n", line)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["none.h5", "repo"], 3, "does not exist"),
        (["m.weights.h5", "repo", "--metadata", "x"], 2, "KEY=VALUE"),
        (["m.weights.h5", "repo", "--metadata", "=x"], 2, "KEY=VALUE"),
        (["m.weights.h5", "repo", "--codec", "best"], 2, "codec"),
        (["m.weights.h5", "repo", "--alias", "a/b"], 2, "alias"),
        (["m.weights.h5", "m.weights.h5"], 6, "m.weights.h5"),
        (["m.weights.h5", "other"], 2, "not empty"),
        (["empty", "new"], 2, "has no files"),
    ],
)
def test_save_refuses(
    arguments: list[str], code: int, says: str, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "note.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    before = tree(tmp_path)
    assert says in refused(code, "save", *arguments)
    after = tree(tmp_path)
    assert {name: after.get(name) for name in before} == before


def test_export_gives_the_file_back(repo: Path, tmp_path: Path) -> None:
    found = parsed("export", repo, tmp_path / "out")
    assert (tmp_path / "out/m.weights.h5").read_bytes() == (tmp_path / "m.weights.h5").read_bytes()
    assert found["files"] == [
        {"path": f"{tmp_path}/out/m.weights.h5", "bytes": (tmp_path / "m.weights.h5").stat().st_size}
    ]
    assert ok("restore", f"{repo}@1", tmp_path / "first").startswith(f"{tmp_path}/first/m.weights.h5  ")


def test_export_replaces_only_on_demand(repo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "m.weights.h5").write_bytes(b"mine")
    (out / "other").write_bytes(b"stays")
    assert "pass --force" in refused(2, "export", repo, out)
    assert tree(out) == {"m.weights.h5": b"mine", "other": b"stays"}
    ok("restore", repo, out, "--force")
    assert tree(out) == {"m.weights.h5": (tmp_path / "m.weights.h5").read_bytes(), "other": b"stays"}
    refused(6, "export", repo, tmp_path / "m.weights.h5")


# --- verify.


def test_verify_what_is_whole(repo: Path, tmp_path: Path) -> None:
    quick, full = parsed("verify", repo), parsed("verify", repo, "--full")
    assert (quick["ok"], quick["full"], quick["snapshots"], quick["bytes"]) == (True, False, 4, 0)
    assert (full["ok"], full["full"], full["problems"]) == (True, True, [])
    assert full["bytes"] > 0
    assert "is intact: 4 snapshots" in ok("verify", repo, "--full")
    one = parsed("verify", f"{repo}@1")
    assert (one["ok"], one["bytes"], set(one)) == (True, one["bytes"], set(full))
    assert "no digests" in refused(2, "verify", tmp_path / "m.weights.h5")


def test_verify_lists_every_problem(repo: Path) -> None:
    packs = list((repo / "packs").iterdir())
    for pack in packs:
        flip(pack)
    expected = 2 * len(packs)  # the chunk, and the digest of the pack
    assert parsed("verify", repo)["ok"]  # a quick verify does not read contents
    done = lamina_command("verify", repo, "--full")
    assert (done.returncode, done.stderr) == (4, f"lamina: {repo} is damaged: {expected} problems found\n")
    lines = done.stdout.splitlines()
    hit = [line for line in lines if line.startswith("damaged: snapshot ")]
    assert (len(lines) - len(hit), len(hit)) == (expected, 4)
    assert hit[3].startswith("damaged: snapshot 4 (s, epoch 3): tensors m.weights.h5:layers/dense_0/vars/0")
    done = lamina_command("verify", repo, "--full", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], len(found["problems"])) == (4, False, expected)
    done = lamina_command("verify", f"{repo}@1", "--json")
    assert (done.returncode, len(json.loads(done.stdout)["problems"])) == (4, 1)


def test_verify_a_sample(repo: Path, tmp_path: Path) -> None:
    everything, half = (parsed("verify", repo, "--sample", share, "--seed", 1) for share in ("100%", "0.5"))
    assert (half["ok"], half["full"], half["sample"], half["seed"]) == (True, False, 0.5, 1)
    assert 0 < half["chunks"] < everything["chunks"]
    assert 0 < half["bytes"] < everything["bytes"]
    assert parsed("verify", repo, "--sample", "50%", "--seed", 1) == half
    assert "a sample of" in ok("verify", repo, "--sample", "5%")
    assert parsed("verify", repo)["sample"] is None
    for pack in (repo / "packs").iterdir():
        flip(pack)  # a byte of its first chunk
    done = lamina_command("verify", repo, "--sample", "1")
    assert done.returncode == 4
    assert done.stdout.count("its digest does not match its id") == len(list((repo / "packs").iterdir()))
    for share in ("0", "0%", "101%", "-5%", "nan", "inf%", "many", "%", ""):
        assert "--sample" in refused(2, "verify", repo, "--sample", share)
    assert "--seed" in refused(2, "verify", repo, "--seed", 1)
    assert "seed" in refused(2, "verify", repo, "--sample", "1", "--seed", -1)
    assert "cannot be combined" in refused(2, "verify", repo, "--sample", "1", "--full")
    assert "repositories only" in refused(2, "verify", f"{repo}@1", "--sample", "1")


def test_damaged_contents_are_not_exported(repo: Path, tmp_path: Path) -> None:
    for pack in (repo / "packs").iterdir():
        flip(pack)
    assert "damaged" in refused(4, "export", repo, tmp_path / "out")
    assert not (tmp_path / "out").exists() or tree(tmp_path / "out") == {}
    assert "damaged" in refused(4, "diff", f"{repo}@1", f"{repo}@2")


@pytest.mark.parametrize("verb", ["ls", "show", "stats", "verify", "export", "prune"])
def test_damaged_repositories(verb: str, repo: Path, tmp_path: Path) -> None:
    more = {"export": [tmp_path / "out"], "prune": ["--yes", "--keep-last", "1"]}.get(verb, [])
    newest = repo / "snapshots" / "0000000004.json"
    good = newest.read_bytes()
    flip(newest, 200)
    before = tree(repo)
    done = CliRunner().invoke(app, [verb, str(repo), *map(str, more)])
    assert done.exit_code == 4, done.output
    assert "0000000004.json" in done.output
    newest.write_bytes(good)
    always = {"snapshots/0000000004.json": b"", "prune.lock": b""}
    assert tree(repo) | always == before | always
    newest.write_bytes(make_envelope("snapshot", {}, version=2))
    done = CliRunner().invoke(app, [verb, str(repo), *map(str, more)])
    assert done.exit_code == (4 if verb == "verify" else 5), done.output
    newest.write_bytes(good)
    (repo / "config.json").unlink()
    done = CliRunner().invoke(app, [verb, str(repo), *map(str, more)])
    assert done.exit_code == 3 or verb in ("show", "export"), done.output


# --- prune.


def test_prune_demands_an_answer(repo: Path) -> None:
    before = tree(repo)
    assert "--yes" in refused(2, "prune", repo, "--keep-last", "1")
    found = parsed("prune", repo, "--keep-last", "1", "--keep-best", "1", "--dry-run")
    assert (found["dry_run"], found["snapshots"]) == (True, [3])
    assert tree(repo) | {"prune.lock": b""} == before | {"prune.lock": b""}
    found = parsed("prune", repo, "--keep-last", "1", "--keep-best", "1", "--yes")
    assert (found["dry_run"], found["snapshots"]) == (False, [3])
    assert [s.number for s in lamina.open(repo).snapshots()] == [1, 2, 4]
    assert ok("prune", repo, "--yes", "--keep-last", "9") == "deleted 0 snapshots and 0 packs, 0 B\n"
    assert ok("prune", repo, "--yes") == "deleted 0 snapshots and 0 packs, 0 B\n"
    assert "no series" in refused(3, "prune", repo, "--yes", "--keep-last", "1", "--series", "x")
    assert ok("verify", repo, "--full")


@pytest.mark.parametrize(
    ("answer", "code", "left"),
    [("y\n", 0, [1, 4]), ("n\n", 1, [1, 2, 3, 4]), ("\n", 1, [1, 2, 3, 4]), ("\x04", 1, [1, 2, 3, 4]),
     ("\x03", 130, [1, 2, 3, 4])],
)  # fmt: skip
def test_prune_asks_on_a_terminal(answer: str, code: int, left: list[int], repo: Path) -> None:
    with terminal("prune", repo, "--keep-last", "1") as session:
        assert "would delete 2 snapshots (number 2, 3)" in session.until("[y/N]")
        session.type(answer)
        assert session.code() == code, session.seen
    assert [s.number for s in lamina.open(repo).snapshots()] == left
    assert ("nothing was deleted" in session.seen) == (code == 1)
    assert "Traceback" not in session.seen


# --- On a terminal.


class terminal:
    """The command on its own terminal."""

    def __init__(self, *arguments: object, columns: int = 160) -> None:
        self._arguments = list(map(str, arguments))
        self._columns = str(columns)
        self.seen = ""

    def __enter__(self) -> terminal:
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # background processes ignore SIGINT by default
            os.environ.update(TERM="xterm-256color", COLUMNS=self._columns, LINES="50")
            os.execv(sys.executable, [*COMMAND, *self._arguments])
        return self

    def until(self, text: str, seconds: float = 60) -> str:
        while text not in self.seen and self._read(seconds):
            pass
        assert text in self.seen
        return self.seen

    def _read(self, seconds: float) -> bool:
        assert select.select([self._fd], [], [], seconds)[0], f"nothing for {seconds} s after {self.seen!r}"
        try:
            data = os.read(self._fd, 1 << 16)
        except OSError:  # the terminal was closed
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def code(self) -> int:
        while self._read(60):
            pass
        self._pid, status = 0, os.waitpid(self._pid, 0)[1]
        return os.waitstatus_to_exitcode(status)

    def __exit__(self, *_: object) -> None:
        if self._pid:
            os.kill(self._pid, 9)
            os.waitpid(self._pid, 0)
        os.close(self._fd)


def test_a_terminal_gets_a_table(repo: Path) -> None:
    with terminal("ls", repo) as session:
        assert session.code() == 0
    assert "─" in session.seen
    assert "val_loss 0.25 *" in session.seen


def test_a_terminal_sees_the_work(repo: Path, tmp_path: Path) -> None:
    with terminal("export", repo, tmp_path / "out") as session:
        assert session.code() == 0
    assert "exporting" in session.seen
    assert re.search(r"245 kB of 245 kB, [\d.]+ [kMG]B/s, 0 s left", session.seen)
    assert "\x1b[?25h" in session.seen  # the cursor is visible again
    with terminal("verify", f"{repo}@1") as session:
        assert session.code() == 0
    assert "is intact" in session.seen


HOSTILE = "[bold]x[/bold]\x1b[31m\u202e\n\x07[/]"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    import h5py

    path = tmp_path / "hostile.weights.h5"
    with h5py.File(path, "w") as file:
        file[HOSTILE] = np.arange(3)
    lamina.save(path, tmp_path / "hostile", metadata={HOSTILE: HOSTILE}, series="[red]s[/red]")
    return tmp_path / "hostile"


def test_names_cannot_command_a_terminal(hostile: Path) -> None:
    shown = r"[bold]x[/bold]\x1b[31m\u202e\n\x07[/]"
    assert output.clean(HOSTILE) == shown
    for text in (ok("show", hostile, "--tensors"), ok("show", hostile.with_suffix(".weights.h5"), "--tensors")):
        assert shown in text
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
    with terminal("show", hostile, "--tensors") as session:
        assert session.code() == 0
    assert shown in session.seen
    assert "\x1b[31m" not in session.seen
    with terminal("ls", hostile) as session:
        assert session.code() == 0
    assert "[red]s[/red]" in session.seen
    assert parsed("show", hostile)["snapshot"]["metadata"] == {HOSTILE: HOSTILE}
    assert "\x1b" not in refused(3, "show", f"{hostile}@{HOSTILE}")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.weights.h5")
    weights(Path(name))
    for arguments, code in (
        (["show", name], 2),
        (["save", name, tmp_path / "r"], 2),
        (["ls", name + "x"], 3),
    ):
        done = subprocess.run([*COMMAND, *map(os.fsencode, arguments)], capture_output=True, check=False)
        assert done.returncode == code, done.stderr
        assert b"Traceback" not in done.stderr


def test_an_ascii_terminal(hostile: Path) -> None:
    done = lamina_command("show", hostile, "--tensors", PYTHONIOENCODING="ascii:strict", LC_ALL="C")
    assert (done.returncode, done.stderr) == (0, "")


# --- stats, bench and doctor.


def test_stats(repo: Path) -> None:
    found = parsed("stats", repo)
    truth = lamina.open(repo).stats()
    assert (found["snapshots"], found["packs"], found["bytes_packs"]) == (4, truth.packs, truth.bytes_packs)
    (series,) = found["series"]
    assert (series["name"], series["snapshots"], series["bytes_total"]) == ("s", 4, truth.bytes_total)
    assert re.search(r"^snapshots +4$", ok("stats", repo), re.MULTILINE)


def test_stats_of_an_empty_repository(tmp_path: Path) -> None:
    lamina.writing.as_repository(tmp_path / "r")
    assert parsed("stats", tmp_path / "r")["series"] == []
    assert "snapshots" in ok("stats", tmp_path / "r")
    assert parsed("ls", tmp_path / "r") == {"source": str(tmp_path / "r"), "snapshots": []}
    assert ok("verify", tmp_path / "r", "--full").startswith(f"{tmp_path}/r is intact")
    refused(3, "show", tmp_path / "r")


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (9999, "10.0 kB"), (99_960, "100 kB"),
     (999_400, "999 kB"), (999_600, "1.00 MB"), (5e18, "5000 PB")],
)  # fmt: skip
def test_sizes(size: float | None, text: str) -> None:
    assert output.human(size) == text


def test_bench_measures_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "place"
    place.mkdir()
    found = parsed("bench", "--size", "4MB", "--repeats", "1", "--folder", place)
    names = [result["name"] for result in found["results"]]
    assert names[-3:] == ["encode, one thread", "decode, one thread", "zstd 3, one thread"]
    assert {"memory copy", "write + fsync", "lamina save", "lamina verify --full", "lamina export"} <= set(names)
    assert all(len(r["seconds"]) == 1 and r["median"] > 0 and r["failure"] is None for r in found["results"])
    stored = {result["name"]: result["stored"] for result in found["results"]}
    assert 0.5 * found["bytes"] < stored["lamina save"] < found["bytes"]
    assert stored["lamina save, unchanged"] < 4096  # only the snapshot file
    path = weights(tmp_path / "m.weights.h5", 0)
    before = path.read_bytes()
    said = ok("bench", path, "--repeats", "2", "--folder", place)
    assert said.startswith(f"{path}, 245 kB; ")
    assert "median of 2 runs" in said
    assert (path.read_bytes(), list(place.iterdir())) == (before, [])
    for code, arguments in [(3, [tmp_path / "none"]), (3, [tmp_path]), (3, [path, "--folder", tmp_path / "none"]),
                            (2, ["--size", "many"]), (2, ["--size", "1kB"])]:  # fmt: skip
        refused(code, "bench", *arguments)
    monkeypatch.setattr(benchmark, "_same", lambda *_: False)
    done = CliRunner().invoke(app, ["bench", str(path), "--repeats", "1", "--folder", str(place)])
    assert done.exit_code == 1
    assert done.stdout.count("FAIL") == 4
    assert "failed: ValueError: the result is wrong" in done.stderr
    assert list(place.iterdir()) == []
    monkeypatch.setattr(benchmark, "COPIES", 1 << 60)
    assert "needs" in refused(6, "bench", path, "--folder", place)


def test_doctor_tells_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "hush-0123456789"
    (tmp_path / ".netrc").write_text(f"machine w.example login user password {secret}\n")
    config = tmp_path / ".config" / "wandb"
    config.mkdir(parents=True)
    (config / "settings").write_text(
        f"[default]\nbase_url = https://u:{secret}@w.example\nentity = e\napi_key = {secret}\n"
    )
    environment = {"HOME": str(tmp_path), "WANDB_PROJECT": "p", "WANDB_MODE": ""}
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for more in ({}, {"WANDB_API_KEY": secret}):
        done = lamina_command("doctor", tmp_path, "--json", cwd=tmp_path, **environment, **more)
        assert done.returncode == 0, done.stderr
        assert secret not in done.stdout + lamina_command("doctor", cwd=tmp_path, **environment, **more).stdout
        found = json.loads(done.stdout)["wandb"]
        assert found["api_key"] == ("WANDB_API_KEY" if more else "netrc")
        assert (found["base_url"], found["entity"], found["project"]) == ("https://w.example", "e", "p")


def test_doctor_measures_and_leaves_nothing(tmp_path: Path) -> None:
    found = parsed("doctor", tmp_path, "--measure")
    assert found["speed"]["encode"] > 1e6
    assert found["speed"]["write"] > 1e6
    assert list(tmp_path.iterdir()) == []
    assert found["engine"]["threads"] >= 1
    assert {disk["use"] for disk in found["disks"]} == {"folder", "temporary files", "cache"}
    assert found["versions"]["numpy"] == np.__version__
    assert parsed("doctor", tmp_path)["speed"] is None
    refused(3, "doctor", tmp_path / "none")


def test_doctor_says_what_would_be_slow() -> None:
    disk = {"use": "folder", "path": "x", "file_system": "nfs4", "free": 1e9, "total": 1e12, "writable": False}
    found = {
        "engine": {"loads": True, "error": None, "threads": 1, "level": "portable"},
        "backend": {"name": "jax", "from": "KERAS_BACKEND", "installed": False},
        "versions": {"keras": "3.9.2", "wandb": "0.28.0"},
        "wandb": {"api_key": None, "mode": None},
        "disks": [disk, {**disk, "use": "cache", "free": 1e12, "writable": True}],
        "save": None,
    }
    said = "\n".join(doctor.advice(found))
    for word in ("one thread", "AVX2", "jax", "3.9.2", "0.28.0", "nfs4", "1.00 GB", "not writable"):
        assert word in said
    found |= {"engine": {"loads": False, "error": "why", "threads": None, "level": None}, "disks": []}
    assert "why" in doctor.advice(found)[0]


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_doctor_shows_gpus_and_what_a_save_would_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "NVIDIA H200, 143771, 140000\\nNVIDIA, odd, 40960, 10000\\nNVIDIA GB10, [N/A], [N/A]\\n"
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n[ $2 = --format=csv,noheader,nounits ] && printf '{said}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = parsed("doctor", tmp_path, "--model-size", "20GB")
    mib = 1 << 20
    assert found["devices"] == [
        {"name": "NVIDIA H200", "total": 143771 * mib, "free": 140000 * mib},
        {"name": "NVIDIA, odd", "total": 40960 * mib, "free": 10000 * mib},
        {"name": "NVIDIA GB10", "total": None, "free": None},
    ]
    lacks = 20 * 10**9 + (256 - 10000) * mib
    assert found["save"]["bytes"] == 20 * 10**9
    assert found["save"]["devices"] == [
        {"copies": True, "missing": 0},
        {"copies": False, "missing": lacks},
        {"copies": None, "missing": None},
    ]
    assert any(f"NVIDIA, odd lacks {output.human(lacks)} for a copy of 20.0 GB" in one for one in found["advice"])
    shown = ok("doctor", tmp_path, "--model-size", "20GB")
    for text in ("copied there first", "straight to pinned memory of the host", "is not known"):
        assert text in shown
    assert parsed("doctor", tmp_path)["save"] is None
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert parsed("doctor", tmp_path)["devices"] == []
    assert "--model-size takes a size" in refused(2, "doctor", tmp_path, "--model-size", "large")


def test_doctor_compares_a_save_with_the_memory_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory", lambda: {"total": 10**10, "available": 10**9})
    assert parsed("doctor", tmp_path, "--model-size", "1GB")["save"]["pinned"] is True
    found = parsed("doctor", tmp_path, "--model-size", "1.5 GB")
    assert found["save"]["pinned"] is False
    assert any("needs as much memory of the host, and 1.00 GB are available" in one for one in found["advice"])


def test_a_variable_that_the_engine_refuses(repo: Path, tmp_path: Path) -> None:
    """It is reported, and not confused with another number."""
    for name, value in {"LAMINA_THREADS": "many", "LAMINA_CPU": "abacus"}.items():
        done = lamina_command("doctor", tmp_path, "--json", **{name: value})
        found = json.loads(done.stdout)
        assert (done.returncode, found["engine"]["loads"]) == (0, True)
        assert f"{name} must be" in found["advice"][0]
        assert value in found["advice"][0]
    done = lamina_command("export", repo, tmp_path / "out", LAMINA_THREADS="0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "lamina: LAMINA_THREADS must be a whole number of at least 1. Received: 0\n"
    assert not (tmp_path / "out").exists()


def test_the_machine_is_found_out_from_broken_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_bytes(b"machine \xff\xfe what")
    (tmp_path / "keras.json").write_text("[1]")
    (tmp_path / "settings").write_bytes(b"\xff no section")
    for name, value in {
        "HOME": tmp_path, "KERAS_HOME": tmp_path, "WANDB_CONFIG_DIR": tmp_path, "WANDB_BASE_URL": "http://[",
        "NETRC": tmp_path / ".netrc", "KERAS_BACKEND": "",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert machine.backend()["name"] == "tensorflow"
    assert machine.wandb()["api_key"] is None


# --- W&B.


@pytest.fixture
def online(wandb_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Commands use the server; this process does not."""
    for name, value in wandb_server.environment(tmp_path / "client").items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return wandb_server


def run_json(*arguments: object) -> Any:
    done = lamina_command(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_push_pull_and_promote(online: Server, repo: Path, tmp_path: Path) -> None:
    (version,) = run_json("push", f"{repo}@best", "--name", "digits", "--alias", "good")["versions"]
    assert version.endswith("digits:v0")
    assert online.store.artifact("digits:good").metadata["epoch"] == 1
    pulled = run_json("pull", "wandb:digits:good", "here", "--alias", "theirs")
    assert pulled["snapshot"]["epoch"] == 1
    run_json("export", "here@theirs", "out")
    run_json("export", f"{repo}@best", "expected")
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")
    assert ok("diff", "here@theirs", f"{repo}@best").startswith("no difference")
    found = run_json("verify", "wandb:digits:good")
    assert (found["ok"], found["problems"]) == (True, [])
    promoted = run_json("promote", "wandb:digits:good", "lamina-tests/models", "--alias", "production")
    assert promoted["target"] == "lamina-tests/models"
    assert online.store.file_bytes("models:production", "m.weights.h5") == (tmp_path / "out/m.weights.h5").read_bytes()
    assert (
        lamina_command("push", repo).stdout
        == f"nothing to upload in {repo}; to log a snapshot, use lamina push DIR@ALIAS\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["pull", "wandb:none:latest", "here"], 3),
        (["show", "wandb:none:latest"], 3),
        (["push", "none"], 3),
        (["push", "{repo}@none"], 3),
        (["promote", "{repo}", "no-slash"], 2),
        (["push", "{repo}", "--layout", "zip"], 2),
    ],
)
def test_what_wandb_does_not_have(arguments: list[str], code: int, online: Server, repo: Path) -> None:
    before = tree(repo)
    done = lamina_command(*(argument.format(repo=repo) for argument in arguments))
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.splitlines()[-1].startswith("lamina: ")
    assert "Traceback" not in done.stderr
    assert tree(repo) == before
