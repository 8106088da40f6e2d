"""A training that is killed and goes on from its file ends with the same file as with Keras's callback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import killed_training
from side_by_side import differing, tree

SIDES = ("stock", "ours")


def _both(folder: Path) -> list[int]:
    processes = []
    for side in SIDES:
        command = [sys.executable, killed_training.__file__, side, str(folder / side / "m.keras")]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    return [process.wait(timeout=300) for process in processes]


@pytest.mark.skipif(not os.environ.get("LAMINA_SOAK"), reason="four processes: in the long run only")
def test_a_killed_training_goes_on(tmp_path: Path) -> None:
    for side in SIDES:
        (tmp_path / side).mkdir()
    for codes in ([-signal.SIGKILL, -signal.SIGKILL], [0, 0]):
        assert _both(tmp_path) == codes
        stock, ours = (tree(tmp_path / side) for side in SIDES)
        assert "content m.keras" in stock
        assert not differing(stock, ours)
