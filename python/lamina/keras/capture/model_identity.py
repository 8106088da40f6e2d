"""Whether a model still has the variables that a plan was made from."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lamina.keras import private
from lamina.keras.capture.walk import check_keras

#: The objects that Keras saved, and their paths.
Visited = list[tuple[Any, str]]


class ModelIdentity:
    """The identity of a model's variables. The model of another fold may have the same names and shapes."""

    def __init__(self, model: Any) -> None:
        self._objects = [weakref.ref(item) for item in _objects(model)]
        self._names = _names(model)
        self._forms = [(v.shape, v.dtype) for v in saved_variables(model)]

    def matches(self, model: Any) -> bool:
        objects = _objects(model)
        return (
            len(objects) == len(self._objects)
            and all(ref() is item for ref, item in zip(self._objects, objects, strict=True))
            and self._names == _names(model)
            and self._forms == [(v.shape, v.dtype) for v in saved_variables(model)]
        )


def identity_of(model: Any, values: list[Any], visited: Visited) -> ModelIdentity | None:
    """The identity of a model, if Keras saves exactly these variables as long as they are the same; else None."""
    # A second optimizer may be built later or replaced, and no list of the model shows it.
    seen = {id(variable) for variable in saved_variables(model)}
    if not all(id(value) in seen for value in values):
        return None
    if not all(_saves_as_keras_does(saveable) for saveable, _ in visited):
        return None
    return ModelIdentity(model)


@contextmanager
def visits() -> Iterator[Visited]:
    """Record each object whose state Keras saves in this thread.

    Raises:
        FallbackToKeras: if this Keras saves in another way than we know.
    """
    check_keras()
    visited: Visited = []

    def noting(
        save_state: Callable[..., None],
        saveable: Any,
        weights_store: Any,
        assets_store: Any,
        inner_path: str,
        visited_saveables: set[int],
    ) -> None:
        if id(saveable) not in visited_saveables:
            visited.append((saveable, inner_path))
        save_state(saveable, weights_store, assets_store, inner_path=inner_path, visited_saveables=visited_saveables)

    with private.patched_save_state(noting):
        yield visited


def _saves_as_keras_does(saveable: Any) -> bool:
    """Whether Keras's own code decides what is saved of it."""
    save = getattr(type(saveable), "save_own_variables", None)
    return save is None or save.__module__.startswith(("keras.", "lamina.keras."))


def _objects(model: Any) -> list[Any]:
    optimizer = getattr(model, "optimizer", None)
    return [
        model,
        *([] if optimizer is None else [optimizer]),
        *private.flatten_layers(model),
        *saved_variables(model),
    ]


def saved_variables(model: Any) -> list[Any]:
    """The variables of the model and its optimizer."""
    optimizer = getattr(model, "optimizer", None)
    return [*model.variables, *([] if optimizer is None else optimizer.variables)]


def _names(model: Any) -> list[str]:
    optimizer = getattr(model, "optimizer", None)
    return [layer.name for layer in private.flatten_layers(model)] + [getattr(optimizer, "name", "")]
