"""lamina: checkpoint Keras models to Weights & Biases without stopping training.

The callbacks are in `lamina.keras`; importing `lamina` alone imports neither Keras nor a backend nor wandb.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lamina import errors as errors
    from lamina import keras as keras
    from lamina import wandb as wandb
    from lamina.api import export, load_model, read_tensors, restore, save
    from lamina.averaging import average
    from lamina.keras.checkpointer import Checkpointer
    from lamina.remote.pull import pull
    from lamina.remote.push import push
    from lamina.repository.keep import Keep
    from lamina.repository.repository import Repository
    from lamina.repository.repository import open as open
    from lamina.repository.snapshot import Snapshot
    from lamina.version import __version__ as __version__

#: Name → module, imported on first use.
_PUBLIC = {
    "Checkpointer": "lamina.keras.checkpointer",
    "Keep": "lamina.repository.keep",
    "Repository": "lamina.repository.repository",
    "Snapshot": "lamina.repository.snapshot",
    "average": "lamina.averaging",
    "export": "lamina.api",
    "load_model": "lamina.api",
    "open": "lamina.repository.repository",
    "pull": "lamina.remote.pull",
    "push": "lamina.remote.push",
    "read_tensors": "lamina.api",
    "restore": "lamina.api",
    "save": "lamina.api",
}
#: Not for `dir`. It reads the metadata of the package, which takes as long as all else of ``import lamina``.
_VERSION = {"__version__": "lamina.version"}
_MODULES = ("errors", "keras", "wandb")

#: For ``from lamina import *``: without names that hide the built-in `open` or the packages keras and wandb.
__all__ = [
    "Checkpointer",
    "Keep",
    "Repository",
    "Snapshot",
    "average",
    "errors",
    "export",
    "load_model",
    "pull",
    "push",
    "read_tensors",
    "restore",
    "save",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"lamina.{name}")
    module = (_PUBLIC | _VERSION).get(name)
    if module is None:
        raise AttributeError(f"module 'lamina' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*_PUBLIC, *_MODULES})
