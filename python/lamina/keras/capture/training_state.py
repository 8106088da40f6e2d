"""Captures and restores the training state that no Keras file holds.

It has the states of seed generators (on torch, also of torch's own generators), the factors of LoRA layers (Keras saves
only the merged kernel, which cannot be trained further), the states of stateful recurrent layers, and the attributes of
tracked callbacks.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from lamina.files import h5
from lamina.files.plain import Opened
from lamina.keras import private, resume_state
from lamina.keras.capture.packing import pack
from lamina.keras.capture.tracked import Tracked
from lamina.keras.capture.training_fields import read_fields
from lamina.keras.capture.walk import describe

#: The generator of all random operations without a seed.
_GLOBAL = "global"
#: torch's own generators, from which Keras draws dropout without a seed (keras/src/backend/torch/random.py).
_TORCH_RANDOM = "random/torch/"


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


def take(model: Any, tracked: Tracked, callbacks_after: Collection[Any] = ()) -> tuple[dict[str, Any], TrainingTensors]:
    """The field ``training`` of a snapshot, and its tensors.

    ``callbacks_after``: those of ``tracked`` that Keras calls after the save, at this epoch's end.
    """
    tensors = TrainingTensors()
    for name, variable in (*_lora_variables(model), *_recurrent_states(model)):
        tensors.add(name, variable)
    for device, generator in _torch_generators():
        tensors.add(_TORCH_RANDOM + device, generator.get_state().numpy())
    fields: dict[str, Any] = {
        "seeds": [[path, keras.ops.convert_to_numpy(state).tolist()] for path, state in _seeds(model)]
    }
    fields |= optimizer_fields(model)
    if tracked:
        fields["callbacks"] = [
            entry | {"later": any(callback is one for one in callbacks_after)}
            for callback, entry in zip(tracked, tracked.take(tensors.add), strict=True)
        ]
    return fields, tensors


def optimizer_class(optimizer: Any) -> str:
    """The class name of the optimizer, without a loss-scaling wrapper."""
    return type(innermost(optimizer)).__name__


def innermost(optimizer: Any) -> Any:
    """The optimizer inside a loss-scaling wrapper."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def optimizer_fields(model: Any) -> dict[str, Any]:
    """What a snapshot notes of the optimizer: its class and, unless it trains all, the variables it was built for.

    The variables are positions in ``model.variables``. A custom `train_step` may train only a part of the model.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return {}
    fields: dict[str, Any] = {"optimizer": optimizer_class(optimizer)}
    held = held_variables(optimizer)
    if [*map(id, held)] != [*map(id, model.trainable_variables)]:
        positions = {id(variable): i for i, variable in enumerate(model.variables)}
        if held and all(id(variable) in positions for variable in held):
            fields["optimizer_variables"] = [positions[id(variable)] for variable in held]
    return fields


def held_variables(optimizer: Any) -> list[Any]:
    """The variables that an optimizer was built for; none if it is not built."""
    return list(getattr(innermost(optimizer), "_trainable_variables", ()))


class SavedState:
    """The training state of a snapshot.

    Raises:
        CorruptDataError: if a field is not as a save writes it. Nothing has been changed then.
    """

    def __init__(self, opened: Opened) -> None:
        self._snapshot = opened.snapshot
        self._content = opened.content
        self._warned: set[str] = set()
        self._fields = read_fields(opened.snapshot.id, opened.snapshot.training, opened.content.training)

    def checkpoint(self) -> dict[str, Any]:
        """The fields that the checkpoint callback saved for itself."""
        return self._fields.checkpoint

    @property
    def optimizer(self) -> str | None:
        """The class of the optimizer."""
        return self._fields.optimizer

    @property
    def optimizer_variables(self) -> list[int] | None:
        """Positions in ``model.variables`` of what the optimizer was built for; None: the trainable ones."""
        return self._fields.optimizer_variables

    def put_into_model(self, model: Any) -> None:
        """Restore seeds, LoRA factors and recurrent states, after the weights."""
        self._put_seeds(model)
        self._put_torch_generators()
        self._put("LoRA factors", "lora/", dict(_lora_variables(model)))
        self._put("states of recurrent layers", "states/", dict(_recurrent_states(model)))

    def _put_seeds(self, model: Any) -> None:
        saved = self._fields.seeds
        if _GLOBAL in saved:
            private.global_seed(make=True)  # a new process creates it only when asked
        seeds = dict(_seeds(model))
        states = {path: _seed_like(seeds[path], saved[path]) for path in seeds.keys() & saved.keys()}
        if saved and (
            seeds.keys() - {_GLOBAL} != saved.keys() - {_GLOBAL} or any(state is None for state in states.values())
        ):
            warnings.warn("did not restore the random seeds: the snapshot has those of another model", stacklevel=2)
            return
        for path, state in states.items():
            seeds[path].assign(state)

    def put_into_callbacks(self, tracked: Tracked, callbacks: Collection[Any]) -> None:
        """Restore these of the tracked callbacks, after their ``on_train_begin``, which resets their state.

        Callbacks that ran after the checkpoint callback were saved before their ``on_epoch_end``: it is called now.
        """
        kinds = [entry.kind for entry in self._fields.callbacks]
        if kinds != tracked.kinds():
            self._warn_once(f"did not restore `track`: the snapshot tracked {kinds or 'no callbacks'}")
            return
        chosen = [i for i, one in enumerate(tracked) if any(one is callback for callback in callbacks)]
        arrays = self._read("callbacks/") if chosen else {}
        for i in chosen:
            tracked.put(i, self._fields.callbacks[i].state(arrays))
        with resume_state.replaying():
            for i in chosen:
                if self._fields.callbacks[i].runs_after and self._snapshot.epoch is not None:
                    tracked[i].on_epoch_end(self._snapshot.epoch, dict(self._snapshot.logs))

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, stacklevel=2)

    def _put_torch_generators(self) -> None:
        """Restore the generators of the devices that both machines have."""
        saved = self._read(_TORCH_RANDOM)
        for device, generator in _torch_generators():
            state, current = saved.get(_TORCH_RANDOM + device), generator.get_state()
            if state is None:
                continue
            if (state.shape, state.dtype) != (tuple(current.shape), np.dtype("uint8")):
                warnings.warn(
                    f"did not restore torch's generator for {device}: its state has another size here", stacklevel=2
                )
                continue
            generator.set_state(current.new_tensor(state))

    def _put(self, what: str, prefix: str, targets: Mapping[str, Any]) -> None:
        arrays = self._read(prefix)
        if not arrays:
            return
        forms = {name: array.shape for name, array in arrays.items()}
        if forms != {name: tuple(variable.shape) for name, variable in targets.items()}:
            warnings.warn(f"did not restore the {what}: the model has other shapes than the snapshot", stacklevel=2)
            return
        for name, variable in targets.items():
            variable.assign(arrays[name])

    def _read(self, prefix: str) -> dict[str, Any]:
        wanted = {n: t for n, t in self._content.training.items() if n.startswith(prefix)}
        return dict(zip(wanted, self._content.read(wanted.values()), strict=True)) if wanted else {}


def _seed_like(state: Any, saved: list[int]) -> Any:
    """A saved seed as the state of a generator of this backend; None if it does not fit.

    Keras's seeds have 32 unsigned bits, but some backends store them in a signed type.
    """
    dtype = np.dtype(keras.backend.standardize_dtype(state.dtype))
    if tuple(state.shape) != (len(saved),):
        return None
    limits = np.iinfo(dtype)
    if all(limits.min <= number <= limits.max for number in saved):
        return np.array(saved, dtype)
    if dtype.itemsize == 4 and all(-(1 << 31) <= number < 1 << 32 for number in saved):
        return np.array([number % (1 << 32) for number in saved], "uint32").view(dtype)
    return None


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


def _recurrent_states(model: Any) -> Iterator[tuple[str, Any]]:
    """The states that stateful layers keep between batches; the model's lists of variables do not have them."""
    stateful = [layer for layer in private.flatten_layers(model) if getattr(layer, "stateful", False)]
    for i, layer in enumerate(stateful):
        for j, variable in enumerate(keras.tree.flatten(getattr(layer, "states", None))):
            if isinstance(variable, keras.Variable):
                yield f"states/{i}/{j}", variable


def packed(value: Any) -> Any:
    """A number or None, packed for the training state."""
    return pack(value, lambda *_: None)
