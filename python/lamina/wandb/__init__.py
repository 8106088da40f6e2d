"""Checkpoints as W&B artifacts.

``import wandb`` here is the client. Outside this package only callbacks and media that log to a run import the client.
"""

from __future__ import annotations

try:
    import wandb as _client  # noqa: F401  (first, so that a missing wandb is one clear error)
except ModuleNotFoundError as error:
    if error.name != "wandb":
        raise
    raise ModuleNotFoundError("lamina.wandb needs wandb: pip install wandb", name="wandb") from error

from lamina.wandb.download.open_artifact import open_artifact
from lamina.wandb.log_checkpoint import log_checkpoint
from lamina.wandb.log_report import log_report
from lamina.wandb.promote import promote
from lamina.wandb.pull import pull
from lamina.wandb.push import push
from lamina.wandb.upload.writers import Writers

__all__ = ["Writers", "log_checkpoint", "log_report", "open_artifact", "promote", "pull", "push"]

for _public in (Writers, log_checkpoint, log_report, open_artifact, promote, pull, push):
    _public.__module__ = "lamina.wandb"  # where users find it


def __dir__() -> list[str]:
    return sorted(__all__)
