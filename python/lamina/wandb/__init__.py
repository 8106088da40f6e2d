"""Checkpoints as W&B artifacts.

In this package ``import wandb`` is the client; nothing else of lamina imports it but the callbacks.
"""

from __future__ import annotations

from lamina.wandb.log import log_checkpoint
from lamina.wandb.remote import open_artifact

__all__ = ["log_checkpoint", "open_artifact"]
