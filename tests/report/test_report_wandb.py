"""The charts of a report in a W&B run, by the real client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

import lamina.wandb
from lamina import report
from lamina.errors import ArtifactError
from lamina.wandb.upload.publisher import publisher_of
from recorded_run import OfflineRecorder
from report_history import known
from wandb_server import Server

pytestmark = pytest.mark.wandb

pytest.importorskip("plotly", reason="no plotly here: pip install plotly")
CHARTS = ["timeline", "movement", "size", "dedup", "compression", "page"]


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[OfflineRecorder]:
    found = OfflineRecorder(tmp_path)
    found.start()
    yield found
    wandb.finish()


def test_upload_times_are_in_the_report(wandb_online: Server) -> None:
    repo = known(Path("repo").absolute())
    first, second, *_ = lamina.open(repo).snapshots()
    with wandb.init() as run:
        for snapshot in (first, second):
            lamina.wandb.log_checkpoint(snapshot).wait()
        assert publisher_of(run).settle(30)
        gathered = report.gather(report.history(repo))
        lamina.wandb.log_report(repo)
    times = [version.upload_seconds for version in gathered.versions]
    assert [time is not None and 0 < time < 30 for time in times] == [True, True, False, False]
    assert gathered.notes == []
    row = next(row for row in wandb_online.store.history(run.id) if "report/timeline" in row)
    timeline = json.loads(wandb_online.store.run_file(run.id, row["report/timeline"]["path"]))
    assert next(trace["y"] for trace in timeline["data"] if trace["name"] == "upload") == times
    assert wandb_online.errors == []


def test_the_charts_are_a_row_of_the_history(recorder: OfflineRecorder, tmp_path: Path) -> None:
    repo = known(tmp_path / "repo")
    recorder.run.log({"loss": 1.0})
    lamina.wandb.log_report(repo)
    recorder.run.log({"loss": 0.5})
    arrived = recorder.finish()
    assert [sorted(set(row) & {"loss", "report/page"}) for row in arrived.history] == [
        ["loss"],
        ["report/page"],
        ["loss"],
    ]
    row = arrived.history[1]
    assert {name for name in row if name.startswith("report/")} == {f"report/{name}" for name in CHARTS}
    files = {name: arrived.file(row[f"report/{name}"]["path"]).decode() for name in CHARTS}
    assert {row[f"report/{name}"]["_type"] for name in CHARTS} == {"plotly-file", "html-file"}
    timeline = json.loads(files["timeline"])
    values = {trace["name"]: trace["y"] for trace in timeline["data"]}
    assert values["val_loss"] == [4.0, 2.0, 3.0, None]
    assert values["best"] == [None, 2.0, None, None]
    assert values["blocked"] == [0.125, 0.25, 0.375, 0.5]
    heat = json.loads(files["movement"])["data"][0]
    assert heat["y"] == ["big", "small", "zero", "optimizer", "new"]
    assert [row[0] for row in heat["z"]] == [None] * 5
    assert heat["text"][1] == ["no distance", "did not move", "moved by 12.5 %", "did not move"]
    assert heat["text"][2][2:] == ["moved from all zeros", "not a number"]
    assert json.loads(files["size"])["data"][0]["x"][0] == 65_536
    assert files["page"].startswith("<!doctype html>")
    assert files["page"].rstrip().endswith("</html>")


def test_a_run_that_is_passed_and_one_version(recorder: OfflineRecorder, tmp_path: Path) -> None:
    lamina.wandb.log_report(f"{known(tmp_path / 'repo')}@1", recorder.run, distances=False)
    (row,) = recorder.finish().history
    assert {name for name in row if name.startswith("report/")} == {
        *("report/timeline", "report/size", "report/compression", "report/page")
    }


def test_without_a_run_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb, "run", None)
    with pytest.raises(ArtifactError, match=r"call wandb.init\(\) first"):
        lamina.wandb.log_report(tmp_path)


def test_a_disabled_run_reads_nothing(tmp_path: Path) -> None:
    run: Any = wandb.init(mode="disabled", dir=tmp_path)
    lamina.wandb.log_report(tmp_path / "none", run)
    run.finish()


def test_what_the_run_refuses_is_an_artifact_error(tmp_path: Path) -> None:
    class Full:
        disabled = False

        def log(self, values: Any) -> None:
            raise wandb.Error("the run is over")

    with pytest.raises(ArtifactError, match="upload of the report failed: the run is over"):
        lamina.wandb.log_report(known(tmp_path / "repo"), Full())
