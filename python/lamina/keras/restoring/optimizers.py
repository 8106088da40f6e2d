"""Prepares the optimizers of a model for a restore: builds them if necessary, and skips those that do not match."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from lamina.errors import InvalidInputError
from lamina.keras.capture.model_identity import Visited
from lamina.keras.capture.training_state import SavedState, held_variables, optimizer_class
from lamina.repository.tensor import TensorInfo

OPTIMIZER = "optimizer/"


def wants_optimizer(model: Any, stored: Iterable[str], wanted: bool | str) -> bool:
    """Whether the model has an optimizer and the snapshot has its state."""
    if wanted is False:
        return False
    if getattr(model, "optimizer", None) is None:
        if wanted is True:
            raise InvalidInputError("the model has no optimizer; compile it first, or pass optimizer=False")
        return False
    if not _inside("optimizer", stored):
        return _skip_optimizer("the snapshot has no optimizer state", wanted)
    return True


def build_optimizer(model: Any, stored: Iterable[str], wanted: bool | str, state: SavedState | None) -> bool:
    """Build an unbuilt optimizer for the saved one's variables; return whether it can be restored."""
    optimizer = model.optimizer
    positions = None if state is None else state.optimizer_variables
    if optimizer.built:
        if positions is None or _positions(model, held_variables(optimizer)) == positions:
            return True
        return _skip_optimizer(
            f"it was built for other variables than the saved one, which had {len(positions)}. {_HOW}", wanted
        )
    # An optimizer saved before its first step has no slots, so it needs none here.
    if len(_inside("optimizer", stored)) <= len(optimizer.variables):
        return True
    variables = _chosen(model, positions)
    if variables is None:
        return _skip_optimizer(f"the saved one was built for other variables than the model trains. {_HOW}", wanted)
    optimizer.build(variables)
    return True


_HOW = "Call model.optimizer.build([the variables that it trains]) on the unbuilt optimizer, then restore again"


def _chosen(model: Any, positions: list[int] | None) -> list[Any] | None:
    if positions is None:
        return list(model.trainable_variables)
    variables = model.variables
    if max(positions) >= len(variables):
        return None
    chosen = [variables[position] for position in positions]
    # Keras's own step trains all trainable variables; only a custom one trains a part.
    if _trains_in_keras_way(model) and {*map(id, model.trainable_variables)} - {*map(id, chosen)}:
        return None
    return chosen


def _trains_in_keras_way(model: Any) -> bool:
    return getattr(type(model), "train_step", None) is getattr(keras.Model, "train_step", None)


def _positions(model: Any, variables: Iterable[Any]) -> list[int]:
    """Positions in the model's variables; -1 for other variables."""
    known = {id(variable): i for i, variable in enumerate(model.variables)}
    return [known.get(id(variable), -1) for variable in variables]


def _skip_optimizer(reason: str, wanted: bool | str) -> bool:
    if wanted is True:
        raise InvalidInputError(f"the optimizer cannot be restored: {reason}")
    warnings.warn(f"lamina.restore did not restore the optimizer: {reason}", stacklevel=6)
    return False


def optimizer_fits(
    expected: Mapping[str, Any],
    stored: Mapping[str, TensorInfo],
    wanted: bool | str,
    optimizer: Any,
    state: SavedState | None,
) -> bool:
    """Whether the optimizer has the saved one's class (if that is known) and variables."""
    ours, saved_class = optimizer_class(optimizer), None if state is None else state.optimizer
    if saved_class is not None and saved_class.lower() != ours.lower():
        return _skip_optimizer(f"the snapshot's optimizer is {saved_class}, the model's is {ours}", wanted)
    have = {name: shape for name, shape in expected.items() if name.startswith(OPTIMIZER)}
    there = {name: tensor.shape for name, tensor in stored.items() if name.startswith(OPTIMIZER)}
    return have == there or _skip_optimizer(f"{_differ(have, there, stored)}. {_HOW}", wanted)


def _differ(have: Mapping[str, Any], there: Mapping[str, Any], stored: Mapping[str, TensorInfo]) -> str:
    """How two sets of variables differ."""
    if len(have) != len(there):
        return f"the model's has {len(have)} variables, the saved one {len(there)}"
    name = next((name for name in there if have.get(name) != there[name]), "")
    shown = (stored[name].variable if name else None) or name
    return f"its variable {shown} has the shape {have.get(name, '(missing)')}, the saved one {there.get(name)}"


def unbuilt(optimizer: Any) -> Any:
    """An unbuilt optimizer with the same configuration."""
    return type(optimizer).from_config(optimizer.get_config())


def optimizers_left(
    visited: Visited, expected: Mapping[str, Any], stored: Mapping[str, TensorInfo], wanted: bool | str
) -> dict[str, Any]:
    """Further optimizers of the model that are not restored, by path: unwanted, or with other shapes.

    A model with several optimizers builds them itself, often in its first step, and only it knows their variables.
    """
    others = {
        path: saveable
        for saveable, path in visited
        if isinstance(saveable, keras.optimizers.Optimizer) and not f"{path}/".startswith(OPTIMIZER)
    }
    if wanted is False:
        return others
    left = {}
    for path, other in others.items():
        have = {name: tuple(expected[name]) for name in _inside(path, expected)}
        there = {name: stored[name].shape for name in _inside(path, stored)}
        if have != there:
            differ = f"the model's {path!r} has {len(have)} variables, the saved one {len(there)}, or their shapes"
            how = f"if it was not built yet: model.{path.replace('/', '.')}.build(…) with what it trains, before this"
            _skip_optimizer(f"{differ} differ; {how}", wanted)
            left[path] = other
    return left


def without(paths: Iterable[str], tensors: dict[str, Any]) -> dict[str, Any]:
    """The tensors outside of these paths."""
    out = {name for path in paths for name in _inside(path, tensors)}
    return {name: value for name, value in tensors.items() if name not in out}


def _inside(path: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(f"{path}/")]
