"""The names of tensors: what people call them, and the paths in the file that Keras gives them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from lamina.errors import NotFoundError
from lamina.repository.tensor import TensorInfo

#: Names in an error.
_LISTED = 5


class Tensors(Mapping[str, TensorInfo]):
    """Tensors by the names that people know them by.

    Each is also found by its path in the file, and by its name without that of the model: a `Sequential` model puts its
    own name before those of its layers.
    """

    def __init__(self, tensors: list[TensorInfo]) -> None:
        self.by_path = by_path(tensors)
        self.names = shown_names(self.by_path)
        self._paths = {name: path for path, name in self.names.items()}

    def __getitem__(self, name: str) -> TensorInfo:
        return self.by_path[self.path_of(name)]

    def path_of(self, name: str) -> str:
        """The path in the file of the tensor that a name means; `KeyError` if there is none."""
        if name in self._paths:
            return self._paths[name]
        return name if name in self.by_path else self._short_names[name]

    @cached_property
    def _short_names(self) -> dict[str, str]:
        """Names without that of the model → path, where they mean one tensor."""
        short = [(_without_model(name, self.by_path[path].role), path) for name, path in self._paths.items()]
        count = Counter(name for name, _ in short)
        return {name: path for name, path in short if count[name] == 1}

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def find(self, names: Iterable[str]) -> dict[str, TensorInfo]:
        """The tensors of these names, or below them: ``encoder`` stands for all of ``encoder/…``.

        Raises:
            NotFoundError: if there is none of a name.
        """
        found: dict[str, TensorInfo] = {}
        for name in names:
            meant = [name] if name in self else list(self._below(name))
            if not meant:
                listed = ", ".join(map(repr, list(self)[:_LISTED])) + (", …" if len(self) > _LISTED else "")
                raise NotFoundError(f"no tensor {name!r}; there are {len(self)}: {listed}")
            found |= {one: self[one] for one in meant}
        return found

    def _below(self, folder: object) -> Iterator[str]:
        """Names, or paths if no name stands there, or names without that of the model."""
        if not isinstance(folder, str) or not folder:
            return
        for names in (self._paths, self.by_path, self._short_names):
            found = [name for name in names if name.startswith(f"{folder}/")]
            yield from found
            if found:
                return


class NamedArrays(dict[str, np.ndarray[Any, Any]]):
    """Arrays by the names of tensors; each is also found by the other names that its tensor is found by."""

    def __init__(self, names: Iterable[str], arrays: Iterable[np.ndarray[Any, Any]], tensors: Tensors) -> None:
        super().__init__(zip(names, arrays, strict=True))
        self._tensors = tensors

    def __missing__(self, name: str) -> np.ndarray[Any, Any]:
        own = self._tensors.names[self._tensors.path_of(name)]
        if own == name or own not in self:
            raise KeyError(name)
        return self[own]


def _without_model(name: str, role: str) -> str:
    """``body/kernel`` for ``sequential/body/kernel``, ``optimizer/body/kernel/momentum`` likewise."""
    before, name = ("", name) if role == "weights" else name.partition("/")[::2]
    rest = name.partition("/")[2] or name
    return f"{before}/{rest}" if before else rest


def by_path(tensors: list[TensorInfo]) -> dict[str, TensorInfo]:
    """Tensors by path in the file, or by ``FILE:PATH`` where several files have one of a path."""
    if len({tensor.name for tensor in tensors}) < len(tensors):
        return {f"{tensor.file}:{tensor.name}": tensor for tensor in tensors}
    return {tensor.name: tensor for tensor in tensors}


def shown_names(tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Path → name that is shown: the variable's, unless another tensor has the same or stands at this path."""
    count = Counter(tensor.variable for tensor in tensors.values())

    def shown(path: str, variable: str | None) -> str:
        return variable if variable and count[variable] == 1 and variable not in tensors else path

    return {path: shown(path, tensor.variable) for path, tensor in tensors.items()}
