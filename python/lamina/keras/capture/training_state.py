"""State of training that no Keras file holds: captured with the weights, and put back.

It is made of the states of random seed generators (on torch, of torch's own generators too), the factors of LoRA
layers (Keras saves the merged kernel, from which training cannot go on), what stateful recurrent layers remember, and
the attributes of tracked callbacks.
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

#: The generator of everything random that has no seed of its own.
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
    """What a snapshot's field ``training`` says, and the tensors that it speaks of.

    ``callbacks_after``: those of ``tracked`` that will only hear of this epoch's end after the save.
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
    """What kind of optimizer it is, whether or not it scales the loss."""
    return type(innermost(optimizer)).__name__


def innermost(optimizer: Any) -> Any:
    """The optimizer itself where another one scales the loss around it."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def optimizer_fields(model: Any) -> dict[str, Any]:
    """What a snapshot notes of the optimizer: its class, and for which variables it was built where not for all.

    They are positions in ``model.variables``; a `train_step` of one's own may train a part of the model.
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
        CorruptDataError: if a field that is read back is not what a save writes; nothing has been touched then.
    """

    def __init__(self, opened: Opened) -> None:
        self._snapshot = opened.snapshot
        self._content = opened.content
        self._warned: set[str] = set()
        self._fields = read_fields(opened.snapshot.id, opened.snapshot.training, opened.content.training)

    def checkpoint(self) -> dict[str, Any]:
        """What the callback itself had noted."""
        return self._fields.checkpoint

    @property
    def optimizer(self) -> str | None:
        """The class of the optimizer."""
        return self._fields.optimizer

    @property
    def optimizer_variables(self) -> list[int] | None:
        """Positions in the model's variables of those that the optimizer was built for; None: the trainable ones."""
        return self._fields.optimizer_variables

    def put_into_model(self, model: Any) -> None:
        """Put seeds and LoRA factors back; the weights must already be there."""
        self._put_seeds(model)
        self._put_torch_generators()
        self._put("LoRA factors", "lora/", dict(_lora_variables(model)))
        self._put("states of recurrent layers", "states/", dict(_recurrent_states(model)))

    def _put_seeds(self, model: Any) -> None:
        saved = self._fields.seeds
        if _GLOBAL in saved:
            private.global_seed(make=True)  # a new process has none until it is asked for one
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
        """Give these of the tracked callbacks their state back; after their own ``on_train_begin``, which resets it.

        Those that stood behind the saving callback have not heard of the saved epoch's end: they do now.
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
        """Of devices that both machines have; another number of them is no reason to go without the rest."""
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
    """A saved seed as the state of a generator here; None where it cannot be one.

    Keras takes seeds for 32 unsigned bits, though some backends hold them in a signed type.
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
    """What stateful layers hand from one batch to the next; in no list of the model's variables."""
    stateful = [layer for layer in private.flatten_layers(model) if getattr(layer, "stateful", False)]
    for i, layer in enumerate(stateful):
        for j, variable in enumerate(keras.tree.flatten(getattr(layer, "states", None))):
            if isinstance(variable, keras.Variable):
                yield f"states/{i}/{j}", variable


def packed(value: Any) -> Any:
    """A number or None as the training state holds it."""
    return pack(value, lambda *_: None)
