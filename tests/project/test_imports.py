"""No two files of lamina import each other, neither at the top, nor in a function, nor for types only."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from places import ROOT

PACKAGE = ROOT / "python" / "lamina"


def modules(package: Path) -> dict[str, Path]:
    """Dotted name → file."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: Mapping[str, Path], root: str) -> set[str]:
    """The modules of the package that a file imports anywhere; a name of the package itself counts as an import of it.

    The engine is compiled, and imports no file.
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in known or inner == f"{root}._core" else str(node.module))
    return names & known.keys()


def circles(package: Path) -> list[list[str]]:
    """Groups of files that import each other."""
    known = modules(package)
    edges = {name: imported(path, known, package.name) - {name} for name, path in known.items()}
    reach = {name: set(_reachable(name, edges)) for name in edges}
    groups = {frozenset(other for other in reach[name] if name in reach[other]) for name in edges}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def _reachable(start: str, edges: Mapping[str, set[str]]) -> Iterator[str]:
    seen, waiting = {start}, [start]
    while waiting:
        name = waiting.pop()
        yield name
        waiting += edges[name] - seen
        seen |= edges[name]


def test_no_two_files_need_each_other() -> None:
    assert len(modules(PACKAGE)) > 100
    assert circles(PACKAGE) == []


@pytest.mark.parametrize(
    "back",
    [
        "import p.low.a",
        "from p.low.a import x",
        "def f():\n    from p.low import a",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.low.a import x",
    ],
)
def test_any_kind_of_import_closes_a_circle(tmp_path: Path, back: str) -> None:
    (tmp_path / "p" / "low").mkdir(parents=True)
    for name, text in {"__init__": "", "low/__init__": "", "low/a": "from p import b", "b": back, "c": ""}.items():
        (tmp_path / "p" / f"{name}.py").write_text(text)
    assert circles(tmp_path / "p") == [["p.b", "p.low.a"]]
