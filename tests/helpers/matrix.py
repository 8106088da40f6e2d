"""``python tests/helpers/matrix.py PACKAGE OLDEST TESTS…``: the same tests with each release of one package.

Everything else stays as it is in the environment that runs this: each release gets a small environment of its own that
falls back on this one. It goes on after a release that fails; the exit code tells. With ``--nightly PACKAGE`` the last
of them is the newest build of that package, which holds the same module.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import site
import subprocess
import sys
import time
import venv
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
_KNOWS = "import {0}; print({0}.__version__, {0}.__file__)"


def numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split("."))


def released(package: str) -> list[str]:
    """All final releases of a package, the oldest first."""
    command = [sys.executable, "-m", "pip", "index", "versions", package, "--disable-pip-version-check"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"^Available versions: (.+)$", said, re.MULTILINE)
    if found is None:
        raise SystemExit(f"pip does not say which releases of {package} there are:\n{said}")
    return sorted((r for r in found[1].split(", ") if re.fullmatch(r"[0-9.]+", r)), key=numbers)


def chosen(releases: Iterable[str], oldest: str, *, minors: bool) -> list[str]:
    """The supported releases; with ``minors`` only the newest of each minor version, and the oldest."""
    supported = [release for release in releases if numbers(release) >= numbers(oldest)]
    if not minors:
        return supported
    newest = {numbers(release)[:2]: release for release in supported}  # ascending, so the last one remains
    return sorted({*supported[:1], *newest.values()}, key=numbers)


def environment(folder: Path, module: str, requirement: str) -> Path:
    """The Python of an environment with the required packages; all others come from this environment."""
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install = ["-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([sys.executable, *install, requirement], check=True)
    (own,) = folder.glob("lib/python*/site-packages")
    # Added after the environment's own packages; editable installs work, too.
    lines = (f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages())
    (own / "everything-else.pth").write_text("".join(lines))
    said = subprocess.run([python, "-c", _KNOWS.format(module)], check=True, capture_output=True, text=True).stdout
    version, file = said.split()
    if version != (requirement.partition("==")[2] or version) or folder.resolve() not in Path(file).resolve().parents:
        raise SystemExit(f"{requirement} was installed, and {said.strip()} is found")
    print(f"== {module} {version}", flush=True)
    return python


def main() -> int:
    parser = argparse.ArgumentParser(description="Run tests with each release of a package.")
    parser.add_argument("package")
    parser.add_argument("oldest", help="the oldest supported release")
    parser.add_argument("--minors", action="store_true", help="only the newest of each minor release, and the oldest")
    parser.add_argument("--nightly", metavar="PACKAGE", help="also the newest build of this package")
    parser.add_argument("--only", action="append", default=[], help="this release; may be given several times")
    parser.add_argument("--folder", type=Path, default=ROOT / ".venv-matrix")
    parser.add_argument("--json", type=Path, help="write what came of it to this file")
    arguments, tests = parser.parse_known_args()
    releases = arguments.only or chosen(released(arguments.package), arguments.oldest, minors=arguments.minors)
    requirements = [f"{arguments.package}=={release}" for release in releases]
    results = {}
    for requirement in [*requirements, *([arguments.nightly] if arguments.nightly else [])]:
        folder = arguments.folder / requirement
        start = time.monotonic()
        python = environment(folder, arguments.package, requirement)
        status = subprocess.call([python, "-m", "pytest", *tests], cwd=ROOT)
        results[requirement] = {"status": status, "seconds": round(time.monotonic() - start)}
        shutil.rmtree(folder)
    for requirement, result in results.items():
        verdict = "passed" if result["status"] == 0 else f"FAILED (pytest's exit code is {result['status']})"
        print(f"{requirement}: {verdict} in {result['seconds']} s")
    if arguments.json:
        arguments.json.write_text(json.dumps({"package": arguments.package, "results": results}, indent=1) + "\n")
    return int(any(result["status"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
