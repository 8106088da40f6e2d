"""The best model so far: its file in the run's directory, and the artifact that carries it."""

import os
import re
from math import isfinite
from pathlib import Path
from typing import Any

from lamina import _core


def artifact_name(run: Any) -> str:
    """``model-<run name>``, or the run's id where it has no name; only what W&B takes in a name."""
    name = f"model-{run.name or run.id}"
    safe = re.sub(r"[^a-zA-Z0-9_.-]", "_", name)
    return safe if len(safe) <= 128 else f"{safe[:63]}..{safe[-63:]}"


def named_direction(monitor: str) -> str:
    """Which way is better, as the documentation guesses it from the metric's name."""
    return "max" if "acc" in monitor or monitor.startswith("fmeasure") else "min"


def metric_direction(model: Any, monitor: str) -> str | None:
    """Which way is better, as the metric itself says."""
    name = monitor.removeprefix("val_")
    for group in getattr(model, "metrics", None) or []:
        for metric in getattr(group, "metrics", None) or [group]:
            if metric.name == name and getattr(metric, "_direction", None) in ("up", "down"):
                return "max" if metric._direction == "up" else "min"
    return None


def direction(model: Any, monitor: str) -> str:
    """Which way is better, as the metric itself says, otherwise by its name."""
    return metric_direction(model, monitor) or named_direction(monitor)


def scalar(value: Any) -> float | None:
    """A number, where the value of a metric is one."""
    try:
        return None if value is None or isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        return None


def metadata(epoch: int, monitor: str, value: float | None, logs: dict[str, Any]) -> dict[str, Any]:
    """What a version tells about its model; W&B refuses NaN and infinity, so they are spelt."""
    numbers = {name: number for name, logged in logs.items() if (number := scalar(logged)) is not None}
    found = {**numbers, "value": value, "epoch": epoch, "monitor": monitor}
    return {
        name: str(number) if isinstance(number, float) and not isfinite(number) else number
        for name, number in found.items()
    }


def save(model: Any, path: Path, weights_only: bool) -> None:
    """Write the file beside its place and put it there by one rename."""
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
