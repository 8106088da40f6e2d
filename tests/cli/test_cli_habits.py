"""What people do at a terminal: a list that fits, names for snapshots, one snapshot less, a copy elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_cli import parsed, refused, terminal

import lamina
from engine_repositories import File, Saved, Tensor, save_memory
from lamina.cli import describe
from lamina.repository.repository import open_or_create


def save(repository: Any, value: float, **fields: Any) -> lamina.Snapshot:
    """Weights and a slot of an optimizer."""
    weights = Tensor("layers/dense/vars/0", "<f4", np.full(5000, value, "<f4"))
    slot = Tensor("optimizer/vars/0", "<f4", np.full(5000, -value, "<f4"), "optimizer")
    known: dict[str, Any] = {
        "series": "digits",
        "kind": "weights",
        "monitor": "val_loss",
        "mode": "min",
        "value": value,
    }
    known |= fields
    return save_memory(repository, Saved([File("m.weights.h5", ((b"x", weights), (b"y", slot)))], fields=known))


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Four epochs of one series."""
    repository = open_or_create(tmp_path / "repo")
    for epoch, value in enumerate([0.5, 0.25, 1.0, 0.75]):
        save(repository, value, epoch=epoch, best=epoch < 2)
    return tmp_path / "repo"


def lines(*arguments: Any, **environment: str) -> list[str]:
    import os

    done = subprocess.run(
        [sys.executable, "-m", "lamina", *map(str, arguments)],
        capture_output=True, text=True, check=True, env={**os.environ, **environment},
    )  # fmt: skip
    return done.stdout.splitlines()


def numbers(*arguments: Any) -> list[int]:
    return [snapshot["number"] for snapshot in parsed("ls", *arguments)["snapshots"]]


# --- ls


def test_a_list_fits_eighty_columns(repo: Path) -> None:
    found = lines("ls", repo, COLUMNS="80")
    assert max(map(len, found)) <= 80
    assert len(found) == 5  # nothing is wrapped
    assert found[0].split() == ["no", "id", "age", "epoch", "metric", "size", "new", "aliases"]
    assert found[4].split()[-2:] == ["latest,", "epoch_3"]


def test_a_wide_terminal_has_every_column_and_a_narrow_one_the_most_needed(repo: Path) -> None:
    titles = {width: lines("ls", repo, COLUMNS=str(width))[0].split() for width in (200, 80, 45)}
    assert titles[200] == ["no", "id", "series", "age", "epoch", "metric", "size", "new", "stored", "aliases"]
    assert set(titles[45]) < set(titles[80]) < set(titles[200])
    assert {"no", "metric", "aliases"} <= set(titles[45])


def test_a_terminal_of_eighty_columns_wraps_nothing(repo: Path) -> None:
    with terminal("ls", repo, columns=80) as session:
        assert session.code() == 0
    rows = [line for line in session.seen.splitlines() if "epoch_" in line]
    assert len(rows) == 4
    assert max(map(len, rows)) <= 80


def test_series_stand_in_the_list_where_there_are_several(repo: Path) -> None:
    save(lamina.open(repo), 3.0, series="letters")
    assert "series" in lines("ls", repo, COLUMNS="80")[0].split()
    assert "series" not in lines("ls", repo, "--series", "digits", COLUMNS="80")[0].split()


def test_the_newest_and_the_best(repo: Path) -> None:
    assert numbers(repo) == [1, 2, 3, 4]
    assert numbers(repo, "--last", "2") == [3, 4]
    assert numbers(repo, "--sort", "value") == [2, 1, 4, 3]
    assert numbers(repo, "--last", "2", "--sort", "value") == [4, 3]
    assert numbers(repo, "--sort", "new")[0] in (1, 2, 3, 4)
    save(lamina.open(repo), 0.9, series="letters", monitor="acc", mode="max")
    assert numbers(repo, "--series", "letters", "--last", "9") == [5]
    assert "values of several metrics: acc (max), val_loss (min)" in refused(2, "ls", repo, "--sort", "value")


def test_a_larger_value_may_be_better(tmp_path: Path) -> None:
    repository = open_or_create(tmp_path / "repo")
    for value in (0.5, 0.9, float("nan"), 0.7):
        save(repository, value, monitor="acc", mode="max")
    assert numbers(tmp_path / "repo", "--sort", "value") == [2, 4, 1, 3]


@pytest.mark.parametrize(
    ("ago", "shown"),
    [
        (timedelta(seconds=-5), "0 s"),
        (timedelta(seconds=59), "59 s"),
        (timedelta(minutes=59), "59 min"),
        (timedelta(hours=23, minutes=59), "23 h"),
        (timedelta(days=59), "59 d"),
        (timedelta(days=61), "2026-01-01"),
    ],
)
def test_ages(ago: timedelta, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    then = datetime(2026, 1, 1, tzinfo=timezone.utc)
    monkeypatch.setattr(describe, "now", lambda: then + ago)
    assert describe.age_of(SimpleNamespace(created_at="2026-01-01T00:00:00.000Z")) == shown  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("written", "shown"), [("", None), ("yesterday evening", "yesterday "), ("2026-01-01", "2026-01-01")]
)
def test_what_is_no_time_has_no_age(written: str, shown: str | None) -> None:
    assert describe.age_of(SimpleNamespace(created_at=written)) == shown  # type: ignore[arg-type]


# --- tag, untag


def test_names_are_given_and_taken_away(repo: Path) -> None:
    assert parsed("tag", f"{repo}@epoch_0", "paper", "kept")["snapshot"]["aliases"] == ["epoch_0", "kept", "paper"]
    assert parsed("tag", f"{repo}@digits:2", "paper")["snapshot"]["aliases"] == ["best", "epoch_1", "paper"]
    assert lamina.open(repo).snapshot("paper").number == 2
    assert lamina.open(repo).snapshot("kept").number == 1
    assert parsed("untag", f"{repo}@paper", "paper")["snapshot"]["aliases"] == ["best", "epoch_1"]
    assert "has no name 'kept'; it has best, epoch_1" in refused(3, "untag", f"{repo}@2", "kept")
    assert "'best' is computed" in refused(3, "untag", f"{repo}@2", "best")
    assert "'epoch_0' is computed" in refused(3, "untag", f"{repo}@1", "kept", "epoch_0")
    assert lamina.open(repo).snapshot(1).aliases == ["epoch_0", "kept"]
    assert lines("tag", f"{repo}@1", "again")[0].endswith("has the names epoch_0, again, kept")


def test_a_wrong_name_changes_nothing(repo: Path) -> None:
    assert "latest" in refused(2, "tag", f"{repo}@1", "good", "latest")
    assert lamina.open(repo).snapshot(1).aliases == ["epoch_0"]
    assert "say which snapshot" in refused(2, "tag", repo, "good")
    assert "no snapshot 'none'" in refused(3, "tag", f"{repo}@none", "good")
    assert "expected a repository or DIR@ALIAS" in refused(2, "tag", repo / "config.json", "good")
    assert "on this machine" in refused(2, "tag", "s3://bucket/prefix@1", "good")


# --- forget


def test_one_snapshot_is_deleted_with_what_only_it_needs(repo: Path) -> None:
    packs = len(list((repo / "packs").glob("*.pack")))
    looked = parsed("forget", f"{repo}@3", "--dry-run")
    assert numbers(repo) == [1, 2, 3, 4]
    done = parsed("forget", f"{repo}@3", "--yes")
    assert (done["snapshots"], done["packs"], done["dry_run"]) == ([3], looked["packs"], False)
    assert numbers(repo) == [1, 2, 4]
    assert len(list((repo / "packs").glob("*.pack"))) == packs - done["packs"]
    assert lamina.open(repo).verify(full=True).problems == []
    assert lamina.open(repo).forget(4).snapshots == [4]
    assert numbers(repo) == [1, 2]


def test_what_has_a_name_is_not_forgotten(repo: Path) -> None:
    lamina.open(repo).set_alias(1, "paper")
    assert 'has the alias "paper"' in refused(2, "forget", f"{repo}@1", "--yes")
    assert numbers(repo) == [1, 2, 3, 4]
    lamina.open(repo).remove_alias(1, "paper")
    assert parsed("forget", f"{repo}@1", "--yes")["snapshots"] == [1]


def test_nothing_is_forgotten_unasked(repo: Path) -> None:
    assert "no terminal to confirm on" in refused(2, "forget", f"{repo}@1")
    assert "say which snapshot" in refused(2, "forget", repo, "--yes")
    assert "no snapshot 'none'" in refused(3, "forget", f"{repo}@none", "--yes")
    assert numbers(repo) == [1, 2, 3, 4]


def test_what_is_being_uploaded_is_not_forgotten(repo: Path) -> None:
    from travel_writer import make_envelope

    snapshot = lamina.open(repo).snapshot(2)
    (repo / "journal").mkdir(exist_ok=True)
    (repo / "journal" / "a.json").write_bytes(make_envelope("journal", {"snapshots": [snapshot.id], "packs": []}))
    assert "is being uploaded" in refused(2, "forget", f"{repo}@2", "--yes")
    assert numbers(repo) == [1, 2, 3, 4]


# --- copy


def test_snapshots_are_copied_with_their_ids_and_names(repo: Path, tmp_path: Path) -> None:
    lamina.open(repo).set_alias(1, "paper")
    other = tmp_path / "other"
    done = parsed("copy", f"{repo}@best", other)
    best = lamina.open(repo).snapshot("best")
    assert [(one["id"], one["new"]) for one in done["snapshots"]] == [(best.id, True)]
    again = parsed("copy", repo, other)
    assert [one["new"] for one in again["snapshots"]] == [True, False, True, True]
    ids = {snapshot.id for snapshot in lamina.open(repo).snapshots()}
    assert {snapshot.id for snapshot in lamina.open(other).snapshots()} == ids
    assert lamina.open(other).snapshot("paper").id == lamina.open(repo).snapshot(1).id
    for snapshot in lamina.open(repo).snapshots():
        found = lamina.read_tensors(f"{other}@{snapshot.id}")
        for name, array in lamina.read_tensors(snapshot).items():
            np.testing.assert_array_equal(found[name], array)
    assert lamina.open(other).verify(full=True).problems == []
    assert sorted(path.name for path in other.iterdir() if path.name.startswith(".")) == [".gitignore"]
    assert parsed("copy", repo, other)["bytes"] == 0


def test_a_damaged_snapshot_is_not_copied(repo: Path, tmp_path: Path) -> None:
    pack = max((repo / "packs").glob("*.pack"), key=lambda path: path.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[20] ^= 1
    pack.write_bytes(data)
    refused(4, "copy", repo, tmp_path / "other")
    for snapshot in lamina.open(tmp_path / "other").snapshots():
        lamina.read_tensors(snapshot)  # what has arrived is whole


def test_a_copy_needs_a_repository(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "m.keras").write_bytes(b"x")
    assert "expected a repository" in refused(2, "copy", tmp_path / "m.keras", tmp_path / "other")
    assert "has no series" in refused(3, "copy", repo, tmp_path / "other", "--series", "none")
    assert not (tmp_path / "other").exists()


# --- diff


def test_weights_come_first_and_may_stand_alone(repo: Path) -> None:
    names = [line.split()[0] for line in lines("diff", f"{repo}@1", f"{repo}@2")[1:3]]
    assert names == ["layers/dense/vars/0", "optimizer/vars/0"]
    for sort in ("l2", "max", "bytes", "name"):
        found = parsed("diff", f"{repo}@1", f"{repo}@2", "--sort", sort)["tensors"]
        assert [one["name"] for one in found] == names
    alone = parsed("diff", f"{repo}@1", f"{repo}@2", "--weights")
    assert [one["name"] for one in alone["tensors"]] == names[:1]
    assert alone["counts"] == {"added": 0, "removed": 0, "changed": 1, "same": 0}
    assert json.dumps(alone)
