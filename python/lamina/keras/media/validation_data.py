"""Reads examples from all that ``fit`` accepts: arrays, tf.data, PyDataset, DataLoader, generators."""

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from lamina.errors import InvalidInputError

BATCH = 32  # the default of fit


def is_arrays(data: Any) -> bool:
    """Whether the data is ``(x, y)`` or ``(x, y, sample_weight)``, and not a source of batches."""
    return isinstance(data, tuple | list)


def check_source(argument: str, data: Any) -> None:
    """Refuse data that is neither arrays nor a source of batches."""
    if is_arrays(data):
        if len(data) not in (2, 3) or any(not _is_data(part) for part in data[:2]):
            raise InvalidInputError(
                f"`{argument}` must be (x, y) or (x, y, sample_weight), arrays as passed to `fit`. "
                f"Received: a {type(data).__name__} of {len(data)}"
            )
    elif isinstance(data, str | bytes | dict) or not (hasattr(data, "__iter__") or _is_indexed(data)):
        raise InvalidInputError(
            f"`{argument}` must be a tuple of arrays, a tf.data.Dataset, a PyDataset, a DataLoader "
            f"or a generator of (x, y). Received: {data!r}"
        )


def _is_data(part: Any) -> bool:
    return (
        part is not None
        and not isinstance(part, str | bytes)
        and all(hasattr(leaf, "__len__") or hasattr(leaf, "shape") for leaf in keras.tree.flatten(part))
    )


def _is_indexed(data: Any) -> bool:
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


class Batches:
    """A source of batches: the next one without an end, or all of a finite source."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._iterator: Iterator[Any] | None = None
        self._last: Any = None
        self.once = hasattr(source, "__next__")

    def next(self) -> tuple[Any, Any]:
        """The next batch. After the end, start again; of a generator, repeat the last one."""
        if self._iterator is None:
            self._iterator = self._begin()
        try:
            self._last = next(self._iterator)
        except StopIteration:
            if not self.once:
                self._iterator = self._begin()
                self._last = next(self._iterator, self._last)
        if self._last is None:
            raise InvalidInputError("the source of validation data is empty")
        return examples(self._last)

    def all(self, steps: int | None = None) -> list[Any]:
        """The first ``steps`` batches, or all of a finite source."""
        if self.once:
            batches = [next(self._source, None) for _ in range(steps or 0)]
            return [batch for batch in batches if batch is not None]
        iterator = self._begin()
        return [batch for _, batch in zip(range(steps), iterator, strict=False)] if steps else list(iterator)

    @property
    def finite(self) -> bool:
        """Whether ``all()`` without ``steps`` is known to end."""
        if self.once:
            return False
        cardinality = getattr(self._source, "cardinality", None)
        if callable(cardinality):
            return int(cardinality()) >= 0
        length = getattr(self._source, "num_batches", None)
        return length is not None or hasattr(self._source, "__len__")

    def _begin(self) -> Iterator[Any]:
        if isinstance(self._source, keras.utils.PyDataset) or not hasattr(self._source, "__iter__"):
            return (self._source[i] for i in range(len(self._source)))
        return iter(self._source)


def examples(batch: Any) -> tuple[Any, Any]:
    """(x, y) of a batch, as NumPy arrays in their structure; y is None without targets."""
    x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
    return to_numpy(x), None if y is None else to_numpy(y)


def to_numpy(data: Any) -> Any:
    return keras.tree.map_structure(_array, data)


def _array(value: Any) -> Any:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        return value.float().numpy() if "bfloat16" in str(value.dtype) else value.numpy()
    if hasattr(value, "numpy") and callable(value.numpy):
        return np.asarray(value.numpy())
    return np.asarray(value)


def concatenate(batches: Iterable[Any]) -> tuple[Any, Any]:
    """(x, y) of several batches, concatenated."""
    pairs = [examples(batch) for batch in batches]
    if not pairs:
        raise InvalidInputError("the source of validation data is empty")
    x = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *(pair[0] for pair in pairs))
    if pairs[0][1] is None:
        return x, None
    return x, keras.tree.map_structure(lambda *parts: np.concatenate(parts), *(pair[1] for pair in pairs))


def take(data: Any, indices: Any) -> Any:
    """The examples at these positions."""
    return keras.tree.map_structure(lambda array: array[indices], data)


def count(data: Any) -> int:
    return len(keras.tree.flatten(data)[0])


def slices(data: Any) -> Iterator[tuple[Any, ...]]:
    """Arrays in batches, as ``fit`` reads them."""
    arrays = tuple(to_numpy(part) for part in data)
    for start in range(0, count(arrays[0]), BATCH):
        chosen = slice(start, start + BATCH)
        yield tuple(None if part is None else take(part, chosen) for part in arrays)
