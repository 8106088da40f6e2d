"""All private names of Keras that lamina uses, and all patches of Keras.

No other file imports ``keras.src`` or patches Keras. Each name is looked up once, at import. Without one of them,
training and saving still work: `why_not` says what is missing, and Keras does that part itself.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

_SAVING_LIB = "keras.src.saving.saving_lib"
_STORES = ("H5IOStore", "DiskIOStore")
_MEMBERS = ("_METADATA_FILENAME", "_CONFIG_FILENAME", "_VARS_FNAME_H5", "_ASSETS_DIRNAME")

#: The names that each ability needs, by module. `tests/keras/test_private.py` removes each in turn.
NEEDS: dict[str, dict[str, tuple[str, ...]]] = {
    # Write the exact bytes of Keras's files. Otherwise: Keras's own save.
    "save": {
        _SAVING_LIB: ("_save_state", "get_attr_skipset", "_serialize_model_as_json", *_STORES, *_MEMBERS),
        "keras": ("Layer._flatten_layers",),  # whether a model has changed
    },
    # Load weights from memory. Otherwise: Keras reads a file.
    "load": {_SAVING_LIB: ("_load_state", "_model_from_config", *_STORES, *_MEMBERS)},
    # Create variables without random initialization. Otherwise: with it.
    "skip_init": {"keras": ("Variable._direct_assign", "Variable._initialize_with_initializer")},
    # Resume the seed generator of layers without a seed. Otherwise: it starts again.
    "global_seed": {
        "keras.src.backend.common.global_state": ("get_global_attribute",),
        "keras.src.random.seed_generator": ("global_seed_generator",),
    },
    # Export a SavedModel with options. Otherwise: without.
    "export_options": {"keras.src.export.export_utils": ("get_input_signature",)},
}

_SAVE_STATE = {"saveable", "weights_store", "assets_store", "inner_path", "visited_saveables"}
_LOAD_STATE = _SAVE_STATE | {"skip_mismatch", "failed_saveables", "error_msgs"}
#: The parts of a store that ours override or call.
_STORE = ("make", "__setitem__", "_create_h5_group")


def _find(module: str, name: str) -> Any:
    """A dotted name of a module; None if Keras does not have it."""
    try:
        return functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError):
        return None


def _missing(ability: str) -> list[str]:
    lacks = [name for module, names in NEEDS[ability].items() for name in names if _find(module, name) is None]
    if ability == "save" and not lacks:
        lacks += _changed("_save_state", _SAVE_STATE)
        lacks += [f"H5IOStore.{part}" for part in _STORE if not hasattr(_store, part)]
    if ability == "load" and not lacks:
        lacks += _changed("_load_state", _LOAD_STATE)
    return lacks


def _changed(name: str, parameters: set[str]) -> list[str]:
    """A walk with other parameters is another walk."""
    return [] if set(inspect.signature(_find(_SAVING_LIB, name)).parameters) == parameters else [f"{name}(…)"]


try:
    saving_lib: Any = importlib.import_module(_SAVING_LIB)
except ImportError:
    saving_lib = None
_store: Any = getattr(saving_lib, "H5IOStore", None)
#: The base of our stores; without Keras's store they are never used.
H5IOStore: Any = _store or object
_lacking = {ability: _missing(ability) for ability in NEEDS}


def why_not(ability: str) -> str:
    """Why lamina cannot use an ability with this Keras; empty if it can."""
    if not (lacks := _lacking[ability]):
        return ""
    return _unknown(", ".join(lacks))


def _unknown(names: str) -> str:
    return f"Keras {keras.__version__} lacks what lamina needs for this: {names}"


def save_state(model: Any, store: Any) -> None:
    """Run Keras's own walk over all that it saves of a model."""
    saving_lib._save_state(model, weights_store=store, assets_store=None, inner_path="", visited_saveables=set())


def flatten_layers(model: Any) -> list[Any]:
    """A model and all its nested layers; if Keras lacks its walk, without layers inside layers."""
    if (flatten := getattr(model, "_flatten_layers", None)) is not None:
        return list(flatten())
    return [model, *(part for layer in getattr(model, "layers", ()) for part in flatten_layers(layer))]


def set_initial_epoch(model: Any, epoch: int | None) -> None:
    """Let the running `fit` begin with this epoch."""
    if hasattr(model, "_initial_epoch"):
        model._initial_epoch = epoch
    else:
        warnings.warn(
            f"pass initial_epoch={epoch} to fit, or epochs are repeated: {_unknown('_initial_epoch')}", stacklevel=2
        )


def global_seed(*, make: bool = False) -> Any:
    """The seed generator of all random operations without a seed; None if it does not exist yet."""
    if why_not("global_seed"):
        _warn_once(f"layers without a seed draw other random numbers after a resume: {why_not('global_seed')}")
        return None
    if make:
        _find("keras.src.random.seed_generator", "global_seed_generator")()
    return _find("keras.src.backend.common.global_state", "get_global_attribute")("global_seed_generator")


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=2)


def input_signature(model: Any) -> Any:
    """The input signature that `Model.export` uses for a SavedModel; None if this Keras has no such function."""
    find = _find("keras.src.export.export_utils", "get_input_signature")
    return None if find is None else find(model)


# Patches of Keras.


class _Patch:
    """A patched function of Keras: it calls a replacement in threads that set one, and the original in others."""

    def __init__(self, owner: Any, name: str) -> None:
        self._owner, self._name = owner, name
        self._own = vars(owner).get(name)  # None: inherited
        self.original: Callable[..., Any] = getattr(owner, name)
        self.here = threading.local()
        self.users = 0

        @functools.wraps(self.original)
        def called(*arguments: Any, **named: Any) -> Any:
            return getattr(self.here, "call", self.original)(*arguments, **named)

        setattr(owner, name, called)

    def undo(self) -> None:
        if self._own is None:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._own)


#: Held only while a patch is applied or undone, not while patched code runs.
_lock = threading.Lock()
_patches: dict[tuple[int, str], _Patch] = {}


@contextmanager
def _patched(owner: Any, name: str, method: Callable[..., Any]) -> Iterator[None]:
    """In this thread, call ``method`` with the original and the arguments."""
    key = id(owner), name
    with _lock:
        replacement = _patches.get(key) or _Patch(owner, name)
        _patches[key] = replacement
        replacement.users += 1
    before = getattr(replacement.here, "call", replacement.original)
    replacement.here.call = functools.partial(method, before)
    try:
        yield
    finally:
        replacement.here.call = before
        with _lock:
            replacement.users -= 1
            if not replacement.users:
                del _patches[key]
                replacement.undo()


def patched_variable_method(name: str, method: Callable[..., Any]) -> Any:
    """Patch a method of all variables, in this thread."""
    return _patched(keras.Variable, name, method)


def patched_save_state(method: Callable[..., None]) -> Any:
    """Patch the function that saves the state of each part of a model, in this thread."""
    return _patched(saving_lib, "_save_state", method)


@contextmanager
def _variables_on_no_device() -> Iterator[None]:
    """On JAX, let the variables that this thread creates have numpy arrays as values.

    With a distribution, a value on a device would be compared over all processes, but only the first one saves.
    """
    if keras.backend.backend() != "jax" or not hasattr(keras.Variable, "_initialize_layout"):
        yield
        return

    def array(original: Callable[..., Any], variable: Any, value: Any, dtype: Any = None) -> Any:
        return np.asarray(value, dtype)

    with (
        patched_variable_method("_initialize_layout", lambda original, variable: None),
        patched_variable_method("_convert_to_tensor", array),
    ):
        yield


_skipsets: dict[str, Any] = {}


def cached_skipsets() -> Any:
    """Cache these sets: Keras looks them up under the wrong key, so it creates a layer for each layer."""

    def get_attr_skipset(original: Callable[[str], Any], kind: str) -> Any:
        if kind not in _skipsets:
            with _variables_on_no_device():
                _skipsets[kind] = original(kind)
        return _skipsets[kind]

    return _patched(saving_lib, "get_attr_skipset", get_attr_skipset)


@contextmanager
def uncopied_optimizers(store_kind: type[Any]) -> Iterator[None]:
    """Set an optimizer's variables in stores of this kind without a copy; Keras copies each one."""
    bases: Any = keras.optimizers.Optimizer.__mro__
    kind = next((base for base in bases if "save_own_variables" in vars(base)), None)
    if kind is None or issubclass(keras.Layer, kind):  # not the optimizers' own method: they are copied
        yield
        return

    def save_own_variables(original: Callable[..., None], optimizer: Any, store: Any) -> None:
        if isinstance(store, store_kind):
            for i, variable in enumerate(optimizer.variables):
                store[str(i)] = variable
        else:
            original(optimizer, store)

    with _patched(kind, "save_own_variables", save_own_variables):
        yield
