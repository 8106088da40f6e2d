"""The active W&B run, for the callbacks that log to it. wandb is imported when the first of them is created."""

from typing import Any


def active_run(caller: str, *, required: bool = True) -> Any:
    """The active run; raises ``wandb.Error`` if one is required and none is active, as wandb's own callbacks do."""
    try:
        import wandb
    except ImportError as error:
        raise ImportError(f"{caller} needs wandb: pip install wandb") from error
    if wandb.run is None and required:
        raise wandb.Error(f"You must call `wandb.init()` before {caller}()")
    return wandb.run


def mark_feature(run: Any, feature: str) -> None:
    """Tell W&B's telemetry which callback is in use, if this wandb knows the feature."""
    from lamina.wandb import private

    private.mark_feature(run, feature)
