"""The active W&B run, for the callbacks that log to it; wandb is imported when the first of them is made."""

from typing import Any


def active_run(caller: str, *, required: bool = True) -> Any:
    """The active run; where one is required and there is none, ``wandb.Error``, as from wandb's own callbacks."""
    try:
        import wandb
    except ImportError as error:
        raise ImportError(f"{caller} needs wandb: pip install wandb") from error
    if wandb.run is None and required:
        raise wandb.Error(f"You must call `wandb.init()` before {caller}()")
    return wandb.run


def mark_feature(run: Any, feature: str) -> None:
    """Tell W&B's telemetry which callback is in use; a wandb without that feature goes untold."""
    from lamina.wandb import private

    private.mark_feature(run, feature)
