"""The installed package: it imports silently, and contains its types and its licences."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import lamina
from lamina.cache import cache_folder
from places import ROOT

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("name", ["lamina", "lamina.cli"])
def test_it_imports_without_a_warning(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import {name}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("line", ["import lamina.wandb", "lamina.export('wandb:a:latest', 'x')"])
def test_without_wandb_it_says_what_to_install(line: str) -> None:
    code = f"import sys; sys.modules['wandb'] = None; import lamina; {line}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: lamina.wandb needs wandb: pip install wandb"


def test_it_carries_its_types() -> None:
    folder = Path(lamina.__file__).parent
    assert (folder / "py.typed").exists()
    assert (folder / "_core.pyi").exists()


def test_the_licences_of_linked_crates() -> None:
    """Each licence is compatible with lamina, and the list matches Cargo.lock."""
    if shutil.which("cargo") is None:
        pytest.skip("cargo is not installed")
    command = [sys.executable, ROOT / "rust" / "third_party.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (ROOT / "THIRD-PARTY.md").read_text()


def test_the_licences_are_those_that_cargo_deny_allows() -> None:
    """`make check-crates` looks at all crates, `third_party.py` at those that are linked: by one list."""
    source = (ROOT / "rust" / "third_party.py").read_text()
    linked = re.search(r"^ALLOWED = (\(.*\))$", source, re.MULTILINE)
    checked = re.search(r"^allow = (\[.*\])$", (ROOT / "deny.toml").read_text(), re.MULTILINE)
    assert linked is not None
    assert checked is not None
    assert list(ast.literal_eval(linked[1])) == ast.literal_eval(checked[1])


@pytest.mark.skipif("LAMINA_WHEEL" not in os.environ, reason="make wheel installs one and tests it")
def test_the_wheel() -> None:
    """The tested lamina is the installed wheel, and the wheel is small."""
    assert not Path(lamina.__file__).is_relative_to(ROOT / "python")
    wheel = Path(os.environ["LAMINA_WHEEL"])
    assert wheel.stat().st_size < 6 << 20
    assert "-abi3-manylinux_2_28_" in wheel.name
    files = {str(path): path for path in metadata.files("lamina") or ()}
    assert {"lamina/py.typed", "lamina/_core.pyi", "lamina/_core.abi3.so"} <= set(files)
    licences = {path.rpartition("/")[2] for path in files if "dist-info/licenses/" in path}
    assert licences == {"LICENSE", "THIRD-PARTY.md"}
    assert not [path for path in files if path.startswith(("tests", "benches", "rust", "docs"))]


def test_downloads_go_to_the_cache_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LAMINA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / "lamina"
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_what_is_imported_is_declared() -> None:
    """Each package that lamina imports is declared in pyproject.toml, as a dependency or an extra."""
    project = (ROOT / "pyproject.toml").read_text().partition("[project]")[2].partition("[tool.")[0]
    declared = {name.lower() for name in re.findall(r'"([A-Za-z0-9_-]+)', project)}
    declared |= {"lamina", "pil", "tensorflow", "ml_dtypes"}  # packages whose modules have other names
    found = set()
    for path in Path(lamina.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).partition(".")[0])
    assert {name.lower() for name in found - sys.stdlib_module_names} - declared == {"_typeshed"}
