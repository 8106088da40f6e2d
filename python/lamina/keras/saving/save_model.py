"""`lamina.save` of a model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamina.keras.built import check_built
from lamina.keras.capture.training_state import optimizer_fields
from lamina.keras.capture.variable_names import names_of
from lamina.keras.steps import steps_done
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.writing import save_path


def save_model(
    target: Repository, model: Any, fields: Mapping[str, Any], *, codec: str, weights_only: bool
) -> Snapshot:
    """Save the file that Keras writes of a model."""
    check_built(model, "saving")
    known: dict[str, Any] = {}
    if getattr(model, "optimizer", None) is not None:
        known = {"step": steps_done(model), "training": optimizer_fields(model)}
    with tempfile.TemporaryDirectory(prefix="lamina-") as folder:
        path = Path(folder) / ("model.weights.h5" if weights_only else "model.keras")
        if weights_only:
            model.save_weights(path)
        else:
            model.save(path)
        return save_path(target, path, known | dict(fields), codec=codec, names=names_of(model))
