"""Checks that a model is built, and says what to do if it is not."""

from __future__ import annotations

from typing import Any

import keras

from lamina.errors import InvalidInputError


def why_unbuilt(model: Any) -> str:
    """Why a model cannot be saved or restored, and what to do; empty if it can."""
    if getattr(model, "built", False):
        return ""
    held = len(getattr(model, "variables", ()))
    if not held:
        return "the model has no variables yet: give it an Input, call it on data, or build it"
    why = "it has no call() for Keras to build it with" if _has_no_call(model) else "it has never been called"
    return (
        f"Keras does not count the model as built, though it has {held} variables: {why}. Build its parts (call each "
        "on data, or give each an Input), then set model.built = True"
    )


def check_built(model: Any, doing: str) -> None:
    """Raise `InvalidInputError` if the model is not built, before ``doing``."""
    if why := why_unbuilt(model):
        raise InvalidInputError(f"{why}, before {doing}")


def _has_no_call(model: Any) -> bool:
    return getattr(type(model), "call", None) in (keras.Model.call, keras.Layer.call)
