"""Every example in README.md and docs/ runs as a reader would copy it.

Each Python block runs alone: in a process of its own, in an empty folder, and without a W&B account. A block that is
titled "needs a W&B account" runs in the same way against a W&B server on this machine. Lines of shell that call
``lamina`` run in the folder that the Python block above them left. The cells of a notebook are one block. A block
that cannot run here says so in its title: it is only compiled.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import runpy
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from places import ROOT

NOT_RUN = "not run here: "
NEEDS_ACCOUNT = "needs a W&B account"
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w+)(?P<info>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$", re.S | re.M)
_TITLE = re.compile(r'^ title="([^"]+)"$')
_SECONDS = 120  # a block that hangs fails before the test does


@dataclass(frozen=True)
class Block:
    """A fenced block, or a notebook."""

    page: str
    line: int
    language: str
    title: str
    code: str

    @property
    def runs(self) -> bool:
        """Whether it can run here."""
        return not self.title.startswith(NOT_RUN)

    @property
    def where(self) -> str:
        """Page and line."""
        return f"{self.page}:{self.line}"


def blocks_of(path: Path) -> list[Block]:
    """The examples of a page, in order."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        return [Block(path.name, 1, "python", "", "\n".join(cells))]
    return [_block(path.name, text, found) for found in _FENCE.finditer(text)]


def _block(page: str, text: str, found: re.Match[str]) -> Block:
    info = found["info"]
    title = _TITLE.match(info)
    assert not info or title, f"{page}: a block is marked {info!r}; expected a title"
    indent = len(found["indent"])
    code = "".join(line[indent:] or "\n" for line in found["code"].splitlines(keepends=True))
    return Block(page, text.count("\n", 0, found.start()) + 1, found["language"], title[1] if title else "", code)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs").glob("*.ipynb"))]
# The command reference names repositories that do not exist here; the tests of the command run its examples.
EXAMPLES = {path.name: blocks_of(path) for path in PAGES if path.name != "cli.md"}


@pytest.mark.parametrize("page", [page for page, blocks in EXAMPLES.items() if blocks])
def test_examples_run(page: str, wandb_online: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if any(word in block.code for block in EXAMPLES[page] for word in ("lamina report", "log_report")):
        pytest.importorskip("plotly")
    for block in EXAMPLES[page]:
        if block.language == "python":
            compile(block.code, block.where, "exec")
            if block.runs:
                folder = tmp_path / f"line-{block.line}"
                folder.mkdir()
                monkeypatch.chdir(folder)
                _python(block, tmp_path)
        elif block.language == "bash":
            _shell(block)


def _python(block: Block, tmp_path: Path) -> None:
    """Run it in a child of a process that has imported the libraries and nothing else, so that it is quick."""
    script, output = tmp_path / f"line-{block.line}.py", tmp_path / f"line-{block.line}.txt"
    script.write_text(block.code, encoding="utf-8")
    environment = dict(os.environ) if block.title == NEEDS_ACCOUNT else _without_account()
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["keras", "wandb", "lamina.keras"])
    child = processes.Process(target=_run, args=(script, Path.cwd(), output, environment))
    child.start()
    child.join(_SECONDS)
    if child.is_alive():
        child.kill()
        child.join()
    assert child.exitcode == 0, f"{block.where} ended with {child.exitcode}\n{output.read_text(errors='replace')}"


def _without_account() -> dict[str, str]:
    """The environment of a user who never logged in; wandb's folders are those of the test."""
    account = ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_ENTITY", "WANDB_PROJECT")
    return {name: value for name, value in os.environ.items() if name not in account}


def _run(script: Path, folder: Path, output: Path, environment: Mapping[str, str]) -> None:
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    runpy.run_path(str(script), run_name="__main__")


def _shell(block: Block) -> None:
    """Run the lines that call lamina; check that the targets of ``make`` lines exist."""
    from typer.testing import CliRunner

    from lamina.cli import app

    for line in block.code.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M), f"{block.where}: {line}"
        if words[:1] != ["lamina"] or not block.runs:
            continue
        done = CliRunner().invoke(app, words[1:])
        assert done.exit_code == 0, f"{block.where}: {line}\n{done.output}\n{done.exception!r}"


def test_links_lead_somewhere() -> None:
    for path in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", path.read_text(encoding="utf-8")):
            if target.startswith(("http:", "https:")):
                continue
            page = path.parent / target if target else path
            assert page.exists(), f"{path.name} links to {target}"
            assert not anchor or anchor in _anchors(page), f"{path.name} links to {target}#{anchor}"


def _anchors(page: Path) -> set[str]:
    """The anchors of its headings, as the site and GitHub name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_the_tests_that_cover_the_callbacks_exist() -> None:
    page = (ROOT / "docs" / "callbacks-coverage.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)[`\[]", page))
    written = {
        name
        for path in (ROOT / "tests").glob("*/test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert len(named) > 100
    assert named - written == set()


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"[\w-]+\.(?:md|ipynb)", (ROOT / "mkdocs.yml").read_text())
    assert sorted(listed) == sorted(path.name for path in PAGES[1:])
