"""The verbs that talk to W&B in every state of the server, of the network and of what is sent: code, sentence, nothing
lost, and no run that would stay empty."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from test_api import weights
from test_cli import COMMAND, no_lines_on_a_slow_machine, refused, tree  # noqa: F401
from test_cli_hostile import HOSTILE
from test_cli_states import RUNNER, STATES
from typer.testing import CliRunner

import lamina
import lamina.wandb
from lamina.cli import app
from wandb_server import Server
from wandb_server.server import client_environment

#: The subcommands that take `wandb:…`.
READERS = {
    "ls": ["ls", "{artifact}"],
    "show": ["show", "{artifact}"],
    "diff": ["diff", "{artifact}", "{repo}@1"],
    "export": ["export", "{artifact}", "{new}/export"],
    "restore": ["restore", "{artifact}", "{new}/restore"],
    "verify": ["verify", "{artifact}"],
    "report": ["report", "{artifact}", "--json"],
    "pull": ["pull", "{artifact}", "{new}/repo"],
    "pull into": ["pull", "{artifact}", "{repo}"],
    "promote": ["promote", "{artifact}", "lamina-tests/models"],
}
SENDERS = {
    "push": ["push", "{repo}@1", "--name", "again"],
    "push a file": ["push", "{file}", "--name", "again", "--layout", "file"],
    "promote": ["promote", "{repo}@1", "lamina-tests/models"],
}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with two snapshots, the first with an alias, alone in a folder."""
    (tmp_path / "place").mkdir()
    root = tmp_path / "place" / "repo"
    for seed in (0, 1):
        lamina.save(weights(tmp_path / "place" / "m.weights.h5", seed), root, aliases=["mine"] * (seed == 0))
    return root


def words(call: list[str], repo: Path, artifact: str = "") -> list[str]:
    place = repo.parent
    return [part.format(artifact=artifact, repo=repo, new=place / "new", file=place / "m.weights.h5") for part in call]


def done(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (arguments, result.output)
    return result.stdout


def _own(repo: Path) -> dict[str, bytes]:
    """The files of a repository, without its journal and its upload times."""
    return {path: data for path, data in tree(repo).items() if not path.startswith(("journal/", "uploads.jsonl"))}


def logged(repo: Path) -> str:
    """An artifact with the first snapshot."""
    assert done("push", f"{repo}@1", "--name", "digits").endswith("digits:v0\n")
    return "wandb:digits:v0"


# --- What is sent.


@pytest.mark.parametrize("state", STATES)
def test_what_is_sent_from_a_repository_in_every_state(state: str, wandb_online: Server, repo: Path) -> None:
    harm, refusals = STATES[state]
    harm(repo)
    before = tree(repo)
    code = refusals.get("export", 0)  # all three need the whole content of a snapshot
    for call in (["push", f"{repo}@1"], ["promote", f"{repo}@1", "lamina-tests/models"]):
        if code:
            refused(code, *call)
            assert (wandb_online.store.runs, wandb_online.store.collections) == ([], [])
        else:
            done(*call)
    after = tree(repo)
    assert {path: after.get(path) for path in before} == before
    assert _own(repo).keys() <= before.keys()


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_sent_from_hostile_files(kind: str, wandb_online: Server, repo: Path) -> None:
    source = HOSTILE[kind](repo.parent)
    before = tree(repo.parent)
    calls = (["push", source], ["push", source, "--layout", "file"], ["promote", source, "lamina-tests/models"])
    for call in calls:
        runs = len(wandb_online.store.runs)
        result = CliRunner().invoke(app, [str(word) for word in call])
        assert result.exit_code in (0, 2, 3, 4, 5, 6), result.output
        assert "unexpected" not in result.stderr
        if result.exit_code:
            assert result.stderr.startswith("lamina: ")
            assert result.stderr.count("\n") == 1
            assert len(wandb_online.store.runs) == runs, call
    after = tree(repo.parent)
    assert {path: after.get(path) for path in before} == before
    assert all(path.startswith((".lamina/", "wandb-client/")) for path in after.keys() - before.keys())


@pytest.mark.parametrize(
    "call",
    [
        ["push", "{file}", "--name", "a/b"],
        ["push", "{file}", "--name", "x" * 129],
        ["push", "{file}", "--alias", "a/b"],
        ["push", "{file}", "--alias", ""],
        ["push", "{file}", "--layout", "zip"],
        ["push", "{repo}@1", "--name", "a b"],
        ["push", "{repo}@1", "--layout", "file"],
        ["push", "{repo}/packs"],
        ["promote", "{file}", "models"],
        ["promote", "{file}", "/"],
        ["promote", "{file}", "models/"],
        ["promote", "{file}", "a/b/c/d"],
        ["promote", "{file}", "p/models", "--alias", "a/b"],
        ["promote", "{file}", "p/models", "--name", "a/b"],
        ["promote", "{repo}/packs", "p/models"],
        ["pull", "a/b/c/d:v0", "{new}"],
        ["pull", "digits:v0", "{new}", "--alias", "a/b"],
        ["show", "wandb:a/b/c/d/e:f"],
    ],
    ids=lambda call: " ".join(call)[:50],
)
def test_what_cannot_be_is_refused_before_a_run_is_made(call: list[str], wandb_online: Server, repo: Path) -> None:
    before = tree(repo.parent)
    refused(2, *words(call, repo))
    assert (wandb_online.store.runs, wandb_online.store.collections) == ([], [])
    assert tree(repo.parent) == before


# --- What is fetched.


def test_what_is_not_there(wandb_online: Server, repo: Path) -> None:
    logged(repo)
    before, runs = tree(repo.parent), len(wandb_online.store.runs)
    names = [
        "none:latest",
        "digits:none",
        "digits:v9",
        "other/digits:v0",
        "",
        ":",
        "../../x:y",
        "di\ngits:v0",
        "x" * 3000,
    ]
    for name in names:
        refused(3, "show", f"wandb:{name}")
    for call in READERS.values():
        refused(3, *words(call, repo, "wandb:none:latest"))
    assert tree(repo.parent) == before
    assert (len(wandb_online.store.runs), wandb_online.store.collections) == (runs, ["tester/lamina-tests/digits"])


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"path": "*/lamina.json", "corrupt": True}, 4),
        ({"path": "*.pack", "corrupt": True}, 4),
        ({"path": "*.pack", "status": 404}, 7),
        ({"path": "*manifest*", "status": 404}, 7),
    ],
    ids=str,
)
def test_what_arrives_damaged(fault: dict[str, Any], code: int, wandb_online: Server, repo: Path) -> None:
    """Nothing of a damaged answer is used, and once the server works again everything works."""
    artifact = logged(repo)
    (repo.parent / "new").mkdir()
    into = lamina.save(weights(repo.parent / "n.weights.h5", 5), repo.parent / "new" / "repo")
    before, runs = tree(repo.parent), len(wandb_online.store.runs)
    wandb_online.inject(method="GET", times=None, **fault)
    for verb, call in READERS.items():
        if verb == "pull into" and "pack" in fault["path"]:
            continue  # its packs come from the repository
        result = CliRunner().invoke(app, words(call, repo, artifact))
        assert result.exit_code == code, (verb, result.output)
        assert result.stderr.startswith("lamina: ")
        assert result.stderr.count("\n") == 1
    assert tree(repo.parent) == before
    assert wandb_online.store.collections == ["tester/lamina-tests/digits"]
    assert len(wandb_online.store.runs) == runs
    wandb_online.clear_faults()
    for call in READERS.values():
        done(*words(call, repo, artifact))
    pulled = lamina.open(repo.parent / "new" / "repo").snapshots()
    assert [snapshot.id for snapshot in pulled][:-1] == [into.id]
    first = tree(repo.parent / "new" / "export")
    assert first == tree(repo.parent / "new" / "restore")
    lamina.export(pulled[-1], repo.parent / "pulled")
    assert tree(repo.parent / "pulled") == first
    assert wandb_online.store.file_bytes("models:latest", "m.weights.h5") == first["m.weights.h5"]


# --- Without a network, and without an account.


@pytest.fixture
def unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address where no process listens or can start to listen."""
    wandb.teardown()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        for name, value in client_environment(url, tmp_path / "wandb-client").items():
            monkeypatch.setenv(name, value)
        for part in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER"):  # the client's retries are not tested here
            monkeypatch.setenv(f"WANDB_X_{part}_RETRY_MAX", "1")
        yield url
    wandb.teardown()


def test_without_a_network(unreachable: str, repo: Path) -> None:
    before = tree(repo.parent)
    for call in (READERS["show"], READERS["pull"], READERS["promote"], SENDERS["push"], SENDERS["push a file"]):
        assert "\\n" not in refused(7, *words(call, repo, "wandb:team/project/digits:v0"))
    assert tree(repo.parent) == before


def test_an_offline_run_waits_for_the_network(unreachable: str, repo: Path, wandb_server: Server) -> None:
    with wandb.init(mode="offline", dir=str(repo.parent)) as run:
        lamina.wandb.log_checkpoint(lamina.open(repo).snapshot("1"), run=run, name="digits")
        directory = Path(run.dir).parent
    before = tree(directory / "lamina")
    assert "wandb sync failed: " in refused(7, "push", directory)
    assert directory.name in refused(2, "push", directory.parent)  # which of the runs?
    assert tree(directory / "lamina") == before
    os.environ["WANDB_BASE_URL"] = wandb_server.url
    wandb.teardown()
    assert done("push", directory).endswith("digits:v0\n")
    assert wandb_server.store.artifact("digits:latest").metadata["snapshot"] == lamina.open(repo).snapshot("1").id


def test_without_an_account(repo: Path, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    more = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), "WANDB_DIR": str(tmp_path), "COLUMNS": "100"}
    before = tree(repo.parent)
    calls = {"pull": READERS["pull"], "promote a version": READERS["promote"], **SENDERS}
    found = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps({verb: words(call, repo, "wandb:a/b/c:latest") for verb, call in calls.items()}),
        env=kept | more,
        capture_output=True,
        text=True,
        check=True,
    )
    for verb, (code, stderr) in json.loads(found.stdout.splitlines()[-1]).items():
        assert code == 7, (verb, stderr)
        last = stderr.splitlines()[-1]  # wandb prints its own messages
        assert last.startswith("lamina: ")
        assert "wandb login" in last
    assert tree(repo.parent) == before


# --- Ctrl-C while the server does not answer.


SILENT = {
    "pull": ({"method": "GET", "path": "*.pack"}, ["pull", "wandb:digits:v0", "{new}"]),
    "push, at its run": ({"operation": "UpsertBucket"}, ["push", "{repo}@2", "--name", "digits"]),
    "push, at its packs": ({"method": "PUT", "path": "*.pack"}, ["push", "{repo}@2", "--name", "digits"]),
}


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT")
@pytest.mark.parametrize("what", SILENT)
def test_ctrl_c_does_not_wait_for_the_server(what: str, wandb_online: Server, repo: Path, tmp_path: Path) -> None:
    logged(repo)
    before = _own(repo)
    fault, call = SILENT[what]
    hit = wandb_online.inject(delay=300, times=None, **fault)
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    with (tmp_path / "said").open("w+") as said:  # not a pipe: wandb's service would keep it open
        process = subprocess.Popen(
            [*COMMAND, *words(call, repo)],
            env=environment | {"LAMINA_CACHE_DIR": str(tmp_path / "cache")},
            stdout=said,
            stderr=said,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            _wait_until(lambda: hit.hits > 0 or process.poll() is not None)
            process.send_signal(signal.SIGINT)
            assert process.wait(120) == 130
        finally:
            process.kill()
        said.seek(0)
        text = said.read()
    assert text.splitlines()[-1] == "lamina: interrupted; everything committed stays"
    assert "Traceback" not in text
    assert not list((tmp_path / "cache").glob("*")), "a download is left"
    assert _own(repo) == before
    assert "tester/lamina-tests/models" not in wandb_online.store.collections
    wandb_online.clear_faults()
    if what == "push, at its packs":
        assert len(done("push", repo).splitlines()) == 1  # its record was written before it was sent
    else:
        done(*words(call, repo))


def _wait_until(come: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not come():
        assert time.monotonic() < end
        time.sleep(0.01)
