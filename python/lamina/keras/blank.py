"""Variables that are about to be loaded need no random numbers first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keras.src import backend
from keras.src.initializers import random_initializers


class Blanks:
    """Variables that were made without their initialiser."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, Any]] = []

    def add(self, variable: Any, initializer: Any) -> None:
        self._made.append((variable, initializer))

    def initialize_all_but(self, loaded: set[int]) -> None:
        """Give the variables whose ``id`` is not in ``loaded`` what they would have begun with."""
        for variable, initializer in self._made:
            if id(variable) not in loaded:
                variable.assign(initializer(variable.shape, dtype=variable.dtype))


@contextmanager
def blank_variables() -> Iterator[Blanks]:
    """Leave out Keras's random initialisers for the variables that this thread makes meanwhile.

    They draw from generators of their own, so leaving them out changes no other random number.
    """
    blanks = Blanks()
    kind = backend.Variable
    own = vars(kind).get("_initialize_with_initializer")
    original = kind._initialize_with_initializer
    thread = threading.get_ident()

    def initialize(variable: Any, initializer: Any) -> None:
        if threading.get_ident() == thread and _is_random(initializer):
            blanks.add(variable, initializer)
            original(variable, _blank)
        else:
            original(variable, initializer)

    kind._initialize_with_initializer = initialize
    try:
        yield blanks
    finally:
        if own is None:
            del kind._initialize_with_initializer
        else:
            kind._initialize_with_initializer = own


def _is_random(initializer: Any) -> bool:
    """Keras's own, drawing from a fixed seed: one that counts its calls would go on differently."""
    return type(initializer).__module__ == random_initializers.__name__ and isinstance(initializer.seed, int)


def _blank(shape: Any, dtype: Any = None) -> Any:
    dtype = backend.standardize_dtype(dtype)
    if backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.raw_ops.Empty(shape=shape, dtype=dtype)
    return backend.numpy.empty(shape, dtype=dtype)
