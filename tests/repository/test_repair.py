"""`Repository.repair` and ``lamina verify --repair``: what another copy has is restored, what is lost is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import lamina
from engine_repositories import File, Saved, Tensor, save_memory, write_artifact
from lamina.cli import app
from lamina.errors import BusyError, CorruptDataError, InvalidInputError, NotFoundError, StorageError
from lamina.repository import repository
from lamina.repository.repository import Repository
from lamina.sources import resolve
from travel_writer import blake3, make_envelope, make_pack, sample
from wandb_server import Server

NAMES = ["a/kernel", "b/kernel", "c/kernel"]


def _array(seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=(64, 96)).astype("<f4")  # 24 KiB: its own chunk


def _saved(*seeds: int, epoch: int = 0) -> Saved:
    parts = tuple((b"head", Tensor(name, "<f4", _array(seed))) for name, seed in zip(NAMES, seeds, strict=True))
    numbers = np.random.default_rng(100 + epoch).integers(0, 1 << 32, 600, "<u4")
    training = [Tensor("rng", "<u4", numbers, "training")]
    return Saved(
        [File("m.weights.h5", parts), File("note.txt", tail=b"note")], training, {"series": "s", "epoch": epoch}
    )


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    """Two snapshots that share two of three tensors, in two packs, and an alias."""
    target = repository.open_or_create(tmp_path / "repo")
    save_memory(target, _saved(1, 2, 3))
    target.set_alias(save_memory(target, _saved(1, 2, 4, epoch=1)), "mine")
    assert len(_packs(target)) == 2
    return target


@pytest.fixture
def backup(repo: Repository, tmp_path: Path) -> Repository:
    return repository.open(shutil.copytree(repo.path, tmp_path / "backup"))


def _packs(target: Repository) -> list[Path]:
    return sorted((target.path / "packs").glob("*.pack"), key=lambda path: path.stat().st_size)


def _tree(target: Repository) -> dict[str, bytes]:
    root = target.path
    ours = [path for path in root.rglob("*") if path.is_file() and path.name != "prune.lock"]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in ours}


def _state(target: Repository, number: int) -> dict[str, bytes]:
    content = resolve(f"{target.path}@{number}").content
    read = content.read_named() | dict(zip(content.training, content.read(content.training.values()), strict=True))
    return {name: array.tobytes() for name, array in read.items()}


def _write(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    _write(path, bytes(data))


def _place(target: Repository, number: int, name: str) -> tuple[Path, int]:
    """A pack that holds a tensor's chunk, and where in it."""
    from lamina.fetching.packs import read_placement

    snapshot = target.snapshot(str(number))
    content = resolve(snapshot).content
    ((chunk, _),) = content.chunks(content.tensors[name])  # type: ignore[union-attr]
    _, _, chunks = read_placement(target._core.placement_bytes(snapshot._core), "it")
    (place,) = chunks[chunk]
    return target.path / "packs" / f"{place.pack}.pack", place.offset + 5


def _cut(path: Path) -> None:
    _write(path, path.read_bytes()[:-200])


DAMAGE: dict[str, Callable[[Repository], None]] = {
    "flipped byte": lambda target: _flip(*_place(target, 1, NAMES[0])),
    "flipped footer": lambda target: _flip(_packs(target)[1], _packs(target)[1].stat().st_size - 100),
    "truncated pack": lambda target: _cut(_packs(target)[1]),
    "missing pack": lambda target: _packs(target)[1].unlink(),
    "no packs at all": lambda target: [path.unlink() for path in _packs(target)] and None,
    "empty pack": lambda target: _write(_packs(target)[0], b""),
    "truncated snapshot": lambda target: _cut(target.path / "snapshots/0000000001.json"),
    "empty snapshot": lambda target: _write(target.path / "snapshots/0000000002.json", b""),
    "damaged alias": lambda target: _flip(next((target.path / "aliases").iterdir()), 100),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_everything_comes_back_from_a_copy(case: str, repo: Repository, backup: Repository) -> None:
    before = [_state(repo, number) for number in (1, 2)]
    DAMAGE[case](repo)
    damaged, copy = _tree(repo), _tree(backup)
    report = repository.open(repo.path).repair(backup)
    assert (report.ok, report.lost, report.problems) == (True, [], [])
    assert [_state(repo, number) for number in (1, 2)] == before
    assert repository.open(repo.path).snapshot("mine").number == 2
    assert repository.open(repo.path).verify(full=True).problems == []
    assert _tree(backup) == copy
    after = _tree(repo)
    for path, data in damaged.items():  # nothing is deleted: it is where it was, or in the quarantine
        assert data in (after.get(path), after.get(f"quarantine/{path}"))
    assert not list((repo.path / "sessions").iterdir())
    assert repository.open(repo.path).repair().quarantined == []


def test_what_is_lost_is_named_and_the_rest_stays_readable(repo: Repository) -> None:
    whole = _state(repo, 1), _state(repo, 2)
    pack, at = _place(repo, 1, "a/kernel")
    _flip(pack, at)
    report = repository.open(repo.path).repair()
    assert report.quarantined == [f"packs/{pack.name}"]
    assert [(one.snapshot, one.series, one.epoch, one.everything) for one in report.lost] == [
        (1, "s", 0, False),
        (2, "s", 1, False),
    ]
    for one in report.lost:
        assert (one.files, one.tensors) == (["m.weights.h5"], [("m.weights.h5", "a/kernel")])
    assert report.chunks_rescued > 3
    assert not report.ok
    assert len(report.problems) == 2
    opened = repository.open(repo.path)
    content = resolve(opened.snapshot("1")).content
    with pytest.raises(CorruptDataError, match='tensor "a/kernel": no pack holds chunk'):
        content.read_named()
    rest = NAMES[1:]
    assert [a.tobytes() for a in content.read([content.tensors[n] for n in rest])] == [whole[0][n] for n in rest]
    with pytest.raises(CorruptDataError, match='tensor "a/kernel": no pack holds chunk'):
        lamina.export(opened.snapshot("1"), repo.path.parent / "out")
    assert not (repo.path.parent / "out").exists()
    # A second repair with another copy restores the rest.
    aside = repo.path / "quarantine" / "packs" / pack.name
    data = bytearray(aside.read_bytes())
    data[at] ^= 1
    other = repo.path.parent / "other"
    (other / "packs").mkdir(parents=True)
    (other / "packs" / pack.name).write_bytes(data)
    assert repository.open(repo.path).repair(other).ok
    assert (_state(repo, 1), _state(repo, 2)) == whole


@pytest.mark.parametrize("how", [{"full": True}, {"sample": 1.0}, {}])
def test_a_verify_names_what_is_not_whole(how: dict[str, Any], repo: Repository) -> None:
    pack, at = _place(repo, 2, "c/kernel")
    _flip(pack, at) if how else pack.unlink()
    with pytest.raises(CorruptDataError, match="damaged snapshots: 2$") as caught:
        repository.open(repo.path).verify(**how)
    assert caught.value.report is not None
    (lost,) = caught.value.report.lost
    assert (lost.snapshot, lost.epoch, lost.files) == (2, 1, ["m.weights.h5"])
    assert ("m.weights.h5", "c/kernel") in lost.tensors
    assert not {name for _, name in lost.tensors} & {"a/kernel", "b/kernel"}
    assert str(lost).startswith("snapshot 2 (s, epoch 1): tensors m.weights.h5:c/kernel")


def test_a_chunk_that_stands_whole_elsewhere_is_not_lost(repo: Repository) -> None:
    pack, at = _place(repo, 1, "a/kernel")
    data, other = pack.read_bytes(), repository.open_or_create(repo.path.parent / "other")
    save_memory(other, _saved(1, 8, 9))
    for theirs in _packs(other):
        (repo.path / "packs" / theirs.name).write_bytes(theirs.read_bytes())
    _flip(pack, at)
    with pytest.raises(CorruptDataError) as caught:
        repository.open(repo.path).verify(full=True)
    assert caught.value.report is not None
    assert caught.value.report.lost == []
    assert _state(repo, 1)["a/kernel"] == _array(1).tobytes()
    assert pack.read_bytes() != data


def test_what_cannot_be_read_names_its_tensor(repo: Repository, tmp_path: Path) -> None:
    _flip(*_place(repo, 1, "b/kernel"))
    content = resolve(f"{repo.path}@1").content
    with pytest.raises(CorruptDataError, match='tensor "b/kernel": chunk .* is damaged'):
        content.read_named()
    assert content.read([content.tensors["a/kernel"]])[0].tobytes() == _array(1).tobytes()
    with pytest.raises(CorruptDataError, match='tensor "b/kernel": chunk'):
        lamina.export(repository.open(repo.path).snapshot("1"), tmp_path / "out")


def test_the_config_comes_back(repo: Repository, backup: Repository) -> None:
    run, config = CliRunner(), repo.path / "config.json"
    whole = config.read_bytes()
    _flip(config, len(whole) - 3)
    damaged = config.read_bytes()
    done = run.invoke(app, ["verify", str(repo.path), "--repair", "--from", str(backup.path)])
    assert (done.exit_code, "restored: config.json" in done.stdout) == (0, True)
    assert (config.read_bytes(), (repo.path / "quarantine/config.json").read_bytes()) == (whole, damaged)


@pytest.mark.parametrize("lost", ["flipped", "empty", "gone"])
def test_without_a_copy_a_repository_gets_another_config(lost: str, repo: Repository) -> None:
    before, config = _state(repo, 1), repo.path / "config.json"
    whole = config.read_bytes()
    {"flipped": lambda: _flip(config, 20), "empty": lambda: _write(config, b""), "gone": config.unlink}[lost]()
    done = CliRunner().invoke(app, ["verify", str(repo.path), "--repair", "--json"])
    found = json.loads(done.stdout)
    assert (done.exit_code, found["ok"], found["restored"]) == (0, True, ["config.json"])
    assert found["quarantined"] == ["config.json"] * (lost != "gone")
    assert config.read_bytes() != whole
    opened = repository.open(repo.path)
    assert (opened.snapshot("mine").number, _state(repo, 1)) == (2, before)
    assert save_memory(opened, _saved(5, 6, 7)).number == 3


def test_another_repository_with_the_same_snapshot_does_not_lend_its_config(repo: Repository, tmp_path: Path) -> None:
    other = repository.open_or_create(tmp_path / "other")
    save_memory(other, _saved(1, 2, 3))
    (repo.path / "config.json").unlink()
    assert CliRunner().invoke(app, ["verify", str(repo.path), "--repair", "--from", str(other.path)]).exit_code == 0
    assert (repo.path / "config.json").read_bytes() != (other.path / "config.json").read_bytes()


def test_two_damaged_copies_make_a_whole_one(repo: Repository, backup: Repository) -> None:
    before = _state(repo, 1)
    _flip(*_place(backup, 1, "b/kernel"))
    _flip(*_place(repo, 1, "a/kernel"))
    report = repository.open(repo.path).repair(backup)
    assert (report.ok, report.restored, report.chunks_fetched) == (True, [], 1)
    assert _state(repo, 1) == before


def test_the_same_byte_lost_in_both_copies(repo: Repository, backup: Repository) -> None:
    _flip(*_place(backup, 1, "b/kernel"))
    _flip(*_place(repo, 1, "b/kernel"))
    report = repository.open(repo.path).repair(backup)
    assert {name for one in report.lost for _, name in one.tensors} == {"b/kernel"}


def test_a_snapshot_that_cannot_be_saved_is_moved_aside(repo: Repository, backup: Repository) -> None:
    path = repo.path / "snapshots/0000000002.json"
    name = repo.snapshot("2").id
    _cut(path)
    report = repository.open(repo.path).repair()
    assert [(one.snapshot, one.id, one.everything) for one in report.lost] == [(2, name, True)]
    opened = repository.open(repo.path)
    assert [snapshot.number for snapshot in opened.snapshots()] == [1]
    assert save_memory(opened, _saved(5, 6, 7)).number == 3  # a number is never used twice
    again = repository.open(repo.path).repair(backup)
    assert (again.ok, again.restored) == (True, ["snapshots/0000000002.json"])
    assert repository.open(repo.path).snapshot("mine").id == name


def test_prune_spares_what_a_lost_snapshot_needs_until_it_is_back(repo: Repository, backup: Repository) -> None:
    (repo.path / "snapshots/0000000002.json").unlink()  # the alias names it
    before = _tree(repo)
    with pytest.raises(CorruptDataError, match="file is lost; nothing was deleted"):
        repository.open(repo.path).prune()
    assert {**before, "prune.lock": b""} == {**_tree(repo), "prune.lock": b""}
    report = repository.open(repo.path).repair(backup)
    assert (report.ok, report.restored, report.quarantined) == (True, ["snapshots/0000000002.json"], [])
    opened = repository.open(repo.path)
    assert opened.snapshot("mine").number == 2
    opened.prune()
    assert opened.verify(full=True).snapshots == 2


def test_prune_goes_on_once_the_alias_of_a_lost_snapshot_is_removed(repo: Repository) -> None:
    (repo.path / "snapshots/0000000002.json").unlink()
    assert repo.remove_alias("s", "mine")
    assert repository.open(repo.path).prune().packs == 1


def test_an_artifact_directory_is_a_copy_too(repo: Repository, tmp_path: Path) -> None:
    artifact = write_artifact(repo.snapshot("2"), tmp_path / "artifact")
    before = _state(repo, 2)
    for path in _packs(repo):
        path.unlink()
    _cut(repo.path / "snapshots/0000000002.json")
    report = repository.open(repo.path).repair(artifact)
    assert _state(repo, 2) == before
    assert {name for one in report.lost for _, name in one.tensors} <= {"c/kernel"}
    assert "snapshots/0000000002.json" in report.restored


def test_what_a_newer_lamina_wrote_is_left_alone(repo: Repository) -> None:
    body, chunks = sample().body_and_chunks()
    newer = make_pack(chunks, required=1 << 9)
    (repo.path / "packs" / f"{blake3(newer).hex()}.pack").write_bytes(newer)
    (repo.path / "snapshots/0000000009.json").write_bytes(make_envelope("snapshot", body, version=2))
    before = _tree(repo)
    report = repository.open(repo.path).repair()
    assert (report.quarantined, report.restored) == ([], [])
    assert _tree(repo) == before
    assert any("version 2" in problem for problem in report.problems)


def test_damage_in_the_small_files_hinders_prune_no_more(repo: Repository) -> None:
    (repo.path / "journal").mkdir()
    (repo.path / "journal/up.json").write_bytes(b"{")
    (repo.path / "condemned.json").write_bytes(b"{")
    with pytest.raises(CorruptDataError):
        repository.open(repo.path).prune()
    report = repository.open(repo.path).repair()
    assert sorted(report.quarantined) == ["condemned.json", "journal/up.json"]
    repository.open(repo.path).prune()


def test_a_second_file_of_a_name_keeps_the_first(repo: Repository) -> None:
    for _ in range(3):
        (repo.path / "condemned.json").write_bytes(b"{")
        repository.open(repo.path).repair()
    names = sorted(path.name for path in (repo.path / "quarantine").iterdir())
    assert names == ["condemned.json", "condemned.json.1", "condemned.json.2"]


def test_a_running_prune_is_not_disturbed(repo: Repository) -> None:
    fcntl = pytest.importorskip("fcntl")
    with (repo.path / "prune.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = _tree(repo)
        with pytest.raises(BusyError, match="another prune"):
            repo.repair()
        assert _tree(repo) == before


SAVER = """
import os, sys, numpy as np
sys.path[:0] = sys.argv[2].split(os.pathsep)
from lamina.repository import repository
from test_repair import _saved
import lamina
from engine_repositories import save_memory
target = repository.open(sys.argv[1])
print("ready", flush=True)
for epoch in range(25):
    save_memory(target, _saved(1, 2, 100 + epoch, epoch=epoch))
"""


def test_saves_go_on_while_it_runs(repo: Repository, backup: Repository) -> None:
    saver = subprocess.Popen(
        [sys.executable, "-c", SAVER, str(repo.path), os.pathsep.join(sys.path)], stdout=subprocess.PIPE, text=True
    )
    assert saver.stdout is not None
    assert saver.stdout.readline() == "ready\n"
    _flip(*_place(repo, 1, "a/kernel"))
    while saver.poll() is None:
        assert repository.open(repo.path).repair(backup).lost == []
    assert saver.returncode == 0
    assert repository.open(repo.path).repair(backup).ok
    opened = repository.open(repo.path)
    assert len(opened.snapshots()) == 27
    assert all(_state(repo, snapshot.number or 0)["a/kernel"] == _array(1).tobytes() for snapshot in opened.snapshots())
    assert opened.verify(full=True).problems == []


@pytest.mark.parametrize(
    ("source", "error"),
    [("none", NotFoundError), (3, InvalidInputError), (".", InvalidInputError)],
)
def test_a_source_that_is_none(source: Any, error: type[Exception], repo: Repository, tmp_path: Path) -> None:
    before = _tree(repo)
    with pytest.raises(error):
        repo.repair(tmp_path / source if isinstance(source, str) else source)
    assert _tree(repo) == before


def test_a_hostile_source_gives_nothing(repo: Repository, tmp_path: Path) -> None:
    """Packs with wrong names, chunks with wrong ids, and snapshots of other repositories are not used."""
    evil = tmp_path / "evil"
    (evil / "packs").mkdir(parents=True)
    (evil / "snapshots").mkdir()
    lost, at = _place(repo, 1, "a/kernel")
    _flip(lost, at)
    data = bytearray(lost.read_bytes())
    data[at + 1] ^= 1
    (evil / "packs" / lost.name).write_bytes(data)
    (evil / "packs" / ("0" * 64 + ".pack")).symlink_to("/dev/zero")
    body, _ = sample().body_and_chunks()
    (evil / "snapshots/0000000001.json").write_bytes(make_envelope("snapshot", body))
    _cut(repo.path / "snapshots/0000000001.json")
    report = repository.open(repo.path).repair(evil)
    assert report.restored == []
    assert report.chunks_fetched == 0
    assert {one.snapshot for one in report.lost} == {1, 2}


def test_the_command(repo: Repository, backup: Repository) -> None:
    _flip(*_place(repo, 1, "a/kernel"))
    run = CliRunner()
    done = run.invoke(app, ["verify", str(repo.path), "--repair", "--json"])
    found = json.loads(done.stdout)
    assert (done.exit_code, found["ok"]) == (4, False)
    assert found["lost"][0]["tensors"] == [["m.weights.h5", "a/kernel"]]
    done = run.invoke(app, ["verify", str(repo.path), "--repair"])
    assert done.exit_code == 4
    assert "lost: snapshot 2 (s, epoch 1): tensors m.weights.h5:a/kernel; files m.weights.h5" in done.stdout
    done = run.invoke(app, ["verify", str(repo.path), "--repair", "--from", str(backup.path)])
    assert (done.exit_code, done.stderr) == (0, "")
    assert "the repository is intact" in done.stdout
    done = run.invoke(app, ["verify", str(repo.path), "--from", str(backup.path)])
    assert (done.exit_code, done.stdout) == (2, "")
    done = run.invoke(app, ["verify", f"{repo.path}@1", "--repair"])
    assert (done.exit_code, done.stdout) == (2, "")


def test_nobody_may_write(repo: Repository) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    repo.path.chmod(0o500)
    try:
        with pytest.raises(StorageError):
            repo.repair()
    finally:
        repo.path.chmod(0o700)


def test_wandb_is_a_copy_too(repo: Repository, wandb_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in wandb_server.environment(repo.path.parent / "client").items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(repo.path.parent)
    command = [sys.executable, "-m", "lamina"]
    subprocess.run([*command, "push", f"{repo.path}@2", "--name", "digits", "--layout", "packs"], check=True)
    before = _state(repo, 2)
    damaged, at = _place(repo, 2, "a/kernel")
    _flip(damaged, at)
    _cut(repo.path / "snapshots/0000000002.json")
    done = subprocess.run(
        [*command, "verify", str(repo.path), "--repair", "--from", "wandb:digits:latest", "--json"],
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert done.returncode == 0, found
    assert f"packs/{damaged.name}" in found["restored"]
    assert _state(repo, 2) == before
    assert repository.open(repo.path).verify(full=True).problems == []
