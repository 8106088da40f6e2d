"""Records what Keras saves of a model, and under which names.

Only Keras's own walk (``saving_lib._save_state``) gives the exact names. So it runs here, with a store that records the
values instead of writing them. If a model does more than set values, `FallbackToKeras` is raised.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NoReturn

import keras
import ml_dtypes
import numpy as np

from lamina.files import h5
from lamina.keras import private


class FallbackToKeras(Exception):  # noqa: N818 (expected, not an error)
    """Only Keras's own code handles this model correctly; the message says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A value that Keras sets in its store, and the dtype and shape it is written with."""

    name: str
    value: Any  # a Variable, a backend tensor, an ndarray, or a Python scalar or list
    dtype: str  # a name of docs/format.md §5.1
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Walk:
    """What Keras saves of a model, in Keras's order; models of equal ``structure`` have equal templates."""

    entries: list[Entry]
    structure: Hashable


def walk(model: Any) -> Walk:
    """Record what Keras saves of the model now; cheap enough for each save."""
    store = RecordingStore()
    save_state(model, store)
    return Walk(store.entries, tuple(store.steps))


def enumerate_variables(model: Any) -> list[tuple[str, Any, str, tuple[int, ...]]]:
    """Name, value, dtype and shape of all that Keras saves, in Keras's order."""
    return [(entry.name, entry.value, entry.dtype, entry.shape) for entry in walk(model).entries]


def save_state(model: Any, store: RecordingStore) -> None:
    """Let Keras save ``model`` into one of our stores."""
    check_keras()
    try:
        with private.cached_skipsets(), private.uncopied_optimizers(RecordingStore):
            private.save_state(model, store)
    finally:
        # A save_own_variables that suppresses exceptions must not suppress this one.
        if store.refused:
            raise FallbackToKeras(store.refused)


def check_keras() -> None:
    """Raise `FallbackToKeras` if this Keras saves in a way that lamina does not know."""
    if reason := private.why_not("save"):
        raise FallbackToKeras(reason)


class RecordingStore(private.H5IOStore):  # type: ignore[misc]
    """A store that records values and refuses all else, after which the file could not be predicted."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.steps: list[Hashable] = []
        self.refused = ""
        self.mode = "w"
        self._path = ""

    def __bool__(self) -> bool:
        return True

    def make(self, path: str, metadata: dict[str, Any] | None = None) -> RecordingStore:
        self._path = path
        self.steps.append((path, repr(metadata)))
        return self

    def __setitem__(self, key: str, value: Any) -> None:
        dtype, shape = describe(value)
        name = f"{self._path}/vars/{key}" if self._path else f"vars/{key}"
        entry = Entry(name, value, h5.dtype_name(dtype), shape)
        self.entries.append(entry)
        self.steps.append((name, entry.dtype, shape))
        self._create(key, dtype, shape)

    def _create(self, key: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        """A subclass writes the value to a file here."""

    def _refuse(self, action: str) -> NoReturn:
        self.refused = f"a layer's save_own_variables {action}"
        raise FallbackToKeras(self.refused)

    def get(self, path: str) -> NoReturn:
        self._refuse("reads the store")

    def has_path(self, path: str) -> NoReturn:
        self._refuse("reads the store")

    def keys(self) -> NoReturn:
        self._refuse("reads the store")

    def items(self) -> NoReturn:
        self._refuse("reads the store")

    def values(self) -> NoReturn:
        self._refuse("reads the store")

    def __len__(self) -> NoReturn:
        self._refuse("reads the store")

    def __iter__(self) -> NoReturn:
        self._refuse("reads the store")

    def __contains__(self, key: object) -> NoReturn:
        self._refuse("reads the store")

    def __getitem__(self, key: str) -> NoReturn:
        self._refuse("reads the store")

    def __delitem__(self, key: str) -> NoReturn:
        self._refuse("deletes from the store")

    def close(self) -> NoReturn:
        self._refuse("closes the store")

    @property
    def h5_file(self) -> Any:
        self._refuse("uses the HDF5 file")

    @property
    def _h5_entry_group(self) -> Any:
        self._refuse("uses the HDF5 group")


def describe(value: Any) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Dtype and shape of the array that Keras would write, without copying a weight."""
    # The value decides: JAX without 64 bits stores fewer bits than the Variable says.
    held = value.value if isinstance(value, keras.Variable) else value
    if keras.ops.is_tensor(held):
        dtype, shape = _numpy_dtype(keras.backend.standardize_dtype(held.dtype)), tuple(held.shape)
        if dtype is not None and all(type(n) is int for n in shape):
            return dtype, shape
    array = value if type(value) is np.ndarray else keras.ops.convert_to_numpy(value)
    keras.backend.standardize_dtype(array.dtype)  # raises what Keras raises for a dtype that it cannot save
    return array.dtype, array.shape


@functools.cache
def _numpy_dtype(name: str) -> np.dtype[Any] | None:
    try:
        return np.dtype(getattr(ml_dtypes, name, name))
    except TypeError:
        return None
