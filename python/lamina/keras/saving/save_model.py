"""Saves a model that is not in `fit`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamina.errors import InvalidInputError
from lamina.keras.capture.training_state import optimizer_class
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.writing import save_path


def save_model(
    target: Repository, model: Any, fields: Mapping[str, Any], *, codec: str, weights_only: bool
) -> Snapshot:
    """Save what Keras writes of a model."""
    if not getattr(model, "built", False):
        raise InvalidInputError("the model has no variables yet; build it, or call it on data, before saving")
    optimizer = getattr(model, "optimizer", None)
    known: dict[str, Any] = {}
    if optimizer is not None:
        known = {"step": int(optimizer.iterations), "training": {"optimizer": optimizer_class(optimizer)}}
    with tempfile.TemporaryDirectory(prefix="lamina-") as folder:
        path = Path(folder) / ("model.weights.h5" if weights_only else "model.keras")
        if weights_only:
            model.save_weights(path)
        else:
            model.save(path)
        return save_path(target, path, known | dict(fields), codec=codec)
