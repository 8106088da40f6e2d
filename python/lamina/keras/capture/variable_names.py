"""What Keras calls the variables of a model: the names that people know its tensors by."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from lamina.keras.capture.model_identity import Visited, visits
from lamina.keras.capture.training_state import held_variables
from lamina.keras.capture.walk import FallbackToKeras, walk

#: Longer names are nobody's, and a snapshot of many tensors stays small without them.
MAX_NAME = 1024


def names_of(model: Any) -> dict[str, str]:
    """Path in the file → name, for all that Keras saves of a model; empty where only Keras knows what it saves."""
    try:
        with visits() as visited:
            entries = walk(model).entries
    except FallbackToKeras:
        return {}
    return variable_names(((entry.name, entry.value) for entry in entries), visited)


def variable_names(saved: Iterable[tuple[str, Any]], visited: Visited) -> dict[str, str]:
    """Path in the file → ``variable.path``; slots of an optimizer are called after their variables.

    A name that two tensors have does not tell them apart, so neither has it.
    """
    slots = {f"{path}/vars": _slot_names(saveable) for saveable, path in visited if _is_optimizer(saveable)}
    names: dict[str, str] = {}
    for path, value in saved:
        folder = path.rpartition("/")[0]
        if not isinstance(value, keras.Variable):
            continue  # a kernel with its LoRA factors, for example, is computed
        slot = slots.get(folder, {}).get(id(value))
        name = f"{folder.removesuffix('/vars')}/{slot}" if slot else str(value.path)
        if _can_be_written(name):
            names[path] = name
    count = Counter(names.values())
    return {path: name for path, name in names.items() if count[name] == 1}


def _is_optimizer(saveable: Any) -> bool:
    return isinstance(saveable, keras.optimizers.Optimizer)


def _can_be_written(name: str) -> bool:
    return 0 < len(name.encode(errors="replace")) <= MAX_NAME and name.encode(errors="replace").decode() == name


def _slot_names(optimizer: Any) -> dict[int, str]:
    """Identity → name of each variable of an optimizer. Keras calls a slot ``encoder_kernel_momentum``, without ``/``.

    Where it calls two variables the same, their slots come in the order of these.
    """
    references: dict[str, list[str]] = defaultdict(list)
    for variable in held_variables(optimizer):
        references[variable.path.replace("/", "_")].append(variable.path)
    seen: Counter[str] = Counter()
    names: dict[int, str] = {}
    for variable in optimizer.variables:
        names[id(variable)] = variable.name
        for reference, slot in _splits(variable.name):
            if paths := references.get(reference):
                names[id(variable)] = f"{paths[min(seen[variable.name], len(paths) - 1)]}/{slot}"
                seen[variable.name] += 1
                break
    return names


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Before and after each ``_``, the longest beginning first."""
    at = name.rfind("_")
    while at > 0:
        yield name[:at], name[at + 1 :]
        at = name.rfind("_", 0, at)
