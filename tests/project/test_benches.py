"""The benchmark harness: a wrong result has no time, a missing peer is named, contenders take turns."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lamina
from places import ROOT

sys.path.insert(0, str(ROOT))

from benches import __main__ as command
from benches import chart, commit, delta, histories, peers, scale, state, stored
from benches.corpora import Corpora, change
from benches.measure import Bench, Contender, Row, Table, demand, race, times


def test_contenders_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    lined_up = [Contender(name, lambda _, name=name: order.append(name), lambda _: None) for name in "abc"]
    outcomes = race(lined_up, repeats=2)
    assert "".join(order) == "abcbcacab"
    assert all(len(outcome.seconds) == 2 for outcome in outcomes.values())


def test_a_wrong_result_has_no_time() -> None:
    rounds = iter(range(9))
    right = Contender("right", lambda _: 1, lambda got: demand(got == 1, "not 1"))
    late = Contender("late", lambda _: next(rounds), lambda got: demand(got < 2, f"got {got}"))
    dies = Contender("dies", lambda _: 1 / 0, lambda _: None)
    table = times("title", "note", race([right, late, dies], 3), 10, {"right": "right"})
    assert {row.name: row.failure for row in table.rows} == {
        "right": "",
        "late": "WrongResultError: got 2",
        "dies": "ZeroDivisionError: division by zero",
    }
    shown = table.show()
    assert shown.count("FAIL") == 2 * (len(table.formats) + 1)
    assert "FAIL late: WrongResultError: got 2" in shown
    json.dumps(table.as_json(), allow_nan=False)


def test_changing_a_part(tmp_path: Path) -> None:
    corpora = Corpora(tmp_path, 80 << 20)  # 20 large tensors
    corpus = corpora.get("dense")
    moving = corpora.copy(corpus, tmp_path / "moving")
    change(moving, 0.05, seed=1)
    before, after = (lamina.read_tensors(c.path) for c in (corpus, moving))
    changed = sum(after[name].nbytes for name in after if not np.array_equal(before[name], after[name]))
    assert 0.045 < changed / sum(a.nbytes for a in after.values()) < 0.11


@pytest.mark.parametrize("name", ["dense", "bfloat16", "float16"])
def test_corpora_hold_what_they_are_called(name: str, tmp_path: Path) -> None:
    tensors = Corpora(tmp_path, 8 << 20).get(name).tensors()
    assert {t.dtype for t in tensors} == {{"dense": "<f4", "bfloat16": "bfloat16", "float16": "<f2"}[name]}


def test_every_group_on_a_file_of_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, disk, found = Corpora(tmp_path, 8 << 20).get("dense").path, tmp_path / "disk", tmp_path / "found.json"
    disk.mkdir()
    names = ["save"]
    if os.environ.get("LAMINA_ALL"):  # a minute more
        names += ["codec", "verify", "restore", "bytes", "md5"]
    arguments = [*names, "--quick", "--repeats", "1", "--file", str(own), "--folder", str(disk), "--json", str(found)]
    before = own.read_bytes()
    assert command.main(arguments) == 0
    assert "FAIL" not in capsys.readouterr().out
    tables = json.loads(found.read_text())["tables"]
    assert {table["title"].split(" ")[0] for table in tables} == set(names)
    assert own.read_bytes() == before
    assert list(disk.iterdir()) == []


def test_every_group_is_there() -> None:
    assert 0 < len(command.DEFAULT) < len(command.GROUPS)
    for module, _ in command.GROUPS.values():
        assert callable(importlib.import_module(module).run)


def test_a_codec_that_loses_a_bit_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def lossy(dtype: str, choice: str) -> peers.CodecPeer:
        return peers.CodecPeer("lossy", bytes, lambda data, _: bytes([data[0] ^ 1]) + data[1:], ours=True)

    monkeypatch.setattr(peers, "lamina", lossy)
    monkeypatch.setattr(peers, "CODECS", {"zstandard": peers.zstd})
    assert command.main(["codec", "--quick", "--repeats", "1", "--size", "4MiB", "--folder", str(tmp_path)]) == 1


def test_a_version_that_comes_back_wrong_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    digests = iter(range(1_000_000))
    monkeypatch.setattr(stored, "digest", lambda _: str(next(digests)))
    assert command.main(["bytes", "--quick", "--size", "4MiB", "--folder", str(tmp_path)]) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="it asks Linux")
def test_ways_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["writes", "--quick", "--repeats", "1", "--folder", str(tmp_path)]) == 0
    lines = {line.split("  ")[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert float(lines["buffered"][-1]) > 0
    assert "FAIL" not in lines["DONTNEED after the flush"]  # not every file system has O_DIRECT


def test_touched_rows_become_deltas(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(histories, "ROWS", 20_000)
    planes, auto, _ = delta._table("embedding", histories.embedding(3), tmp_path).rows
    assert planes.values["/ planes"] == 1
    assert auto.values["/ planes"] < 0.05
    assert auto.values["reads / planes"] < 1.5


def test_a_delta_that_comes_back_wrong_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(histories, "ROWS", 1000)
    monkeypatch.setattr(delta, "same", lambda path, data: False)
    assert all("not what was saved" in row.failure for row in delta._table("", histories.embedding(2), tmp_path).rows)


def small_bench(folder: Path) -> Bench:
    return Bench(Corpora(folder, 1 << 16), folder, 1, True, {})


@pytest.mark.skipif(sys.platform != "linux", reason="it asks Linux")
def test_what_a_late_version_costs(tmp_path: Path) -> None:
    table = scale._versions("scale", [4096] * 100, 16, lamina.Keep(last=3), small_bench(tmp_path))
    assert [row.name for row in table.rows] == ["the 10th", "the 16th", "the 16th / the 10th"]
    late, ratio = table.rows[1].values, table.rows[2].values
    assert 16.384 <= late["new kB"] <= 22  # one tensor, and the list of all of them
    assert 1 <= late["packs / live"] <= 1.7
    assert 1 <= late["packs"] <= 16
    assert late["reads"] >= 100
    assert ratio["new kB"] == pytest.approx(1, abs=0.1)
    assert not (tmp_path / "versions").exists()


def test_a_version_of_many_that_comes_back_wrong_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(state.State, "digest", lambda self: "another")
    (row,) = scale._versions("scale", [64] * 4, 16, None, small_bench(tmp_path)).rows
    assert "version 1 is not what was saved" in row.failure
    assert row.ours


def test_a_large_state(tmp_path: Path) -> None:
    found = scale.measure_large(8 << 20, "raw", tmp_path / "large")
    assert 1 < found["disk / state"] < 1.2  # the second save adds a tenth
    assert found["MB/s"] > 0


def test_a_commit_that_comes_back_wrong_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(commit, "WIDTH", 64)
    monkeypatch.setattr(commit, "_stock", lambda *_: [])
    read = lamina.read_tensors
    (tmp_path / "right").mkdir()
    right = commit._table("commit", 1.0, {}, tmp_path / "right", small_bench(tmp_path))
    assert not any(row.failure for row in right.rows if row.ours)

    def changed(source: Any) -> Any:
        found = read(source)
        found["layers/dense/vars/1"][...] = 7
        return found

    monkeypatch.setattr(lamina, "read_tensors", changed)
    (tmp_path / "wrong").mkdir()
    wrong = commit._table("commit", 1.0, {}, tmp_path / "wrong", small_bench(tmp_path))
    assert all("layers/dense/vars/1 differs" in row.failure for row in wrong.rows if row.ours)
    assert sum(row.ours for row in wrong.rows) == len(commit.CODECS)


def test_libraries_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hf_xet", "safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    missing: dict[str, str] = {}
    assert list(peers.xet(missing)) == []
    assert peers.safetensors(missing) is None
    assert missing.keys() == {"peer hf-xet", "peer safetensors"}


def test_a_missing_peer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    missing: dict[str, str] = {}
    assert "zstd 3" not in [peer.name for peer in peers.codecs("<f4", missing)]
    assert "pip install zstandard" in missing["peer zstandard"]


@pytest.mark.parametrize("text", ["much", "5XB", "-1GB", ""])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(SystemExit):
        command.main(["codec", "--size", text])


def test_sizes() -> None:
    assert [command.size(t) for t in ("0.5GB", "32 MiB", "7")] == [500_000_000, 32 << 20, 7]


def test_the_chart_shows_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="the chart needs plotly")
    table = Table(
        "<save>",
        "note",
        {"GB/s": "{}", "/ copy": "{}", "packs / live": "{}", "stock's time /": "{}"},
        [
            Row("ours", {"GB/s": 7.5, "/ copy": 1.25, "packs / live": 1.5, "stock's time /": 6.5}, ours=True),
            Row("theirs", {}, "broke"),
        ],
    )
    chart.write(tmp_path / "c.html", {"cores": "2"}, [table])
    page = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "&lt;save&gt;" in page
    for drawn in (1.25, 1.5, 6.5):
        assert f"[{drawn}]" in page
    assert "[7.5]" not in page  # a speed is not a ratio
    assert '["ours"]' in page
    assert "http://" not in page.split("</script>", 1)[1]
