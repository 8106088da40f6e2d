"""THIRD-PARTY.md, made from what Cargo says: ``python rust/third_party.py > THIRD-PARTY.md``.

It lists every crate that is linked into the extension on any platform, with the licence under which lamina uses it.
It fails if a crate offers none of the licences in ALLOWED.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: The licences of crates that lamina may be linked with, the preferred one first. The first is lamina's own.
ALLOWED = ("Apache-2.0", "MIT", "BSD-3-Clause", "BSD-2-Clause", "Zlib", "Unicode-3.0")
_TEXT = re.compile(r"LICEN[CS]E(?:\.md|\.txt|[-.](\w+).*)?")

_HEAD = """# Third-party software

<!-- Made by `python rust/third_party.py > THIRD-PARTY.md`; a test compares the two. -->

The engine of lamina, `lamina._core`, is linked with these crates and with Rust's standard library (Apache-2.0). Where a
crate offers several licences, lamina uses it under the one named here. The text of Apache-2.0 stands in `LICENSE`, the
others stand below.

| crate | version | licence |
|---|---|---|
"""


def crates() -> list[dict[str, Any]]:
    """The packages that are linked, sorted by name."""
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--offline"]
    found = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    packages = {package["id"]: package for package in found["packages"]}
    needs = {node["id"]: node["deps"] for node in found["resolve"]["nodes"]}
    left = [package["id"] for package in found["packages"] if package["name"] == "lamina-py"]
    seen: set[str] = set()
    while left:
        name = left.pop()
        if name not in seen and not _runs_in_the_compiler(packages[name]):
            seen.add(name)
            left += [need["pkg"] for need in needs[name] if any(kind["kind"] is None for kind in need["dep_kinds"])]
    linked = [packages[name] for name in seen if packages[name]["source"] is not None]
    return sorted(linked, key=lambda package: (package["name"], package["version"]))


def _runs_in_the_compiler(package: dict[str, Any]) -> bool:
    return any("proc-macro" in target["kind"] for target in package["targets"])


def licences(package: dict[str, Any]) -> list[str]:
    """The licences under which a crate is used: one, or several that all apply (``AND``)."""
    return [_chosen(package, part.strip(" ()")) for part in (package["license"] or "").split(" AND ")]


def _chosen(package: dict[str, Any], offered: str) -> str:
    for name in ALLOWED:
        if name in re.split(r" OR |/", offered):
            return name
    raise SystemExit(f"{package['name']} {package['version']} is under {package['license']!r}: not one of {ALLOWED}")


def texts(package: dict[str, Any]) -> dict[str, str]:
    """Path → text of the licence files of a crate, and of a C library in it. Without the text of Apache-2.0."""
    folder = Path(package["manifest_path"]).parent
    wanted = {name.partition("-")[0].upper() for name in licences(package) if name != ALLOWED[0]}
    named = {path: _TEXT.fullmatch(path.name) for path in sorted(folder.rglob("*")) if path.is_file()}
    found = [path for path, name in named.items() if wanted and name and (name[1] or "").upper() in {"", *wanted}]
    if wanted and not found:
        raise SystemExit(f"{package['name']} {package['version']} carries no text of its licence")
    return {str(path.relative_to(folder)): path.read_text() for path in found}


def page() -> str:
    """The whole file."""
    linked = crates()
    rows = "".join(f"| {p['name']} | {p['version']} | {' AND '.join(licences(p))} |\n" for p in linked)
    sections = []
    for package in linked:
        for path, text in texts(package).items():
            body = "\n".join(line.rstrip() for line in text.strip().splitlines())
            sections.append(f"## {package['name']}: {path}\n\n```text\n{body}\n```\n")
    return "\n".join([_HEAD + rows, *sections])


if __name__ == "__main__":
    print(page(), end="")
