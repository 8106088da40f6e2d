"""The average of the weights of several sources, computed block by block."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lamina.errors import CorruptDataError, InvalidInputError, StorageError
from lamina.files import keras_archive
from lamina.files.plain import Opened, PlainContent, open_plain
from lamina.repository.content import Content
from lamina.repository.dtypes import as_bytes, to_numpy
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.repository.tensor import TensorInfo
from lamina.sources import Source, resolve
from lamina.writing import save_path

#: Bytes of a tensor that are read at once (sums of float32 take twice as much), and elements that are added at once.
_BLOCK, _STEP = 2 << 20, 1 << 15
#: Tensors that an error lists.
_LISTED = 5


class Average:
    """The average of several sources, and a source itself: for `lamina.restore`, `save`, `export`, `load_model` and
    `read_tensors`.

    The files are made when they are first asked for, in the system's folder for temporary files, and go with this.
    """

    __module__ = "lamina"

    def __init__(self, opened: Sequence[Opened], weights: Sequence[float]) -> None:
        self._contents = [one.content for one in opened]
        self._weights = list(weights)
        self._names = [one.snapshot.id or one.snapshot.series for one in opened]
        self._averaged = _matched(self._contents, [_shown(one) for one in opened])

    def write(self, folder: Path, advance: Callable[[int], None] = lambda _: None) -> list[Path]:
        """Make the files in a folder that holds none of them; ``advance`` is told of the bytes that are done."""
        from lamina.files import h5

        paths = self._contents[-1].export(folder)
        places: dict[tuple[str, str], tuple[Path, int]] = {}
        for path in paths:
            plan = h5.plan_file(path, path.relative_to(folder).as_posix())
            places |= {(plan.path, tensor.name): (path, tensor.offset) for tensor in plan.tensors}
        try:
            for tensors in self._averaged:
                path, offset = _place_of(tensors[-1], places)
                with path.open("r+b", buffering=0) as file:
                    file.seek(offset)
                    for block in self._blocks(tensors):
                        file.write(block.data)
                        advance(block.nbytes)
            for path in paths:
                if path.suffix == ".keras":
                    keras_archive.renew_checksum(path)
        except OSError as error:
            raise StorageError(f"cannot write into {folder}: {error.strerror or error}") from error
        return paths

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that are averaged."""
        return sum(tensors[-1].nbytes for tensors in self._averaged)

    @property
    def metadata(self) -> dict[str, Any]:
        """What a snapshot of it says of its origin."""
        return {"average_of": self._names, "average_weights": self._weights}

    @property
    def files(self) -> dict[str, int]:
        """Paths of its files, and their bytes: those of the last source."""
        return self._contents[-1].files

    @property
    def names(self) -> dict[str, str]:
        """Path in the file → what Keras calls the variable."""
        tensors = self._contents[-1].tensors.by_path.values()
        return {tensor.name: tensor.variable for tensor in tensors if tensor.variable}

    @cached_property
    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        folder = tempfile.TemporaryDirectory(prefix="lamina-")
        self.write(Path(folder.name))
        return folder

    def _as_source(self) -> Opened:
        files = list(self.files)
        place = Path(self._folder.name)
        return open_plain(place / files[0] if len(files) == 1 else place, self.names)

    def _blocks(self, tensors: Sequence[TensorInfo]) -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
        """The bytes of the average, in turn."""
        dtypes = [to_numpy(tensor.dtype) for tensor in tensors]
        wide = np.result_type(np.float64, *(_wide(dtype) for dtype in dtypes))
        count, step = math.prod(tensors[-1].shape), _BLOCK // dtypes[-1].itemsize
        scale = sum(self._weights)
        for start in range(0, count, step):
            size = min(step, count - start)
            total = np.zeros(size, wide)
            for content, tensor, dtype, weight in zip(self._contents, tensors, dtypes, self._weights, strict=True):
                if not weight:  # not even what is infinite counts
                    continue
                part = np.empty(size, dtype)
                content.read_part(tensor, start * dtype.itemsize, as_bytes(part))
                for at in range(0, size, _STEP):
                    total[at : at + _STEP] += part[at : at + _STEP].astype(wide) * weight
            total /= scale
            yield as_bytes(total.astype(dtypes[-1]))

    def __repr__(self) -> str:
        return f"Average(of {len(self._contents)}, {', '.join(map(str, self._names))})"


def average(sources: Iterable[Source], weights: Iterable[float] | None = None) -> Average:
    """Average the weights of several sources, such as the last epochs of a training.

    The result is a source: pass it to `lamina.restore`, `lamina.load_model`, `lamina.save` or `lamina.export`. Every
    float of the model's weights is summed in float64 and rounded once, to the type that the last source has. What is no
    float (seeds, counters), the optimizer's state and all else in the files are those of the last source. What only a
    snapshot holds of a training (tracked callbacks, LoRA factors) is left out. In memory are a few MB, whatever the
    model's size.

    Moving statistics of batch normalisation are averaged like weights, which is not what the averaged model would
    measure: let it see some training data before it is used (``model(x, training=True)`` for a few batches).

    Args:
        sources: two or more, in the forms that `restore` takes, with the same weights: names, shapes, floats.
        weights: how much each counts, a number of 0 or more for each source; None: all the same.

    Examples:
        >>> import keras, lamina
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> for value in (1.0, 3.0):
        ...     model.set_weights([w * 0 + value for w in model.get_weights()])
        ...     snapshot = lamina.save(model, "runs/a")
        >>> averaged = lamina.average(["runs/a@1", "runs/a@2"])
        >>> snapshot = lamina.restore(averaged, model)
        >>> float(model.get_weights()[0][0, 0])
        2.0

    Raises:
        InvalidInputError: if there is nothing to average, or a tensor is not the same in all; it names the tensor.
    """
    if isinstance(sources, (str, os.PathLike)) or not isinstance(sources, Iterable):
        raise InvalidInputError(f"expected a list of sources. Received: {sources!r}")
    given = list(sources)
    if len(given) < 2:
        raise InvalidInputError(f"an average needs two sources or more. Received: {given!r}")
    counts = [1.0] * len(given) if weights is None else _counts(weights, len(given))
    return Average([resolve(source) for source in given], counts)


average.__module__ = "lamina"


def save_average(target: Repository, average: Average, fields: dict[str, Any], *, codec: str) -> Snapshot:
    """Save its files; the metadata says what it is made of."""
    with tempfile.TemporaryDirectory(prefix="lamina-") as name:
        folder = Path(name)
        paths = average.write(folder)
        known = fields | {"metadata": average.metadata | fields["metadata"]}
        place = paths[0] if len(paths) == 1 else folder
        return save_path(target, place, known, codec=codec, names=average.names)


def _place_of(tensor: TensorInfo, places: Mapping[tuple[str, str], tuple[Path, int]]) -> tuple[Path, int]:
    place = places.get((tensor.file or "", tensor.name))
    if place is None:
        raise CorruptDataError(f"{tensor.file} holds no tensor {tensor.name} where its snapshot says so")
    return place


def _counts(weights: Iterable[float], sources: int) -> list[float]:
    found = list(weights) if isinstance(weights, Iterable) and not isinstance(weights, str) else [weights]
    try:
        numbers = [float(number) for number in found]
    except (TypeError, ValueError):
        numbers = [math.nan]
    if len(numbers) != sources or not all(0 <= n < math.inf for n in numbers) or not sum(numbers):
        raise InvalidInputError(
            f"expected a weight of 0 or more for each of the {sources} sources, not all of them 0. Received: {found!r}"
        )
    return numbers


def _shown(opened: Opened) -> str:
    snapshot = opened.snapshot
    return snapshot.series if snapshot.number is None else f"snapshot {snapshot.number} of {snapshot.series!r}"


def _matched(contents: Sequence[Content | PlainContent], names: Sequence[str]) -> list[list[TensorInfo]]:
    """The tensors to be averaged, one of each source in a list."""
    last = _floats(contents[-1])
    if not last:
        raise InvalidInputError(f"{names[-1]} holds no weights that can be averaged: {', '.join(contents[-1].files)}")
    found = [_floats(content) for content in contents]
    for floats, name in zip(found, names, strict=True):
        for path in dict.fromkeys([*last, *floats]):
            ours, theirs = last.get(path), floats.get(path)
            shown = next(t.variable for t in (ours, theirs) if t is not None) or path
            if ours is None or theirs is None:
                here, there = (name, names[-1]) if ours is None else (names[-1], name)
                raise InvalidInputError(
                    f"only {here} has the tensor {shown}, and {there} has not; nothing was averaged"
                )
            if ours.shape != theirs.shape:
                raise InvalidInputError(
                    f"the tensor {shown} is {theirs.shape} in {name}, and {ours.shape} in {names[-1]}; "
                    "nothing was averaged"
                )
    return [[floats[path] for floats in found] for path in last]


def _floats(content: Content | PlainContent) -> dict[str, TensorInfo]:
    """Weights that are floats, by path in the file."""
    tensors = content.tensors.by_path
    return {p: t for p, t in tensors.items() if t.role == "weights" and _is_float(to_numpy(t.dtype))}


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "fc" or (dtype.kind == "V" and "float" in dtype.name)


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype if dtype.kind in "fc" else np.dtype(np.float64)
