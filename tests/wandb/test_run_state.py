"""What lamina remembers about a W&B run: one object per run, which lives as long as the run."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

from lamina.wandb.upload.run_state import state_of

pytestmark = pytest.mark.wandb


class Run:
    """A run with a relative directory, as with a relative ``WANDB_DIR``."""

    dir = "wandb/run-1/files"


def test_the_directory_does_not_follow_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run()
    assert state_of(run).directory == tmp_path / "wandb" / "run-1"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert state_of(run).directory == tmp_path / "wandb" / "run-1"


def test_the_state_does_not_keep_its_run_alive() -> None:
    run = Run()
    alive = weakref.ref(run)
    state_of(run).publisher = run  # a publisher refers to its run
    assert state_of(run).publisher is run
    del run
    gc.collect()
    assert alive() is None
