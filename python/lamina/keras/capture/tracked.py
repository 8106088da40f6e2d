"""Saves and restores the attributes of tracked callbacks.

A snapshot may come from anybody. So only attributes that a save of the callback would hold are restored: data, in an
attribute that the callback has or that its code creates, with the type that it has there. Nothing else can be changed.
"""

from __future__ import annotations

import inspect
import re
import types
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from lamina.keras.capture.packing import NotSerializable, SavedGenerator, has_outside_path, needs_own_type, pack

#: Attributes that Keras sets on every callback.
_KEPT_BY_KERAS = {"params", "_model", "model", "_history"}
_MISSING = object()
#: A path separator or a file extension.
_FILE = re.compile(r"[/\\]|\.[A-Za-z]\w*$")
#: Larger arrays are compared by identity, because each save compares them.
_COMPARED_BYTES = 1 << 16
_NUMBERS = (bool, int, float, complex, np.generic, np.ndarray)
#: Groups of types that may replace each other.
_COMPATIBLE: tuple[tuple[type, ...], ...] = (_NUMBERS, (list, tuple))


class Tracked(tuple[Any, ...]):
    """The callbacks of ``track`` and their initial attributes. What stays unchanged is setup, and is not saved."""

    def __init__(self, callbacks: Iterable[Any] = ()) -> None:
        self._initial = [_initial_values(callback) for callback in self]
        self._warned: set[tuple[int, str]] = set()

    def kinds(self) -> list[str]:
        """The class names of the callbacks."""
        return [type(callback).__name__ for callback in self]

    def take(self, add_array: Callable[[str, Any], None]) -> list[dict[str, Any]]:
        """The state of each callback, packed."""
        return [{"class": kind, "state": self._state(i, add_array)} for i, kind in enumerate(self.kinds())]

    def _state(self, i: int, add_array: Callable[[str, Any], None]) -> dict[str, Any]:
        state: dict[str, Any] = {}
        left: dict[str, str] = {}
        for name, value in self._candidates(i):
            arrays: list[tuple[str, Any]] = []
            try:
                state[name] = pack(value, lambda *array: arrays.append(array), f"callbacks/{i}/{name}")  # noqa: B023
            except NotSerializable as error:
                if _is_data(value):
                    left[name] = str(error)
                continue
            for array in arrays:
                add_array(*array)
        self._warn_of_left_out(i, left)
        return state

    def _candidates(self, i: int) -> Iterator[tuple[str, Any]]:
        """The attributes that training may have changed."""
        callback = self[i]
        excluded = _excluded(type(callback))
        for name, value in vars(callback).items():
            if name not in excluded and not name.startswith("__") and not self._is_unchanged(i, name, value):
                yield name, value

    def _is_unchanged(self, i: int, name: str, value: Any) -> bool:
        made = self._initial[i].get(name, _MISSING)
        return made is not _MISSING and made == _fingerprint(value)

    def _warn_of_left_out(self, i: int, left: Mapping[str, str]) -> None:
        callback = self[i]
        if _is_ours_or_keras(type(callback)):
            return  # these set their attributes up again
        new = {name: why for name, why in left.items() if (i, name) not in self._warned}
        self._warned |= {(i, name) for name in new}
        if new:
            listed = "; ".join(f"{name}: {why}" for name, why in new.items())
            warnings.warn(
                f"snapshots cannot hold these attributes of the tracked {type(callback).__name__}, so a resumed run "
                f"starts with their initial values: {listed}",
                stacklevel=2,
            )

    def put(self, i: int, state: Mapping[str, Any]) -> None:
        """Restore the state of a callback, into its existing objects where possible."""
        callback = self[i]
        refused: dict[str, str] = {}
        for name, value in state.items():
            try:
                current = self._current(i, name)
                _check_type(current, value)
                vars(callback)[name] = _assign(vars(callback).get(name), value)
            except NotSerializable as error:
                refused[name] = str(error)
        if refused:
            listed = "; ".join(f"{name}: {why}" for name, why in refused.items())
            warnings.warn(
                f"did not restore these attributes of the tracked {type(callback).__name__}: {listed}",
                stacklevel=2,
            )

    def _current(self, i: int, name: str) -> Any:
        """The callback's current value; `_MISSING` if its code will create it.

        Raises:
            NotSerializable: if a save of the callback would not hold such an attribute.
        """
        callback = self[i]
        if name in _excluded(type(callback)) or name.startswith("__"):
            raise NotSerializable("it is not training state")
        current = vars(callback).get(name, _MISSING)
        if current is _MISSING:
            current = inspect.getattr_static(type(callback), name, _MISSING)
        if current is _MISSING:
            if not _mentions(type(callback), name):
                raise NotSerializable("the callback has no such attribute")
            return current
        if isinstance(current, str) and (has_outside_path(current) or self._is_unchanged_path(i, name, current)):
            raise NotSerializable("it is a path that the callback was made with")
        pack(current, lambda *_: None)
        return current

    def _is_unchanged_path(self, i: int, name: str, current: str) -> bool:
        return _may_name_a_file(current) and self._is_unchanged(i, name, current)


def _initial_values(callback: Any) -> dict[str, Any]:
    """Fingerprints of what counts as setup while it is unchanged: arguments and file names."""
    arguments = _arguments(type(callback))
    return {
        name: _fingerprint(value)
        for name, value in vars(callback).items()
        if name in arguments or (isinstance(value, str) and _may_name_a_file(value))
    }


def _fingerprint(value: Any) -> Any:
    """An object that is equal for equal values."""
    arrays: list[Any] = []
    try:
        packed = pack(value, lambda _, array: arrays.append(_array_fingerprint(array)))
    except NotSerializable:
        return value if isinstance(value, str) else ("an object", id(value))
    return packed, type(value), arrays


def _array_fingerprint(array: Any) -> Any:
    content = array.tobytes() if array.nbytes <= _COMPARED_BYTES else id(array)
    return array.dtype.str, array.shape, content


def _may_name_a_file(text: str) -> bool:
    return bool(_FILE.search(text))


def _excluded(kind: type) -> set[str]:
    """Attributes that are not state: those that Keras sets, and the arguments of Keras's own callbacks."""
    of_keras = [base for base in kind.__mro__ if base.__module__.startswith("keras.")]
    return _KEPT_BY_KERAS.union(*(_parameters(base) for base in of_keras))


def _arguments(kind: type) -> set[str]:
    return set().union(*(_parameters(base) for base in kind.__mro__[:-1]))


def _parameters(base: type) -> set[str]:
    return set(inspect.signature(base.__init__).parameters) if "__init__" in vars(base) else set()  # type: ignore[misc]


def _is_ours_or_keras(kind: type) -> bool:
    return kind.__module__.startswith(("keras.", "lamina."))


def _is_data(value: Any) -> bool:
    """Whether the value is data: not a function, and nothing of Keras's."""
    return not callable(value) and not isinstance(
        value, (types.ModuleType, keras.callbacks.Callback, keras.optimizers.Optimizer, keras.Variable)
    )


def _mentions(kind: type, name: str) -> bool:
    """Whether the code of a callback uses an attribute of this name."""
    own = [base for base in kind.__mro__ if base not in (object, keras.callbacks.Callback)]
    return any(name in code.co_names for base in own for part in vars(base).values() for code in _codes(part))


def _codes(part: Any) -> Iterator[types.CodeType]:
    if isinstance(part, property):
        part = part.fget
    part = inspect.unwrap(getattr(part, "__func__", part)) if callable(part) or hasattr(part, "__func__") else part
    waiting = [code] if isinstance(code := getattr(part, "__code__", None), types.CodeType) else []
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]


def _check_type(current: Any, value: Any) -> None:
    """Raise `NotSerializable` if the value has another type than the attribute; None fits any type."""
    if needs_own_type(value) and not isinstance(current, defaultdict):
        raise NotSerializable("it is a defaultdict whose factory only the callback has")
    if current is _MISSING or current is None or value is None or type(current) is type(value):
        return
    if isinstance(value, SavedGenerator) and type(current) is value.kind:
        return
    if not any(isinstance(current, group) and isinstance(value, group) for group in _COMPATIBLE):
        raise NotSerializable(f"it is a {type(value).__name__}, and the callback has a {type(current).__name__}")


def _assign(current: Any, value: Any) -> Any:
    """Copy ``value`` into the current object, which others may reference; if that is impossible, return ``value``."""
    if isinstance(value, SavedGenerator):
        return value.into(current)
    if isinstance(current, np.ndarray) and isinstance(value, np.ndarray):
        if (current.shape, current.dtype) != (value.shape, value.dtype) or not current.flags.writeable:
            return value
        current[...] = value
    elif type(current) is not type(value):
        return value
    elif isinstance(current, (list, deque)):
        current.clear()
        current.extend(value)
    elif isinstance(current, (dict, set)):  # also for a Counter: it adds to nothing
        current.clear()
        current.update(value)
    else:
        return value
    return current
