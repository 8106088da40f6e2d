"""Saves the best model so far in the run's directory, and logs it as an artifact."""

import os
from math import isfinite
from pathlib import Path
from typing import Any

from lamina import _core


def artifact_name(run: Any) -> str:
    """``model-<run name>``, or with the run's id if it has no name; cleaned for W&B."""
    from lamina.wandb.description import clean_name

    return clean_name(f"model-{run.name or run.id}")


def metadata(epoch: int, monitor: str, value: float | None, logs: dict[str, float]) -> dict[str, Any]:
    """The metadata of a version; W&B refuses NaN and infinity, so they become text."""
    found = {**logs, "value": value, "epoch": epoch, "monitor": monitor}
    return {
        name: str(number) if isinstance(number, float) and not isfinite(number) else number
        for name, number in found.items()
    }


def save(model: Any, path: Path, weights_only: bool) -> None:
    """Write a temporary file and rename it to ``path``."""
    suffix = ".weights.h5" if weights_only else path.suffix
    temporary = _core.Temporary(path.parent)
    unfinished = temporary.path / f"model{suffix}"
    try:
        if weights_only:
            model.save_weights(unfinished)
        else:
            model.save(unfinished)
        os.replace(unfinished, path)
    finally:
        temporary.remove()


def log(run: Any, path: Path, epoch: int, metadata: dict[str, Any]) -> Any:
    """Log the file as the next version of the run's model."""
    name, aliases = artifact_name(run), ("latest", f"epoch_{epoch}")
    from lamina.wandb import log_checkpoint

    return log_checkpoint(path, run=run, name=name, aliases=aliases, layout="file", type="model", metadata=metadata)
