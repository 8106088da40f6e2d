"""The Keras side of lamina: callbacks for `Model.fit`, on TensorFlow, JAX and torch.

No backend is imported that Keras itself does not use, and wandb only where a W&B callback is made.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lamina.keras.eval_callback import WandbEvalCallback
    from lamina.keras.frequency import EveryNEpochs
    from lamina.keras.metrics_logger import WandbMetricsLogger
    from lamina.keras.model_checkpoint import ModelCheckpoint
    from lamina.keras.wandb_callback import WandbCallback
    from lamina.keras.wandb_model_checkpoint import WandbModelCheckpoint

__all__ = [
    "EveryNEpochs",
    "ModelCheckpoint",
    "WandbCallback",
    "WandbEvalCallback",
    "WandbMetricsLogger",
    "WandbModelCheckpoint",
]

_PUBLIC = {
    "EveryNEpochs": "frequency",
    "ModelCheckpoint": "model_checkpoint",
    "WandbCallback": "wandb_callback",
    "WandbEvalCallback": "eval_callback",
    "WandbMetricsLogger": "metrics_logger",
    "WandbModelCheckpoint": "wandb_model_checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'lamina.keras' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"lamina.keras.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value
