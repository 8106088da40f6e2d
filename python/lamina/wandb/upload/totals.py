"""The summed costs of a run's checkpoints, in its summary."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from lamina.wandb.upload.run_state import state_of

_adding = threading.Lock()


def add(run: Any, figures: Mapping[str, float]) -> None:
    """Add to the sums that all callbacks of the run share; a resumed run continues its sums."""
    with _adding:
        sums = state_of(run).totals
        for name, value in figures.items():
            key = f"checkpoint/{name}"
            if key not in sums:
                sums[key] = _so_far(run, key)
            sums[key] += value
        run.summary.update(sums)


def _so_far(run: Any, key: str) -> float:
    value = run.summary.get(key)
    return value if isinstance(value, (int, float)) else 0
