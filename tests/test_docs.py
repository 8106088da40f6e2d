"""Every example of README.md and docs/ runs, page by page, against a W&B server on this machine.

The Python blocks of a page run in order in one namespace, and in the same order its lines of shell that call
``lamina``. A block that cannot run here says so in its title: it is only compiled. Pages may use what `_given`
offers, as their readers are told.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import lamina

ROOT = Path(__file__).parents[1]
NOT_RUN = "not run here: "
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w+)(?P<info>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$", re.S | re.M)
_TITLE = re.compile(r'^ title="([^"]+)"$')


@dataclass(frozen=True)
class Block:
    """A fenced block, or a cell of a notebook."""

    page: str
    line: int
    language: str
    title: str
    code: str

    @property
    def runs(self) -> bool:
        """Whether it can run here."""
        return not self.title.startswith(NOT_RUN)


def blocks_of(path: Path) -> list[Block]:
    """The examples of a page, in order."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        return [
            Block(path.name, i, "python", "", "".join(cell["source"]))
            for i, cell in enumerate(cells)
            if cell["cell_type"] == "code"
        ]
    return [_block(path.name, text, found) for found in _FENCE.finditer(text)]


def _block(page: str, text: str, found: re.Match[str]) -> Block:
    info = found["info"]
    title = _TITLE.match(info)
    assert not info or title, f"{page}: a block is marked {info!r}; expected a title"
    indent = len(found["indent"])
    code = "".join(line[indent:] or "\n" for line in found["code"].splitlines(keepends=True))
    return Block(page, text.count("\n", 0, found.start()) + 1, found["language"], title[1] if title else "", code)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs").glob("*.ipynb"))]
# The reference of the command names repositories of nobody; tests/test_cli.py runs each command.
EXAMPLES = {path.name: blocks_of(path) for path in PAGES if path.name != "cli.md"}


@pytest.fixture
def given(wandb_online: Any) -> Iterator[dict[str, Any]]:
    """What the pages take for granted: a compiled model, how to build it again, and its data."""
    import keras

    keras.backend.clear_session()
    yield {"__name__": "__main__", **_given()}
    import wandb

    if wandb.run is not None:
        wandb.finish()


def _given() -> dict[str, Any]:
    import keras
    import numpy as np

    def build() -> Any:
        keras.utils.set_random_seed(1)
        layers = [keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        model.compile("adam", "mse", metrics=["mae"], jit_compile=False)  # compiling costs more than the training
        return model

    generator = np.random.default_rng(0)
    x, x_val = generator.random((64, 8), dtype="float32"), generator.random((16, 8), dtype="float32")
    names = {"x": x, "y": x.sum(1), "x_val": x_val, "y_val": x_val.sum(1)}
    return {"build": build, "model": build(), **names}


# Pages that speak of a repository which others have made.
READS = {"report.md": "runs/a"}


@pytest.mark.parametrize("page", [page for page, blocks in EXAMPLES.items() if blocks])
def test_examples_run(page: str, given: dict[str, Any]) -> None:
    if any(word in block.code for block in EXAMPLES[page] for word in ("lamina report", "log_report")):
        pytest.importorskip("plotly")
    if page in READS:
        lamina.save(given["model"], READS[page])
    for block in EXAMPLES[page]:
        if block.language == "python":
            code = compile("\n" * block.line + block.code, block.page, "exec")
            if block.runs:
                exec(code, given)
        elif block.language == "bash":
            _shell(block)


def _shell(block: Block) -> None:
    """Run the lines that call lamina; of the others, know the targets of make."""
    from typer.testing import CliRunner

    from lamina.cli import app

    for line in block.code.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M), f"{page_line(block)}: {line}"
        if words[:1] != ["lamina"] or not block.runs:
            continue
        done = CliRunner().invoke(app, words[1:])
        assert done.exit_code == 0, f"{page_line(block)}: {line}\n{done.output}\n{done.exception!r}"


def page_line(block: Block) -> str:
    """Where to look."""
    return f"{block.page}:{block.line}"


def test_links_lead_somewhere() -> None:
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:")):
                assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_tests_that_cover_the_callbacks_exist() -> None:
    page = (ROOT / "docs" / "callbacks-coverage.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)[`\[]", page))
    written = {
        name
        for path in (ROOT / "tests").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert len(named) > 100
    assert named - written == set()


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"[\w-]+\.(?:md|ipynb)", (ROOT / "mkdocs.yml").read_text())
    assert sorted(listed) == sorted(path.name for path in PAGES[1:])
