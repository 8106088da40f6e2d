"""Reads the field ``training`` of a snapshot; checks all of it before any part is used.

A snapshot may come from anybody. Its digest proves only that it was not changed since.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lamina.errors import CorruptDataError
from lamina.keras.capture.packing import Malformed, unpack

#: The state of a seed generator of Keras is two numbers.
_SEED_NUMBERS = 2
_MAX_NAME = 1000


@dataclass(frozen=True)
class SavedCallback:
    """The saved state of a tracked callback."""

    kind: str
    packed: Mapping[str, Any]
    runs_after: bool

    def state(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Its attributes; ``arrays`` are the tensors of the training state by name."""
        return {name: unpack(value, arrays) for name, value in self.packed.items()}


@dataclass(frozen=True)
class Fields:
    """The parts of the field ``training``; a missing part is empty."""

    seeds: dict[str, list[int]] = field(default_factory=dict)
    optimizer: str | None = None
    optimizer_variables: list[int] | None = None
    checkpoint: dict[str, Any] = field(default_factory=dict)
    callbacks: list[SavedCallback] = field(default_factory=list)


class _UnexpectedError(Exception):
    """A part that is not as expected."""

    def __init__(self, where: str, expected: str, found: Any) -> None:
        super().__init__(where, expected, found)
        self.where, self.expected, self.found = where, expected, found


def read_fields(snapshot: str, training: Mapping[str, Any], tensors: Mapping[str, Any]) -> Fields:
    """Check and read the field; ``tensors`` are those of the training state, by name.

    Raises:
        CorruptDataError: if a part is not as a save writes it; the message names the part.
    """
    given = {name: value for name, value in training.items() if value is not None}
    try:
        return Fields(**{name: read(given[name], tensors) for name, read in _READERS.items() if name in given})
    except _UnexpectedError as error:
        found = repr(error.found)
        raise CorruptDataError(
            f"snapshot {snapshot[:12]}: training.{error.where} must be {error.expected}. Received: "
            f"{found if len(found) <= 80 else found[:77] + '...'}. lamina.restore(source, model, optimizer=False) "
            "restores the weights alone"
        ) from error


def _expect(condition: bool, where: str, expected: str, found: Any) -> None:
    if not condition:
        raise _UnexpectedError(where, expected, found)


def _seeds(value: Any, tensors: Mapping[str, Any]) -> dict[str, list[int]]:
    expected = f"a list of names, each once, with {_SEED_NUMBERS} integers of at most 64 bits"
    _expect(isinstance(value, list), "seeds", expected, value)
    for entry in value:
        _expect(isinstance(entry, list) and len(entry) == 2, "seeds", expected, entry)
        name, state = entry
        _expect(_is_name(name) and isinstance(state, list) and len(state) == _SEED_NUMBERS, "seeds", expected, entry)
        _expect(all(type(n) is int and -(1 << 63) <= n < 1 << 64 for n in state), "seeds", expected, entry)
    seeds = dict(value)
    _expect(len(seeds) == len(value), "seeds", expected, value)
    return seeds


def _optimizer(value: Any, tensors: Mapping[str, Any]) -> str:
    _expect(_is_name(value), "optimizer", "the name of a class", value)
    return str(value)


def _optimizer_variables(value: Any, tensors: Mapping[str, Any]) -> list[int]:
    expected = "a list of positions, each once"
    _expect(isinstance(value, list) and bool(value), "optimizer_variables", expected, value)
    _expect(all(type(position) is int and position >= 0 for position in value), "optimizer_variables", expected, value)
    _expect(len(set(value)) == len(value), "optimizer_variables", expected, value)
    return list(value)


def _checkpoint(value: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    _expect(isinstance(value, dict), "checkpoint", "an object", value)
    read: dict[str, Any] = {}
    for name in ("best", "best_value"):
        number = _unpacked(f"checkpoint.{name}", value.get(name), {})
        _expect(_is_number(number), f"checkpoint.{name}", "a number or null", value.get(name))
        read[name] = None if number is None else float(number)
    seen = value.get("batches_seen", 0)
    _expect(type(seen) is int and 0 <= seen < 1 << 63, "checkpoint.batches_seen", "a count", seen)
    return read | {"batches_seen": seen}


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    try:
        return value is None or (not isinstance(value, (str, bytes)) and isinstance(float(value), float))
    except (TypeError, ValueError, OverflowError):
        return False


def _callbacks(value: Any, tensors: Mapping[str, Any]) -> list[SavedCallback]:
    _expect(isinstance(value, list), "callbacks", "a list", value)
    return [_callback(f"callbacks[{i}]", entry, tensors) for i, entry in enumerate(value)]


def _callback(where: str, entry: Any, tensors: Mapping[str, Any]) -> SavedCallback:
    _expect(isinstance(entry, dict), where, "an object", entry)
    kind, state, later = entry.get("class"), entry.get("state"), entry.get("later", False)
    _expect(_is_name(kind), f"{where}.class", "the name of a class", kind)
    _expect(isinstance(state, dict), f"{where}.state", "an object", state)
    _expect(isinstance(later, bool), f"{where}.later", "true or false", later)
    for name, value in state.items():
        _unpacked(f"{where}.state.{name}", value, tensors)
    return SavedCallback(kind, state, later)


def _unpacked(where: str, value: Any, tensors: Mapping[str, Any]) -> Any:
    try:
        return unpack(value, tensors)
    except Malformed as error:
        raise _UnexpectedError(where, f"a value as docs/format.md §5.3 describes it ({error})", value) from error


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_NAME


_READERS: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "seeds": _seeds,
    "optimizer": _optimizer,
    "optimizer_variables": _optimizer_variables,
    "checkpoint": _checkpoint,
    "callbacks": _callbacks,
}
