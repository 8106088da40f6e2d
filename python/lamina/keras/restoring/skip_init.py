"""Skips the random initialization of variables that will be loaded anyway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from lamina.keras import private


class SkippedInit:
    """The variables whose initializer was skipped."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, Any]] = []

    def add(self, variable: Any, initializer: Any) -> None:
        self._made.append((variable, initializer))

    @contextmanager
    def loading(self) -> Iterator[None]:
        """At the end, run the skipped initializer of each variable that was not loaded."""
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
    """Skip Keras's random initializers for the variables that this thread creates.

    Each initializer has its own generator, so skipping it changes no other random number.
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
    """Whether it is Keras's own with a fixed seed; one that counts its calls must not be skipped."""
    kind = type(initializer)
    own = getattr(keras.initializers, kind.__name__, None) is kind
    return own and isinstance(getattr(initializer, "seed", None), int)


def _uninitialized(shape: Any, dtype: Any = None) -> Any:
    dtype = keras.backend.standardize_dtype(dtype)
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return tf.raw_ops.Empty(shape=shape, dtype=dtype)
    return keras.ops.empty(shape, dtype=dtype)
