"""Variables that are about to be loaded need no random numbers first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from keras.src import backend
from keras.src.initializers import random_initializers

# Two threads that each replaced a method, and put back what they had found, could leave one of theirs for ever.
_replacing = threading.RLock()


class Blanks:
    """Variables that were made without their initialiser."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, Any]] = []

    def add(self, variable: Any, initializer: Any) -> None:
        self._made.append((variable, initializer))

    @contextmanager
    def loading(self) -> Iterator[None]:
        """What gets no value meanwhile is given what it would have begun with."""
        loaded: set[int] = set()

        def assign(original: Any, variable: Any, value: Any) -> Any:
            loaded.add(id(variable))
            return original(variable, value)

        with _instead_of("_direct_assign", assign):
            yield
        for variable, initializer in self._made:
            if id(variable) not in loaded:
                variable.assign(initializer(variable.shape, dtype=variable.dtype))


@contextmanager
def blank_variables() -> Iterator[Blanks]:
    """Leave out Keras's random initialisers for the variables that this thread makes meanwhile.

    They draw from generators of their own, so leaving them out changes no other random number.
    """
    blanks = Blanks()

    def initialize(original: Any, variable: Any, initializer: Any) -> None:
        if _is_random(initializer):
            blanks.add(variable, initializer)
            initializer = _blank
        original(variable, initializer)

    with _instead_of("_initialize_with_initializer", initialize):
        yield blanks


@contextmanager
def _instead_of(name: str, method: Callable[..., Any]) -> Iterator[None]:
    """Call ``method`` with the original method of variables and its arguments, in this thread only."""
    kind, thread = backend.Variable, threading.get_ident()
    with _replacing:
        own, original = vars(kind).get(name), getattr(kind, name)

        def called(*arguments: Any) -> Any:
            return method(original, *arguments) if threading.get_ident() == thread else original(*arguments)

        setattr(kind, name, called)
        try:
            yield
        finally:
            if own is None:
                delattr(kind, name)
            else:
                setattr(kind, name, own)


def _is_random(initializer: Any) -> bool:
    """Keras's own, drawing from a fixed seed: one that counts its calls would go on differently."""
    return type(initializer).__module__ == random_initializers.__name__ and isinstance(initializer.seed, int)


def _blank(shape: Any, dtype: Any = None) -> Any:
    dtype = backend.standardize_dtype(dtype)
    if backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.raw_ops.Empty(shape=shape, dtype=dtype)
    return backend.numpy.empty(shape, dtype=dtype)
