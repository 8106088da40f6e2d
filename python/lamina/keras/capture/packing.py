"""Packs Python values into JSON so that they keep their value and type (docs/format.md §5.3)."""

from __future__ import annotations

import base64
import math
import random
import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lamina.errors import LaminaError
from lamina.files import h5
from lamina.repository.dtypes import to_numpy

#: The engine reads 128 levels of JSON. A value begins at the sixth, and each of its levels takes up to four.
MAX_DEPTH = 28
#: The integers that every JSON reader accepts.
_SMALL = range(-(1 << 63), 1 << 63)
#: The numpy scalars that equal a Python number with a dtype.
_SCALARS = {
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
}  # fmt: skip
#: Factories of a defaultdict that can be restored.
_FACTORIES: dict[str, Callable[[], Any]] = {
    kind.__name__: kind for kind in (list, dict, set, tuple, int, float, bool, str, deque, Counter)
}
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState)
_GENERATOR_KINDS = {kind.__name__: kind for kind in _GENERATORS}
_BIT_GENERATORS: dict[str, Callable[[], Any]] = {
    kind.__name__: kind
    for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
}
_ABSOLUTE = re.compile(
    r"""(?: ^ | [\s'"=(\[{,;<>|] | (?<![:/]):(?=/(?!/)) )   # where a path may begin, but not inside a URL
        (?: /[^\s/] | ~[\w.-]*/ | [A-Za-z]:[\\/] | \\\\\w | file: )""",
    re.VERBOSE,
)


class NotSerializable(Exception):  # noqa: N818 (expected, not an error)
    """A value that a snapshot cannot hold; the message says why."""


class Malformed(Exception):  # noqa: N818 (expected, not an error)
    """A value that `pack` did not make."""


def has_outside_path(text: str) -> bool:
    """Whether a text contains a path outside the working directory, which means nothing on another machine."""
    return bool(_ABSOLUTE.search(text)) or ".." in re.split(r"[/\\]", text)


def pack(value: Any, add_array: Callable[[str, Any], None], name: str = "", depth: int = 0) -> Any:
    """Pack a value for JSON; types that JSON does not have become an object with one key.

    Arrays are passed to ``add_array``, with names that begin with ``name``.

    Raises:
        NotSerializable: if the value, or a part of it, cannot be restored exactly.
    """
    if depth > MAX_DEPTH:
        raise NotSerializable(f"it is more than {MAX_DEPTH} levels deep")
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if value in _SMALL else {"integer": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if kind is str:
        return _text(value)
    if isinstance(value, np.generic):
        return _scalar(value)
    if kind is np.ndarray:
        _check_array(value)
        add_array(name, value)
        return {"tensor": name}
    if kind in _GENERATORS:
        if depth:
            raise NotSerializable("it contains a random generator")
        return {kind.__name__: _generator_state(value, add_array, name)}
    if kind not in _CONTAINERS:
        return _plain(value)
    return _container(value, lambda part, i: pack(part, add_array, f"{name}/{i}", depth + 1), depth)


def _text(value: str) -> str:
    if has_outside_path(value):
        raise NotSerializable("it contains an absolute path, or one with '..'")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise NotSerializable("it has characters that UTF-8 cannot encode") from error
    return value


def _scalar(value: np.generic) -> Any:
    if value.dtype.name not in _SCALARS:
        raise NotSerializable(f"it is a scalar of dtype {value.dtype}")
    return {"scalar": [value.dtype.name, pack(value.item(), _no_array)]}


def _no_array(name: str, value: Any) -> None:
    raise NotSerializable("it is an array")


def _check_array(value: Any) -> None:
    try:
        if to_numpy(h5.dtype_name(value.dtype)) == value.dtype:
            return
    except (LaminaError, TypeError, ValueError):
        pass
    raise NotSerializable(f"it is an array of dtype {value.dtype}")


def _generator_state(value: Any, add_array: Callable[[str, Any], None], name: str) -> Any:
    if isinstance(value, random.Random):
        return pack(value.getstate(), add_array, name, 1)
    if isinstance(value, np.random.RandomState):
        return pack(value.get_state(legacy=False), add_array, name, 1)
    if type(value.bit_generator).__name__ not in _BIT_GENERATORS:
        raise NotSerializable(f"it uses the bit generator {type(value.bit_generator).__name__}")
    return pack(value.bit_generator.state, add_array, name, 1)


@dataclass(frozen=True)
class SavedGenerator:
    """The state of a random generator."""

    kind: type
    state: Any

    def into(self, current: Any) -> Any:
        """Set the state of the current generator, or of a new one, and return it.

        Raises:
            NotSerializable: if it is not a state of this kind of generator.
        """
        try:
            made = self._new() if current is None else current
            if self.kind is random.Random:
                made.setstate(self.state)
            elif self.kind is np.random.RandomState:
                made.set_state(self.state)
            else:
                made.bit_generator.state = self.state
        except (TypeError, ValueError, KeyError, OverflowError, AttributeError, IndexError) as error:
            raise NotSerializable(f"it is not a state of this generator ({error})") from error
        return made

    def _new(self) -> Any:
        if self.kind is np.random.Generator:
            name = self.state["bit_generator"]
            return np.random.Generator(_BIT_GENERATORS[name]())
        return self.kind()


def _plain(value: Any) -> Any:
    """Pack a value that is not a container."""
    if type(value) is bytes:
        _text(value.decode("latin-1"))  # it may be a path
        return {"bytes": base64.b64encode(value).decode()}
    if type(value) is complex:
        return {"complex": [pack(value.real, _no_array), pack(value.imag, _no_array)]}
    raise NotSerializable(f"it is or contains a {type(value).__name__}")


def _container(value: Any, inner: Callable[[Any, int], Any], depth: int) -> Any:
    kind = type(value).__name__
    if isinstance(value, dict):
        items = [[inner(key, 2 * i), inner(part, 2 * i + 1)] for i, (key, part) in enumerate(value.items())]
        return {kind: [_factory_name(value, depth), items] if isinstance(value, defaultdict) else items}
    parts = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
    packed = [inner(part, i) for i, part in enumerate(parts)]
    return {kind: [value.maxlen, packed] if isinstance(value, deque) else packed}


def _factory_name(value: defaultdict[Any, Any], depth: int) -> str | None:
    made = value.default_factory
    if made is None:
        return None
    name = next((name for name, factory in _FACTORIES.items() if factory is made), "")
    if not name and depth:
        raise NotSerializable("it contains a defaultdict with a custom factory")
    return name


def _unknown() -> Any:
    """A placeholder for the factory of a defaultdict that only the callback has."""
    raise KeyError


def needs_own_type(value: Any) -> bool:
    """Whether only an existing object can take this value."""
    return isinstance(value, defaultdict) and value.default_factory is _unknown


def unpack(value: Any, arrays: Mapping[str, Any]) -> Any:
    """The value that `pack` was given.

    Raises:
        Malformed: if `pack` did not make it.
    """
    try:
        if isinstance(value, Mapping) and len(value) == 1 and (kind := next(iter(value))) in _GENERATOR_KINDS:
            return SavedGenerator(_GENERATOR_KINDS[kind], _unpack(value[kind], arrays))
        return _unpack(value, arrays)
    except (TypeError, ValueError, KeyError, OverflowError, AttributeError) as error:
        raise Malformed(str(error)) from error


def _unpack(value: Any, arrays: Mapping[str, Any]) -> Any:
    if not isinstance(value, (Mapping, list)):
        return _checked_text(value) if isinstance(value, str) else value
    if isinstance(value, list):
        raise ValueError("a list without a kind")
    ((kind, held),) = value.items()
    if kind in _VALUES:
        return _VALUES[kind](held)
    if kind == "tensor":
        return arrays[held]
    if kind == "object":  # the form of the first version
        return {_checked_text(key): _unpack(part, arrays) for key, part in held.items()}
    return _CONTAINERS[_KINDS[kind]](held, lambda part: _unpack(part, arrays))


def _checked_text(value: str) -> str:
    if has_outside_path(value):
        raise ValueError("a path that leaves the working directory")
    return value


def _unpacked_integer(held: Any) -> int:
    return int(_of(str, held), 16)


def _unpacked_float(held: Any) -> float:
    if held not in ("nan", "inf", "-inf"):
        raise ValueError("neither nan nor an infinity")
    return float(held)


def _unpacked_scalar(held: Any) -> Any:
    name, number = _of(list, held)
    if name not in _SCALARS:
        raise ValueError("not the dtype of a scalar")
    number = _unpack(number, {})
    if not isinstance(number, (bool, int, float)):
        raise ValueError("not a number")
    return np.dtype(name).type(number)


def _unpacked_complex(held: Any) -> complex:
    real, imaginary = (_unpack(part, {}) for part in _of(list, held))
    return complex(_of(float, real), _of(float, imaginary))


def _unpacked_bytes(held: Any) -> bytes:
    value = base64.b64decode(_of(str, held), validate=True)
    _checked_text(value.decode("latin-1"))
    return value


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"expected a {kind.__name__}, found a {type(value).__name__}")
    return value


_VALUES: dict[str, Callable[[Any], Any]] = {
    "integer": _unpacked_integer,
    "float": _unpacked_float,
    "scalar": _unpacked_scalar,
    "complex": _unpacked_complex,
    "bytes": _unpacked_bytes,
}

_Inner = Callable[[Any], Any]


def _sequence(kind: Callable[[list[Any]], Any]) -> Callable[[Any, _Inner], Any]:
    return lambda held, inner: kind([inner(part) for part in _of(list, held)])


def _mapping(kind: Callable[[dict[Any, Any]], Any]) -> Callable[[Any, _Inner], Any]:
    return lambda held, inner: kind(_items(held, inner))


def _items(held: Any, inner: _Inner) -> dict[Hashable, Any]:
    return {inner(key): inner(value) for key, value in _of(list, held)}


def _unpacked_deque(held: Any, inner: _Inner) -> deque[Any]:
    longest, parts = _of(list, held)
    return deque([inner(part) for part in _of(list, parts)], maxlen=longest)


def _unpacked_defaultdict(held: Any, inner: _Inner) -> defaultdict[Any, Any]:
    factory, items = _of(list, held)
    made = None if factory is None else _unknown if factory == "" else _FACTORIES[factory]
    return defaultdict(made, _items(items, inner))


_CONTAINERS: dict[type, Callable[[Any, _Inner], Any]] = {
    list: _sequence(list),
    tuple: _sequence(tuple),
    set: _sequence(set),
    frozenset: _sequence(frozenset),
    deque: _unpacked_deque,
    dict: _mapping(dict),
    OrderedDict: _mapping(OrderedDict),
    Counter: _mapping(Counter),
    defaultdict: _unpacked_defaultdict,
}
_KINDS = {kind.__name__: kind for kind in _CONTAINERS}
