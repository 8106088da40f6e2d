"""The data of reports: exact numbers for known histories, and the command's messages if data is missing."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_api import weights
from test_cli import flip, parsed, refused

import lamina
import lamina.writing
from engine_repositories import write_artifact
from lamina import report
from lamina.report import heat, movement
from lamina.report.data import NO_DISTANCE
from lamina.report.layer_names import layer_of
from lamina.repository import upload_times
from lamina.repository.tensor import TensorInfo
from report_history import BIG, known, save

NAN, INF, NONE = math.nan, math.inf, NO_DISTANCE
MOVED = {
    "layers/big/vars/0": [NONE, 0.5, 0, 0],
    "layers/small/vars/0": [NONE, 0, 0.125, 0],
    "layers/small/vars/1": [NONE, 0, 0, NONE],  # another shape
    "layers/zero/vars/0": [NONE, 0, INF, NAN],
    "optimizer/vars/0": [NONE, 0.5, 0, 0],
    "layers/new/vars/0": [NONE, NONE, NONE, NONE],
}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return known(tmp_path / "repo")


def gathered(source: Any, **options: Any) -> report.Report:
    return report.gather(report.history(source), **options)


# --- Numbers.


def test_distances_of_a_known_history(repo: Path) -> None:
    found = gathered(repo)
    assert [tensor.name for tensor in found.tensors] == list(MOVED)
    np.testing.assert_array_equal(found.moved, np.array(list(MOVED.values()), np.float32))


def test_what_shares_chunks_is_not_read(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def measured(before: Any, after: Any, pairs: Any, advance: Any) -> Any:
        read.append({name for name, _, _ in pairs})
        return lamina.compare.measured(before, after, pairs, advance)

    monkeypatch.setattr(movement, "measured", measured)
    gathered(repo)
    # Small tensors of a folder share a chunk, so the neighbour of a changed tensor is read, too.
    small = {"layers/small/vars/0", "layers/small/vars/1"}
    assert read == [
        {"layers/big/vars/0", "optimizer/vars/0"},
        small | {"layers/zero/vars/0"},
        {"layers/zero/vars/0", "layers/small/vars/0"},
    ]
    read.clear()
    without = gathered(repo, distances=False)
    assert read == []
    assert (without.moved == NONE).all()


def test_versions_say_what_was_recorded(repo: Path) -> None:
    found = gathered(repo)
    assert [(v.number, v.epoch, v.value, v.blocked_seconds) for v in found.versions] == [
        (1, 0, 4.0, 0.125),
        (2, 1, 2.0, 0.25),
        (3, 2, 3.0, 0.375),
        (4, 3, None, 0.5),
    ]
    snapshots = lamina.open(repo).snapshots()
    for version, snapshot in zip(found.versions, snapshots, strict=True):
        for name in ("id", "created_at", "bytes_total", "bytes_new", "bytes_stored", "aliases", "monitor", "mode"):
            assert getattr(version, name) == getattr(snapshot, name)
    assert found.best == 1
    assert found.versions[1].bytes_new >= 2 * 4 * BIG
    assert (found.source, found.series, found.run) == (repo.name, "run", None)


def test_costs_by_layer(repo: Path) -> None:
    layers = {layer.name: layer for layer in gathered(repo).layers}
    assert list(layers) == ["big", "optimizer", "small", "zero", "new", "(file headers)"]
    costs = {name: (x.bytes, x.bytes_total, x.bytes_distinct, x.bytes_stored) for name, x in layers.items()}
    state = 4 * BIG
    assert costs == {  # with codec raw, the stored bytes are the distinct bytes
        "big": (state, 4 * state, 2 * state, 2 * state),
        "optimizer": (state, 4 * state, 2 * state, 2 * state),
        "small": (16, 3 * 12 + 16, 12 + 12 + 16, 40),
        "zero": (8, 4 * 8, 3 * 8, 24),
        "new": (4, 4, 4, 4),
        "(file headers)": (100, 400, 100, 100),
    }
    assert (layers["big"].dedup, layers["big"].compression) == (2.0, 1.0)


def test_costs_add_up_where_chunks_are_encoded(tmp_path: Path) -> None:
    root = tmp_path / "repo"
    for seed in range(3):
        lamina.save(weights(tmp_path / "m.weights.h5", seed, constant=np.ones(300_000, "f4")), root)
    found = gathered(root)
    snapshots = lamina.open(root).snapshots()
    assert sum(layer.bytes_total for layer in found.layers) == sum(s.bytes_total for s in snapshots)
    distinct = sum(layer.bytes_distinct or 0 for layer in found.layers)
    stored = sum(layer.bytes_stored or 0 for layer in found.layers)
    packs = sum(path.stat().st_size for path in (root / "packs").iterdir())
    assert distinct <= sum(s.bytes_new for s in snapshots)  # bytes_new also counts structures and lists of chunks
    assert 0 < stored < packs < distinct
    constant = next(layer for layer in found.layers if layer.name == "model")
    assert constant.dedup == 3
    assert (constant.compression or 0) > 100


def test_a_chunk_that_stands_twice_in_a_version_counts_once(tmp_path: Path) -> None:
    repository = lamina.writing.as_repository(tmp_path / "repo")
    save(repository, {"a/x": np.ones(BIG), "b/x": np.ones(BIG)})
    layers = {layer.name: layer for layer in gathered(tmp_path / "repo").layers}
    assert (layers["a"].bytes_distinct, layers["b"].bytes_distinct) == (4 * BIG, 0)
    assert (layers["b"].dedup, layers["b"].compression) == (None, None)


def test_progress_comes_to_the_bytes_of_all_versions(repo: Path) -> None:
    for distances in (True, False):
        steps: list[int] = []
        history = report.history(repo)
        report.gather(history, distances=distances, advance=steps.append)
        assert sum(steps) == history.bytes
        assert min(steps) >= 0


@pytest.mark.parametrize(
    ("name", "file", "layer"),
    [
        ("layers/dense/vars/0", "m", "dense"),
        ("layers/outer/layers/inner/vars/0", "m", "outer/inner"),
        ("layers/drop/seed_generator/vars/0", "m", "drop/seed_generator"),
        ("optimizer/vars/12", "m", "optimizer"),
        ("dense/dense/kernel:0", "m", "dense/dense"),
        ("m:layers/dense/vars/0", "m", "m:dense"),
        ("vars/0", "m", "model"),
        ("kernel", "m", "model"),
        ("training/seeds", None, "training state"),
    ],
)
def test_layers_are_named_after_folders(name: str, file: str | None, layer: str) -> None:
    assert layer_of(name, TensorInfo(name, "<f4", (1,), "weights", file, 0)) == layer


# --- Sources.


def test_a_named_version_ends_the_history(repo: Path, tmp_path: Path) -> None:
    assert [v.number for v in gathered(f"{repo}@3").versions] == [1, 2, 3]
    assert [v.number for v in gathered(f"{repo}@run:best").versions] == [1, 2]
    assert [v.number for v in gathered(f"{repo}@run:").versions] == [1, 2, 3, 4]
    opened = lamina.open(repo)
    assert len(gathered(opened).versions) == 4
    assert len(gathered(opened.snapshot("2")).versions) == 2
    assert gathered(f"{repo}@1").best == 0  # the alias names a version that is not shown


def test_a_single_version_is_a_report(repo: Path, tmp_path: Path) -> None:
    artifact = write_artifact(lamina.open(repo).snapshot(), tmp_path / "artifact")
    for source in (artifact, f"{repo}@1"):
        found = gathered(source)
        assert len(found.versions) == 1
        assert (found.moved == NONE).all()
        assert found.notes[0].startswith("There is only one version")
        assert all(layer.bytes_stored is not None for layer in found.layers)


def test_a_bare_file_says_what_it_cannot_tell(tmp_path: Path) -> None:
    found = gathered(weights(tmp_path / "m.weights.h5", layers=2))
    (version,) = found.versions
    assert (version.id, version.created_at, version.bytes_new, version.blocked_seconds) == (None, None, None, None)
    assert [(layer.name, layer.bytes) for layer in found.layers][:2] == [("dense_0", 58_080), ("dense_1", 58_080)]
    assert found.layers[0].dedup is None
    assert found.notes == ["A plain file has no save time, no cost and no earlier version to compare with."]


def test_notes_tell_what_is_missing(repo: Path, tmp_path: Path) -> None:
    assert [note.split(":")[0] for note in gathered(repo).notes] == ["No upload time"]
    assert gathered(repo, distances=False).notes[0] == "Distances were not measured (--no-distances)."
    bare = tmp_path / "bare"
    for seed in range(2):
        lamina.save(weights(tmp_path / "m.weights.h5", seed), bare)
    starts = [note.split(":")[0] for note in gathered(bare).notes]
    assert starts == ["No version has a monitored value", "No blocked time", "No upload time"]


def test_upload_times_that_were_noted_are_known(repo: Path) -> None:
    first, second = lamina.open(repo).snapshots()[:2]
    upload_times.note(repo, first.id, 1.25)
    with (repo / "uploads.jsonl").open("a") as file:
        for line in ('{"snapshot": 3}', "not json", '{"snapshot": "x", "seconds": "inf"}', '{"snapshot": "x"', "[1]"):
            file.write(line + "\n")
    upload_times.note(repo, second.id, 2)
    assert upload_times.known(repo) == {first.id: 1.25, second.id: 2.0}
    found = gathered(repo)
    assert [version.upload_seconds for version in found.versions] == [1.25, 2.0, None, None]
    assert found.notes == []
    upload_times.note(repo / "gone", first.id, 1)  # a lost upload time is not an error


# --- The heat map's numbers.


def test_a_layer_moved_as_far_as_its_farthest_tensor(repo: Path) -> None:
    view = heat.by_layer(gathered(repo))
    assert view.names == ["big", "small", "zero", "optimizer", "new"]
    expected = [[NONE, 0.5, 0, 0], [NONE, 0, 0.125, 0], [NONE, 0, INF, NAN], [NONE, 0.5, 0, 0], [NONE] * 4]
    np.testing.assert_array_equal(view.values, np.array(expected, np.float32))
    titles = [(view.title, view.names) for view in heat.views(gathered(repo))]
    assert titles[1:] == [
        ("Weights", [n for n in MOVED if "opt" not in n]),
        ("Optimizer and others", ["optimizer/vars/0"]),
    ]


def test_distances_are_coded_in_16_bits() -> None:
    values = np.array([[NONE, 0, INF, NAN, 1, 0.001, 1e-38, 3e38]], np.float32)
    codes = heat.codes_of(values).tolist()[0]
    assert codes[:4] == [heat.NONE, heat.STILL, heat.INFINITE, heat.NOT_A_NUMBER]
    assert codes[4:6] == [0, -3000]
    assert heat.STILL < codes[6] < codes[7] < heat.NOT_A_NUMBER


def test_the_scale_fits_what_moved(repo: Path) -> None:
    scale = heat.scale_of(gathered(repo))
    assert scale.high == pytest.approx(math.log10(0.5))
    assert scale.high - scale.low == pytest.approx(1)  # at least a decade
    assert scale.still < scale.low
    assert heat.scale_of(gathered(f"{repo}@1")) == heat.Scale(-4, 0)
    assert [heat.percent(value) for value in (1, 0.0123, 1e-4, 1e-9)] == ["100 %", "1.23 %", "0.01 %", "1e-07 %"]


# --- The command.


def test_json_is_the_data(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = parsed("report", repo)
    assert not (tmp_path / "report.html").exists()
    assert (found["series"], found["best"], len(found["tensors"])) == ("run", 2, len(MOVED))
    moved = [version["moved"] for version in found["versions"]]
    assert moved[0] == dict.fromkeys(MOVED)
    assert moved[1] == {"layers/big/vars/0": 0.5, "optimizer/vars/0": 0.5, "layers/new/vars/0": None}
    assert moved[2]["layers/zero/vars/0"] == "inf"
    assert moved[3]["layers/zero/vars/0"] == "nan"
    assert found["layers"][0] == {
        "name": "big",
        "bytes": 4 * BIG,
        "bytes_total": 16 * BIG,
        "bytes_distinct": 8 * BIG,
        "bytes_stored": 8 * BIG,
        "dedup": 2.0,
        "compression": 1.0,
    }
    json.dumps(found, allow_nan=False)


def test_the_command_refuses_in_a_sentence(repo: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="no plotly here: pip install plotly")
    page, other = tmp_path / "r.html", tmp_path / "model.keras"
    other.write_bytes(b"weights")
    refused(3, "report", tmp_path / "none", "-o", page)
    refused(3, "report", f"{repo}@none", "-o", page)
    assert "does not exist" in refused(3, "report", repo, "-o", tmp_path / "gone" / "r.html")
    assert "exists and is not a lamina report" in refused(2, "report", repo, "-o", other)
    refused(2, "report", repo, "-o", tmp_path)
    assert other.read_bytes() == b"weights"
    refused(6, "report", repo, "-o", tmp_path / ("long" * 100))
    save(lamina.writing.as_repository(repo), {"a": [1.0]}, series="other")
    assert "run" in refused(2, "report", repo, "-o", page)
    assert not page.exists()
    assert len(parsed("report", repo, "--series", "run")["versions"]) == 4
    assert len(parsed("report", f"{repo}@other:")["versions"]) == 1
    assert not list(tmp_path.glob(".*"))


def test_damage_is_told_and_leaves_no_page(repo: Path, tmp_path: Path) -> None:
    pack = max((repo / "packs").iterdir(), key=lambda path: path.stat().st_size)
    flip(pack)
    refused(4, "report", repo, "--json")
    shutil.rmtree(repo / "packs")
    refused(4, "report", repo, "--json")
    (repo / "packs").mkdir()
    refused(4, "report", repo, "--json")
    (repo / "config.json").unlink()
    assert "it has no config.json" in refused(3, "report", repo, "--json")


def test_without_plotly_it_says_what_to_install(repo: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['plotly'] = None; from lamina.cli import main; main()"
    for more, expected in (([], 1), (["--json"], 0)):
        done = subprocess.run(
            [sys.executable, "-c", code, "report", str(repo), *more],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"COLUMNS": "200"},
            check=False,
        )
        assert done.returncode == expected, done.stderr
        if more:
            assert json.loads(done.stdout)["series"] == "run"
        else:
            assert done.stderr == "lamina: a report needs the package plotly: pip install plotly\n"
    assert not (tmp_path / "report.html").exists()
