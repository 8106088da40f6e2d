"""Checks constructor arguments: each function returns the value or raises what it expected."""

import math
from collections.abc import Sequence
from operator import index
from typing import Any, Literal, TypeAlias, get_args

import keras
import numpy as np

from lamina import _core
from lamina.errors import InvalidInputError
from lamina.remote.address import Address, parse
from lamina.remote.store import check_installed
from lamina.repository.keep import Keep
from lamina.writing import threads_or_default

DeviceCopy: TypeAlias = Literal["auto", "always", "never"]
Codec: TypeAlias = Literal["auto", "raw", "zstd", "planes", "delta"]
Layout: TypeAlias = Literal["file", "packs"]
Mode: TypeAlias = Literal["auto", "min", "max"]
OnBacklog: TypeAlias = Literal["wait", "replace"]
OnError: TypeAlias = Literal["warn", "raise"]


def refuse(name: str, expected: str, value: object) -> InvalidInputError:
    return InvalidInputError(f"`{name}` must be {expected}. Received: {value!r}")


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise refuse(name, "True or False", value)
    return bool(value)


def integer(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or index(value) < least:
        raise refuse(name, f"an int of {least} or more", value)
    return index(value)


def number_above_zero(name: str, value: Any) -> float:
    """A number of Python or numpy that is finite and more than 0."""
    if isinstance(value, bool | str) or not hasattr(value, "__float__") or not 0 < float(value) < math.inf:
        raise refuse(name, "a number above 0", value)
    return float(value)


def optional_integer(name: str, value: Any, least: int) -> int | None:
    return None if value is None else integer(name, value, least)


def choice(name: str, value: Any, choices: Sequence[Any]) -> Any:
    if not isinstance(value, str | None) or value not in choices:
        raise refuse(name, f"one of {', '.join(map(repr, choices))}", value)
    return value


def text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise refuse(name, "a name", value)
    return value


def processor(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise refuse(name, "a function of (index, row)", value)
    return value


def listing(name: str, value: Any) -> list[Any]:
    """A list; empty for None."""
    if value is None:
        return []
    if isinstance(value, str | bytes | dict) or not hasattr(value, "__len__"):
        raise refuse(name, "a list", value)
    return list(value)


def codec(value: Any) -> str:
    return str(choice("codec", value, get_args(Codec)))


def backlog(value: Any) -> str:
    return str(choice("on_backlog", value, get_args(OnBacklog)))


def device_copy(value: Any) -> str:
    return str(choice("device_copy", value, get_args(DeviceCopy)))


def keep(value: Any) -> Keep | None:
    if value is not None and not isinstance(value, Keep):
        raise InvalidInputError(f"keep must be a lamina.Keep. Received: {value!r}")
    return value


def remote(value: Any, repository: Any) -> Address | None:
    """The bucket that a repository is sent to."""
    if value is None:
        return None
    address = parse(value)
    if repository is None:
        raise InvalidInputError("remote needs a repository: pass repository=DIRECTORY; its snapshots go to the bucket")
    check_installed()
    return address


def function(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise InvalidInputError(f"{name} must be a function. Received: {value!r}")
    return value


def threads(value: Any) -> int | None:
    wanted = threads_or_default(value)
    if wanted == 0:
        _core.default_threads()  # refuse a wrong LAMINA_THREADS now, not at the first save
    return wanted or None


def callbacks(name: str, value: Any) -> tuple[keras.callbacks.Callback, ...]:
    found = tuple(listing(name, value))
    if not all(isinstance(one, keras.callbacks.Callback) for one in found):
        raise refuse(name, "a list of Keras callbacks", value)
    return found


def colors(name: str, value: Any) -> Any:
    """A float32 array of shape (classes, 3); None stays None."""
    if value is None:
        return None
    try:
        array = np.asarray(value, dtype="float32")
    except (TypeError, ValueError):
        array = np.zeros(())
    if array.ndim != 2 or array.shape[1] != 3 or not ((array >= 0) & (array <= 1)).all():
        raise refuse(name, "one (red, green, blue) of 0 to 1 per class", value)
    return array
