"""Nothing that is written or sent contains a key, an environment value or a path of the user's machine."""

from __future__ import annotations

import base64
import gzip
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.wandb

KEY = "5ec2e7" + "0badcafe" * 4 + "00"
MARK = "xyzzy-private-value"

TRAIN = """
import os, sys, logging, numpy as np, keras, wandb, lamina
logging.basicConfig(level=logging.INFO)
logging.getLogger("lamina").setLevel(logging.DEBUG)
import lamina.cli, lamina.wandb
from lamina.keras import WandbModelCheckpoint
from lamina.report import gather, history
from lamina.report.page import page
os.mkdir("reports")
model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
model.compile("adam", "mse")
x, y = np.zeros((8, 4), "float32"), np.zeros((8, 3), "float32")
with wandb.init(project="p", settings=wandb.Settings(save_code=False, console="off", x_disable_meta=True)) as run:
    model.fit(x, y, epochs=2, verbose=0, callbacks=[
        WandbModelCheckpoint("ck/m-{epoch}.weights.h5", "loss", save_weights_only=True, layout="packs"),
    ])
    lamina.wandb.log_report(os.path.abspath("ck/.lamina"), run)
lamina.save(model, "repo")
lamina.export("repo@latest", "out")
for number, source in enumerate([os.path.abspath("repo"), os.path.abspath("repo") + "@1", "out"]):
    lamina.cli.app(["report", source, "-o", f"reports/{number}.html"], standalone_mode=False)
with open("reports/opened.html", "w") as file:
    file.write(page(gather(history(lamina.open(os.path.abspath("repo"))))))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A real offline run with a recognisable key, environment and home; returns what it printed."""
    home = tmp_path_factory.mktemp("home-of-somebody")
    folder = home / "project"
    folder.mkdir()
    env = os.environ | {"HOME": str(home), "WANDB_MODE": "offline", "WANDB_API_KEY": KEY, "MY_TOKEN": MARK}
    script = f"import os; os.umask(0o027)\n{TRAIN}"
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder, done.stdout + done.stderr


def _ours(folder: Path) -> list[Path]:
    """All files of lamina: the repository, its exports, and the pending uploads in the run's folder."""
    runs = list((folder / "wandb").glob("offline-run-*/lamina"))
    assert runs
    return [path for root in (folder / "repo", folder / "out", *runs) for path in root.rglob("*")]


def test_nothing_private_is_written(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    private = [KEY, MARK, folder.parent.name, str(folder)]
    files = [path for path in _ours(folder) if path.is_file()]
    assert len(files) > 8
    for path in files:
        data = path.read_bytes()
        assert [word for word in private if word.encode() in data] == [], path
    assert KEY not in printed
    assert MARK not in printed


def _unpacked(text: str) -> str:
    """The text of a file; the data of a report page is unpacked."""
    packed = re.findall(r"[A-Za-z0-9+/]{100,}={0,2}", text)
    return text + "".join(gzip.decompress(base64.b64decode(data)).decode() for data in packed if data[:4] == "H4sI")


def test_no_report_names_a_folder(trained: tuple[Path, str]) -> None:
    """Pages are shared with others, and sent to W&B."""
    folder, _ = trained
    pages = [*folder.glob("reports/*.html"), *folder.glob("wandb/offline-run-*/files/media/**/*.html")]
    charts = list(folder.glob("wandb/offline-run-*/files/media/**/*.json"))
    assert len(pages) == 5
    assert charts
    for path in [*pages, *charts]:
        text = _unpacked(path.read_text())
        assert path.suffix == ".json" or "versions" in text
        assert [word for word in (KEY, MARK, folder.parent.name, str(folder)) if word in text] == [], path


def test_the_run_file_holds_no_key_and_no_environment(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    (run,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    data = run.read_bytes()
    assert KEY.encode() not in data
    assert MARK.encode() not in data


@pytest.mark.skipif(os.name != "posix", reason="modes")
def test_modes_are_as_umask_says(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    for path in _ours(folder):
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode & 0o027 == 0, f"{path} {mode:o}"
        assert mode & 0o440 == 0o440, f"{path} {mode:o}: the group may read"


@pytest.mark.skipif(os.name != "posix", reason="modes")
def test_what_is_not_ours_is_left(tmp_path: Path) -> None:
    """Files of others that look like lamina's temporary files, also in lamina's folders, are not removed."""
    from engine_repositories import File, Saved, save_memory
    from lamina.repository import repository

    target = repository.open_or_create(tmp_path / "repo")
    root = target.path
    for name in ("packs/.mine.tmp", "snapshots/.x.tmp", "sessions/notes", "sessions/team/readme", "quarantine/x", "a"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
    (tmp_path / "outside").write_bytes(b"outside")
    (root / "sessions/link").symlink_to(tmp_path)
    save_memory(target, Saved([File("f", tail=b"f")], fields={"series": "s"}))
    target.prune()
    target.repair()
    for name in ("packs/.mine.tmp", "snapshots/.x.tmp", "sessions/notes", "sessions/team/readme", "quarantine/x", "a"):
        assert (root / name).read_bytes() == b"mine", name
    assert (tmp_path / "outside").read_bytes() == b"outside"
