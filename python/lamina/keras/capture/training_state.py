"""State of training that no Keras file holds: captured with the weights, and put back.

It is made of the states of random seed generators (on torch, of torch's own generators too), the factors of LoRA
layers (Keras saves the merged kernel, from which training cannot go on), what stateful recurrent layers remember, and
the attributes of tracked callbacks.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from lamina.files import h5
from lamina.files.plain import Opened
from lamina.keras import private, resumed
from lamina.keras.capture.walk import describe

#: The generator of everything random that has no seed of its own.
_GLOBAL = "global"
#: torch's own generators, from which Keras draws dropout without a seed (keras/src/backend/torch/random.py).
_TORCH_RANDOM = "random/torch/"
_KEPT_BY_KERAS = {"params", "_model", "model", "_history"}


@dataclass
class TrainingTensors:
    """Tensors of the training state, and how docs/format.md describes them."""

    values: list[Any] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    specs: list[tuple[str, str, list[int], str, int]] = field(default_factory=list)

    def add(self, name: str, value: Any) -> None:
        dtype, shape = describe(value)
        self.values.append(value)
        self.sizes.append(math.prod(shape) * dtype.itemsize)
        self.specs.append((name, h5.dtype_name(dtype), list(shape), "training", 0))


def take(model: Any, track: Sequence[Any], later: Sequence[Any] = ()) -> tuple[dict[str, Any], TrainingTensors]:
    """What a snapshot's field ``training`` says, and the tensors that it speaks of.

    ``later``: those of ``track`` that will only hear of this epoch's end after the save.
    """
    tensors = TrainingTensors()
    for name, variable in (*_lora_variables(model), *_remembered(model)):
        tensors.add(name, variable)
    for device, generator in _torch_generators():
        tensors.add(_TORCH_RANDOM + device, generator.get_state().numpy())
    fields: dict[str, Any] = {
        "seeds": [[path, keras.ops.convert_to_numpy(state).tolist()] for path, state in _seeds(model)]
    }
    if (optimizer := getattr(model, "optimizer", None)) is not None:
        fields["optimizer"] = optimizer_class(optimizer)
    if track:
        fields["callbacks"] = [
            {
                "class": type(callback).__name__,
                "state": _state_of(callback, f"callbacks/{i}", tensors),
                "later": any(callback is one for one in later),
            }
            for i, callback in enumerate(track)
        ]
    return fields, tensors


def optimizer_class(optimizer: Any) -> str:
    """What kind of optimizer it is, whether or not it scales the loss."""
    return type(getattr(optimizer, "inner_optimizer", optimizer)).__name__


class SavedState:
    """The training state of a snapshot."""

    def __init__(self, opened: Opened) -> None:
        self._snapshot = opened.snapshot
        self._fields = opened.snapshot.training
        self._content = opened.content

    def checkpoint(self) -> dict[str, Any]:
        """What the callback itself had noted."""
        return {name: _unpacked(value, {}) for name, value in self._fields.get("checkpoint", {}).items()}

    def put_into_model(self, model: Any) -> None:
        """Put seeds and LoRA factors back; the weights must already be there."""
        saved = dict(self._fields.get("seeds", ()))
        if _GLOBAL in saved:
            private.global_seed(make=True)  # a new process has none until it is asked for one
        seeds = dict(_seeds(model))
        if saved and seeds.keys() - {_GLOBAL} != saved.keys() - {_GLOBAL}:
            warnings.warn("the snapshot's random seeds belong to another model; they start anew", stacklevel=2)
        else:
            for path in seeds.keys() & saved.keys():
                state = seeds[path]
                state.assign(np.array(saved[path], dtype=keras.backend.standardize_dtype(state.dtype)))
        self._put_torch_generators()
        self._put("LoRA factors", "lora/", dict(_lora_variables(model)))
        self._put("states of recurrent layers", "states/", dict(_remembered(model)))

    def put_into_callbacks(self, track: Sequence[Any]) -> None:
        """Put the state of tracked callbacks back; after their own ``on_train_begin``, which resets it.

        Those that stood behind the saving callback have not heard of the saved epoch's end: they do now.
        """
        saved = self._fields.get("callbacks", [])
        kinds = [entry["class"] for entry in saved]
        if kinds != [type(callback).__name__ for callback in track]:
            warnings.warn(f"the snapshot tracked {kinds or 'no callbacks'}; `track` starts anew", stacklevel=2)
            return
        arrays = self._read("callbacks/")
        for callback, entry in zip(track, saved, strict=True):
            vars(callback).update({name: _unpacked(value, arrays) for name, value in entry["state"].items()})
        with resumed.replaying():
            for callback, entry in zip(track, saved, strict=True):
                if entry.get("later"):
                    callback.on_epoch_end(self._snapshot.epoch, dict(self._snapshot.logs))

    def _put_torch_generators(self) -> None:
        """Of devices that both machines have; another number of them is no reason to go without the rest."""
        saved = self._read(_TORCH_RANDOM)
        for device, generator in _torch_generators():
            if (state := saved.get(_TORCH_RANDOM + device)) is not None:
                generator.set_state(generator.get_state().new_tensor(state))

    def _put(self, what: str, prefix: str, targets: Mapping[str, Any]) -> None:
        arrays = self._read(prefix)
        if not arrays:
            return
        forms = {name: array.shape for name, array in arrays.items()}
        if forms != {name: tuple(variable.shape) for name, variable in targets.items()}:
            warnings.warn(f"the snapshot's {what} do not fit this model; they start anew", stacklevel=2)
            return
        for name, variable in targets.items():
            variable.assign(arrays[name])

    def _read(self, prefix: str) -> dict[str, Any]:
        wanted = {n: t for n, t in self._content.training.items() if n.startswith(prefix)}
        return dict(zip(wanted, self._content.read(wanted.values()), strict=True)) if wanted else {}


def _seeds(model: Any) -> Iterator[tuple[str, Any]]:
    """Path and state of each seed generator, each path once."""
    found = [generator for layer in private.flatten_layers(model) for generator in _generators(layer)]
    shared = private.global_seed()
    for i, generator in enumerate(dict.fromkeys(found)):
        yield f"{i}", generator.state
    if shared is not None:
        yield _GLOBAL, shared.state


def _torch_generators() -> Iterator[tuple[str, Any]]:
    """Device and generator of each of torch's default generators; none on other backends."""
    if keras.config.backend() != "torch":
        return
    import torch

    yield "cpu", torch.default_generator
    for i, generator in enumerate(torch.cuda.default_generators):
        yield f"cuda:{i}", generator


def _generators(layer: Any) -> list[Any]:
    return list(getattr(layer, "_seed_generators", ()))


def _lora_variables(model: Any) -> Iterator[tuple[str, Any]]:
    adapted = [layer for layer in private.flatten_layers(model) if getattr(layer, "lora_enabled", False)]
    for i, layer in enumerate(adapted):
        for j, variable in enumerate([*layer._trainable_variables, *layer._non_trainable_variables]):
            yield f"lora/{i}/{j}", variable


def _remembered(model: Any) -> Iterator[tuple[str, Any]]:
    """What stateful layers hand from one batch to the next; in no list of the model's variables."""
    stateful = [layer for layer in private.flatten_layers(model) if getattr(layer, "stateful", False)]
    for i, layer in enumerate(stateful):
        for j, variable in enumerate(keras.tree.flatten(getattr(layer, "states", None))):
            if isinstance(variable, keras.Variable):
                yield f"states/{i}/{j}", variable


def _state_of(callback: Any, prefix: str, tensors: TrainingTensors) -> dict[str, Any]:
    """The attributes that training has changed: no constructor argument, and only what can be written down."""
    skipped = _KEPT_BY_KERAS | _arguments(type(callback))
    state = {}
    for name, value in vars(callback).items():
        if name not in skipped and _writable(value):
            state[name] = _packed(value, f"{prefix}/{name}", tensors)
    return state


def _arguments(kind: type) -> set[str]:
    found: set[str] = set()
    for base in kind.__mro__[:-1]:
        if "__init__" in vars(base):
            found |= set(inspect.signature(base.__init__).parameters)  # type: ignore[misc]
    return found


def _writable(value: Any) -> bool:
    if value is None or isinstance(value, (bool, int, float, str, np.number, np.bool_)):
        return True
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biufc" or value.dtype.isbuiltin == 2
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _writable(item) for key, item in value.items())
    return isinstance(value, (list, tuple)) and all(map(_writable, value))


def _packed(value: Any, name: str, tensors: TrainingTensors) -> Any:
    """As JSON holds it; what JSON cannot tell apart stands in an object with one key."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, np.ndarray):
        tensors.add(name, value)
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"object": {key: _packed(item, f"{name}/{key}", tensors) for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_packed(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]}
    return value


def packed(value: Any) -> Any:
    """A number or None as the training state holds it."""
    return _packed(value, "", TrainingTensors())


def _unpacked(value: Any, arrays: Mapping[str, Any]) -> Any:
    if not isinstance(value, Mapping):
        return value
    ((kind, held),) = value.items()
    if kind == "float":
        return float(held)
    if kind == "tensor":
        return arrays[held]
    if kind == "object":
        return {key: _unpacked(item, arrays) for key, item in held.items()}
    items = [_unpacked(item, arrays) for item in held]
    return tuple(items) if kind == "tuple" else items
