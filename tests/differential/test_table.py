"""Each line of the table of differences holds, each known fault is still one, and the page says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from differences import DIFFERENCES, FAULTS, Fault, Named, Scenario, page, unexplained
from logged_side_by_side import both_logged
from places import ROOT
from side_by_side import Differing, Training, both

pytestmark = pytest.mark.filterwarnings("ignore")


#: What differs in the scenarios that have run: several lines may have the same example.
_known: dict[Scenario, Differing] = {}


def _differing(scenario: Scenario, folder: Path, request: pytest.FixtureRequest) -> Differing:
    if scenario not in _known:
        if isinstance(scenario, Training):
            _known[scenario] = both(scenario, folder)
        else:
            _known[scenario] = both_logged(scenario, folder, request.getfixturevalue("wandb_online"))
    return _known[scenario]


#: `test_killed.py` runs those that take more processes.
HERE = [line for line in DIFFERENCES if getattr(line.example, "event", "") != "killed"]


@pytest.mark.parametrize("line", HERE, ids=lambda line: line.subject)
def test_a_named_difference_is_there(line: Named, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    found = _differing(line.example, tmp_path / "example", request)
    assert any(line.explains(line.example, found, name) for name in found), found
    assert not unexplained(line.example, found, DIFFERENCES)


def _fault(fault: Fault) -> Any:
    return pytest.param(fault, marks=pytest.mark.xfail(reason=fault.what, strict=True), id=fault.what)


@pytest.mark.parametrize("fault", [_fault(one) for one in FAULTS])
def test_a_known_fault(fault: Fault, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """One that passes has been mended: take it out of the table, and the scenario into the kept ones."""
    assert not unexplained(fault.example, _differing(fault.example, tmp_path / "example", request), DIFFERENCES)


def test_the_page_is_the_table() -> None:
    assert (ROOT / "docs" / "differences.md").read_text(encoding="utf-8") == page(), (
        "write it anew: python -c 'import differences; print(differences.page(), end=\"\")' > docs/differences.md"
    )
