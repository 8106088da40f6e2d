"""Callbacks for `Model.fit`, on TensorFlow, JAX and torch.

Only the backend of Keras is imported, and wandb only when a W&B callback is created.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lamina.keras.callbacks.eval_callback import WandbEvalCallback
    from lamina.keras.callbacks.metrics_logger import WandbMetricsLogger
    from lamina.keras.callbacks.model_checkpoint import ModelCheckpoint
    from lamina.keras.callbacks.wandb_callback import WandbCallback
    from lamina.keras.callbacks.wandb_model_checkpoint import WandbModelCheckpoint
    from lamina.keras.schedule.frequency import EveryMinutes, EveryNEpochs, Overhead

__all__ = [
    "EveryMinutes",
    "EveryNEpochs",
    "ModelCheckpoint",
    "Overhead",
    "WandbCallback",
    "WandbEvalCallback",
    "WandbMetricsLogger",
    "WandbModelCheckpoint",
]

_PUBLIC = {
    "EveryMinutes": "schedule.frequency",
    "EveryNEpochs": "schedule.frequency",
    "Overhead": "schedule.frequency",
    "ModelCheckpoint": "callbacks.model_checkpoint",
    "WandbCallback": "callbacks.wandb_callback",
    "WandbEvalCallback": "callbacks.eval_callback",
    "WandbMetricsLogger": "callbacks.metrics_logger",
    "WandbModelCheckpoint": "callbacks.wandb_model_checkpoint",
}


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'lamina.keras' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"lamina.keras.{_PUBLIC[name]}"), name)
    value.__module__ = "lamina.keras"  # the public name
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
