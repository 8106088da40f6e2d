"""The report page in a real browser: it draws without errors and answers mouse and keyboard."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cli import ok

import chromium
import lamina
import lamina.writing
from peak_memory import PEAK
from report_history import known, moving, save, thousand

pytest.importorskip("plotly", reason="no plotly here: pip install plotly")
needs_browser = pytest.mark.skipif(
    chromium.executable() is None, reason=f"no browser here: none of {', '.join(chromium.NAMES)} is installed"
)

#: Limits for the page of 1,000 versions × 1,000 tensors; about four times the values on two busy cores.
SECONDS_TO_DRAW, SECONDS_TO_SLIDE, MEGABYTES = 20, 2, 700


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    with chromium.browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def drawn(source: Path | str, target: Path) -> str:
    ok("report", source, "-o", target)
    return target.as_uri()


def check_quiet(page: chromium.Page) -> None:
    """No console messages and no network requests."""
    assert page.console == []
    assert {url.split(":")[0] for url in page.requests} <= {"file", "data", "blob"}


def text(page: chromium.Page, selector: str) -> str:
    return str(page.eval(f"document.querySelector({selector!r}).textContent"))


def place(page: chromium.Page, row: float, column: float) -> tuple[float, float]:
    """Window coordinates of the middle of a heat map cell."""
    page.eval("document.getElementById('movement').scrollIntoView({block: 'end'})")
    x, y = page.eval(
        "(() => { const plot = document.getElementById('movement'), box = plot.getBoundingClientRect();"
        "const { xaxis, yaxis } = plot._fullLayout;"
        f"return [box.left + xaxis._offset + xaxis.l2p({column}), box.top + yaxis._offset + yaxis.l2p({row})]; }})()"
    )
    return x, y


@needs_browser
def test_it_draws_and_answers(page: chromium.Page, tmp_path: Path) -> None:
    page.open(drawn(known(tmp_path / "repo"), tmp_path / "r.html"))
    assert text(page, "h1") == "run"
    assert "★ 2best val_loss, in version 2" in text(page, "#tiles")
    assert page.eval(
        "[...document.querySelectorAll('.chart')].filter((c) => c.querySelector('svg')).map((c) => c.id)"
    ) == [
        *("timeline", "movement", "size", "dedup", "compression"),
    ]
    # The slider starts at the best version. Keys and buttons move it, and the lines in both charts.
    assert text(page, "#chosen") == "version 2"
    page.eval("document.getElementById('slider').focus()")
    page.key("ArrowRight")
    page.wait_for("document.getElementById('chosen').textContent === 'version 3'")
    assert "3 of 5 tensors moved" not in text(page, "#moved")
    assert text(page, "#moved").startswith("2 of 5 tensors moved since version 2; the most:layers/zero/vars/0")
    assert [page.eval(f"document.getElementById('{id}').layout.shapes[0].x0") for id in ("timeline", "movement")] == [
        2,
        2,
    ]
    page.eval("document.getElementById('back').click(); document.getElementById('back').click()")
    assert text(page, "#chosen") == "version 1"
    assert page.eval("document.getElementById('back').disabled")
    # The heat map shows the full name of the cell under the mouse; a click selects its version.
    x, y = place(page, 1, 2)
    page.hover(x, y, "!document.getElementById('tip').hidden")
    assert text(page, "#tip") == "small\nversion 2 → 3: moved by 12.5 %"
    page.mouse("mousePressed", x, y)
    page.mouse("mouseReleased", x, y)
    page.wait_for("document.getElementById('chosen').textContent === 'version 3'")
    page.eval("[...document.querySelectorAll('#views button')].find((b) => b.textContent === 'Weights').click()")
    page.wait_for("document.getElementById('movement').data[0].y.length === 5")
    for row, column, said in ((3, 3, "not a number"), (3, 2, "all zeros"), (2, 1, "did not move")):
        page.hover(*place(page, row, column), f"document.getElementById('tip').textContent.includes({said!r})")
    check_quiet(page)


@needs_browser
def test_the_timeline_tells_a_version_under_the_mouse(page: chromium.Page, tmp_path: Path) -> None:
    page.open(drawn(known(tmp_path / "repo"), tmp_path / "r.html"))
    x, y = page.eval(
        "(() => { const plot = document.getElementById('timeline'), box = plot.getBoundingClientRect();"
        "const { xaxis, yaxis } = plot._fullLayout; plot.scrollIntoView({block: 'end'});"
        "const at = plot.getBoundingClientRect();"
        "return [at.left + xaxis._offset + xaxis.l2p(1), at.top + yaxis._offset + yaxis.l2p(2)]; })()"
    )
    page.hover(x, y, "document.querySelector('#timeline .hoverlayer').textContent.includes('blocked : 250ms')")
    shown = text(page, "#timeline .hoverlayer")
    for part in ("version 2", "val_loss : 2", "total : 131kB", "new : 131kB"):
        assert part in shown
    check_quiet(page)


@needs_browser
def test_light_and_dark_and_narrow(page: chromium.Page, tmp_path: Path) -> None:
    page.open(drawn(known(tmp_path / "repo"), tmp_path / "r.html"), width=380, dark=True)
    colours = (
        "[document.documentElement.dataset.theme, getComputedStyle(document.body).backgroundColor,"
        " document.getElementById('timeline').layout.paper_bgcolor]"
    )
    light, dark = ["light", "rgb(245, 246, 248)", "#ffffff"], ["dark", "rgb(14, 18, 23)", "#171c23"]
    assert page.eval(colours) == dark
    assert page.eval("document.documentElement.scrollWidth") == 380  # no horizontal scrolling
    page.scheme(dark=False)
    page.wait_for("document.getElementById('movement').layout.paper_bgcolor === '#ffffff'")
    assert page.eval(colours) == light
    page.eval("document.getElementById('theme').click()")
    page.wait_for("document.getElementById('movement').layout.paper_bgcolor === '#171c23'")
    assert page.eval(colours) == dark
    check_quiet(page)


@needs_browser
def test_what_is_missing_leaves_no_empty_chart(page: chromium.Page, tmp_path: Path) -> None:
    repo = known(tmp_path / "repo")
    shown = "[...document.querySelectorAll('.chart')].filter((c) => c.offsetParent).map((c) => c.id).join(' ')"
    page.open(drawn(f"{repo}@1", tmp_path / "one.html"))
    assert page.eval(shown) == "size compression"
    assert text(page, "#notes li") == "There is only one version, so nothing has changed yet."
    lamina.export(f"{repo}@1", tmp_path / "out")
    (tmp_path / "out" / "m.weights.h5").rename(tmp_path / "out" / "a.bin")
    page.open(drawn(tmp_path / "out" / "a.bin", tmp_path / "file.html"))
    assert page.eval(shown) == "size"
    ok("report", repo, "--no-distances", "-o", tmp_path / "quick.html")
    page.open((tmp_path / "quick.html").as_uri())
    assert page.eval(shown) == "timeline size dedup compression"
    check_quiet(page)


HOSTILE = (
    "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>\"&amp;'`${window.broken = 3}`"
)


@needs_browser
def test_hostile_names_are_text(page: chromium.Page, tmp_path: Path) -> None:
    repository = lamina.writing.as_repository(tmp_path / "repo")
    name = f"{HOSTILE}<b>é漢\u202e%{{y}} $title".replace("/", "|")
    for number in range(3):
        fields = {"epoch": number, "monitor": HOSTILE, "mode": "min", "value": 1.0 - number / 4, "best": True}
        save(repository, {f"{name}/x": [1.0 + number], "<b>a<br>&lt;/x": [2.0]}, series=HOSTILE, run=HOSTILE, **fields)
    repository.set_alias("2", "<i>mine")
    page.open(drawn(tmp_path / "repo", tmp_path / "r.html"))
    assert text(page, "h1") == text(page, "title") == HOSTILE
    assert name in text(page, "#moved")
    assert HOSTILE in text(page, "#facts")
    page.eval("document.getElementById('listing').open = true")
    page.wait_for("document.querySelectorAll('#table tr').length === 4")
    assert "<i>mine" in text(page, "#table")
    for chart in ("movement", "size", "dedup"):
        labels = page.eval(f"[...document.querySelectorAll('#{chart} .ytick text')].map((tick) => tick.textContent)")
        assert labels[0].startswith("<|script><script>"), labels
        assert labels[1] == "<b>a<br>&lt;"
    page.hover(*place(page, 0, 1), "!document.getElementById('tip').hidden")
    assert name in text(page, "#tip")
    assert page.eval("[typeof window.broken, document.images.length]") == ["undefined", 0]
    assert page.eval("document.querySelectorAll('a, b:not(.tile b), i:not(.legend i):not(#moved i)').length") == 0
    check_quiet(page)


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """1,000 versions of 1,000 tensors; on tmpfs if it fits, because each save waits for the disk."""
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path_factory.mktemp("big")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield thousand(Path(folder) / "repo")


def test_a_thousand_versions_of_a_thousand_tensors(big: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    target = tmp_path / "r.html"
    code = f"{PEAK}\nimport lamina.cli\ntry: lamina.cli.main()\nfinally: print(peak())\n"
    command = [sys.executable, "-c", code, "report", str(big), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "1000 versions, 1000 tensors" in done.stdout
    assert int(done.stdout.split()[-1]) < MEGABYTES
    assert target.stat().st_size < 4 << 20
    if chromium.executable() is None:
        pytest.skip("the page was not opened: no browser is installed")
    page: chromium.Page = request.getfixturevalue("page")
    assert page.open(target.as_uri()) < SECONDS_TO_DRAW
    moved = "document.getElementById('movement').data[0].z.map((row) => row.reduce((n, z) => n + (z > -1), 0))"
    page.eval("[...document.querySelectorAll('#views button')].find((b) => b.textContent === 'Weights').click()")
    page.wait_for("document.getElementById('movement').data[0].y.length === 1000")
    counts = page.eval(moved)
    expected = [0] * 1000
    for version in range(1000):
        for tensor in moving(version, 1000):
            expected[tensor] += 1
    assert counts == expected
    slide = (
        "(() => { const slider = document.getElementById('slider'); const begin = performance.now();"
        " slider.value = 499; slider.dispatchEvent(new Event('input'));"
        " return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame("
        "() => done(performance.now() - begin)))); })()"
    )
    assert page.eval(slide) < 1000 * SECONDS_TO_SLIDE
    assert text(page, "#chosen") == "version 500"
    assert text(page, "#moved").startswith("10 of 1000 tensors moved since version 499")
    check_quiet(page)
