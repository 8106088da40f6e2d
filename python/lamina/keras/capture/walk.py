"""Notes what Keras saves of a model, and under which names.

Keras's own walk (``saving_lib._save_state``) is the only exact source of the names, so it runs here too, with
a store that notes what is set instead of writing it. What notes cannot describe is :class:`NotPlannable`.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import keras
import ml_dtypes
import numpy as np
from keras.src import backend
from keras.src.optimizers import base_optimizer
from keras.src.saving import saving_lib

from lamina.files import h5

#: Parts of Keras are replaced for the length of one walk.
walking = threading.RLock()
_skipsets: dict[str, Any] = {}


class NotPlannable(Exception):  # noqa: N818 (a verdict, not a failure)
    """Only Keras's own save makes the right file for this model; the message says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A value as Keras hands it to its store, and as what it would be written."""

    name: str
    value: Any  # a Variable, a tensor of the backend, an ndarray, or a Python scalar or list
    dtype: str  # a name of docs/format.md §5.1
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Walk:
    """What Keras saves of a model, in Keras's order; models of equal ``structure`` have equal templates."""

    entries: list[Entry]
    structure: Hashable


def walk(model: Any) -> Walk:
    """Note what Keras saves now; cheap enough for every save."""
    store = Notes()
    save_state(model, store)
    return Walk(store.entries, tuple(store.steps))


def enumerate_variables(model: Any) -> list[tuple[str, Any, str, tuple[int, ...]]]:
    """Yield name, value, dtype and shape of everything that Keras saves, in Keras's order."""
    return [(entry.name, entry.value, entry.dtype, entry.shape) for entry in walk(model).entries]


def save_state(model: Any, store: Notes) -> None:
    """Let Keras save ``model`` into one of our stores."""
    _check_keras()
    try:
        with walking, _cached_skipsets(), _optimizers_uncopied():
            saving_lib._save_state(
                model, weights_store=store, assets_store=None, inner_path="", visited_saveables=set()
            )
    finally:
        # A save_own_variables that swallows exceptions must not swallow this one.
        if store.refused:
            raise NotPlannable(store.refused)


def _check_keras() -> None:
    """The walk is private: a Keras that changed it saves for itself."""
    expected = {"saveable", "weights_store", "assets_store", "inner_path", "visited_saveables"}
    parts = ("make", "__setitem__", "_create_h5_group")
    walk_of_keras = getattr(saving_lib, "_save_state", None)
    if (
        walk_of_keras is None
        or not hasattr(saving_lib, "get_attr_skipset")
        or set(inspect.signature(walk_of_keras).parameters) != expected
        or not all(hasattr(saving_lib.H5IOStore, part) for part in parts)
    ):
        raise NotPlannable(f"Keras {keras.__version__} saves in a way that lamina does not know")


class Notes(saving_lib.H5IOStore):  # type: ignore[misc]
    """A store that notes what is set and refuses all else: nothing else leaves the file predictable."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.steps: list[Hashable] = []
        self.refused = ""
        self.mode = "w"
        self._path = ""

    def __bool__(self) -> bool:
        return True

    def make(self, path: str, metadata: dict[str, Any] | None = None) -> Notes:
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
        """Nothing stands in a file here."""

    def _refuse(self, action: str) -> NoReturn:
        self.refused = f"a save_own_variables {action}"
        raise NotPlannable(self.refused)

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
    """The array that Keras would write, without making it where that would copy a weight."""
    # What a Variable holds decides: JAX without 64 bits holds less than the Variable says.
    held = value.value if isinstance(value, backend.Variable) else value
    if backend.is_tensor(held):
        dtype, shape = _numpy_dtype(backend.standardize_dtype(held.dtype)), tuple(held.shape)
        if dtype is not None and all(type(n) is int for n in shape):
            return dtype, shape
    array = value if type(value) is np.ndarray else backend.convert_to_numpy(value)
    backend.standardize_dtype(array.dtype)  # raises what Keras raises for a dtype that it cannot save
    return array.dtype, array.shape


@functools.cache
def _numpy_dtype(name: str) -> np.dtype[Any] | None:
    try:
        return np.dtype(getattr(ml_dtypes, name, name))
    except TypeError:
        return None


@contextmanager
def _cached_skipsets() -> Iterator[None]:
    """Keras looks for these sets under another key than it keeps them, and so builds a layer per layer."""
    original = saving_lib.get_attr_skipset

    def get_attr_skipset(kind: str) -> Any:
        if kind not in _skipsets:
            _skipsets[kind] = original(kind)
        return _skipsets[kind]

    saving_lib.get_attr_skipset = get_attr_skipset
    try:
        yield
    finally:
        saving_lib.get_attr_skipset = original


@contextmanager
def _optimizers_uncopied() -> Iterator[None]:
    """Hand an optimizer's variables to our stores as they are; Keras copies each one first."""
    kind = base_optimizer.BaseOptimizer
    original = kind.save_own_variables

    def save_own_variables(self: Any, store: Any) -> None:
        if not isinstance(store, Notes):
            original(self, store)
            return
        for i, variable in enumerate(self.variables):
            store[str(i)] = variable

    kind.save_own_variables = save_own_variables
    try:
        yield
    finally:
        kind.save_own_variables = original
