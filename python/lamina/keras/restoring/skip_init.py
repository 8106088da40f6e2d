"""Variables that are about to be loaded need no random numbers first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from lamina.keras import private


class SkippedInit:
    """Variables that were made without their initialiser."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, Any]] = []

    def add(self, variable: Any, initializer: Any) -> None:
        self._made.append((variable, initializer))

    @contextmanager
    def loading(self) -> Iterator[None]:
        """What gets no value meanwhile is given what it would have begun with."""
        if not self._made:
            yield
            return
        loaded: set[int] = set()

        def assign(original: Any, variable: Any, value: Any) -> Any:
            loaded.add(id(variable))
            return original(variable, value)

        with private.patched_variable_method("_direct_assign", assign):
            yield
        for variable, initializer in self._made:
            if id(variable) not in loaded:
                variable.assign(initializer(variable.shape, dtype=variable.dtype))


@contextmanager
def skip_random_init() -> Iterator[SkippedInit]:
    """Leave out Keras's random initialisers for the variables that this thread makes meanwhile.

    They draw from generators of their own, so leaving them out changes no other random number.
    """
    skipped = SkippedInit()
    if private.why_not("skip_init"):
        yield skipped
        return

    def initialize(original: Any, variable: Any, initializer: Any) -> None:
        if _is_random(initializer):
            skipped.add(variable, initializer)
            initializer = _uninitialized
        original(variable, initializer)

    with private.patched_variable_method("_initialize_with_initializer", initialize):
        yield skipped


def _is_random(initializer: Any) -> bool:
    """Keras's own, drawing from a fixed seed: one that counts its calls would go on differently."""
    kind = type(initializer)
    own = getattr(keras.initializers, kind.__name__, None) is kind
    return own and isinstance(getattr(initializer, "seed", None), int)


def _uninitialized(shape: Any, dtype: Any = None) -> Any:
    dtype = keras.backend.standardize_dtype(dtype)
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return tf.raw_ops.Empty(shape=shape, dtype=dtype)
    return keras.ops.empty(shape, dtype=dtype)
