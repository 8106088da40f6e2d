"""Makes a template of the HDF5 file that Keras would write for a model, without the weights.

Keras's own store writes it, with the same calls in the same order, but only one element per tensor. So HDF5 places each
tensor where Keras's file has it, and all bytes outside the tensors are those of Keras's file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lamina.errors import LaminaError, StorageError
from lamina.files import h5
from lamina.files.plan import FilePlan
from lamina.keras.capture.sparse_image import SparseImage
from lamina.keras.capture.walk import (
    Entry,
    FallbackToKeras,
    RecordingStore,
    Walk,
    enumerate_variables,
    save_state,
    walk,
)
from lamina.keras.private import H5IOStore, saving_lib

__all__ = ["Entry", "FallbackToKeras", "Template", "Walk", "enumerate_variables", "make_template", "walk"]


@dataclass(frozen=True, slots=True)
class Template:
    """The HDF5 file of all models with this ``structure``."""

    plan: FilePlan
    values: list[Any]  # in the order of the plan's tensors
    literals: bytes  # all other bytes, in the order of the file
    structure: Hashable


def make_template(model: Any, *, embedded: bool) -> Template:
    """Make the template of a ``.weights.h5`` file or, with ``embedded``, of the one inside a ``.keras`` file.

    The two differ, because the placement of data depends on the driver of HDF5.
    """
    if not model.built:
        raise FallbackToKeras("the model has not been built")
    if embedded:
        image = SparseImage()
        store = _SparseStore(image)
        _fill(model, store)
        plan = h5.plan_image(image, image.size, saving_lib._VARS_FNAME_H5)
        return _template(store, plan, b"".join(image.pieces(plan.literal_runs())))
    try:
        with tempfile.TemporaryDirectory(prefix="lamina-") as folder:
            return _template_in(Path(folder), model)
    except LaminaError:
        raise
    except OSError as error:
        raise StorageError(f"cannot write a small file in {tempfile.gettempdir()}: {error}") from error


def _template_in(folder: Path, model: Any) -> Template:
    file = folder / "model.weights.h5"
    store = _SparseStore(file)
    _fill(model, store)
    plan = h5.plan_file(file, file.name)
    with file.open("rb") as stream:
        return _template(store, plan, b"".join(_pieces(stream, plan)))


def _pieces(stream: Any, plan: FilePlan) -> Iterator[bytes]:
    for offset, length in plan.literal_runs():
        stream.seek(offset)
        yield stream.read(length)


def _fill(model: Any, store: _SparseStore) -> None:
    try:
        save_state(model, store)
    finally:
        store.finish()


def _template(store: _SparseStore, plan: FilePlan, literals: bytes) -> Template:
    values = {entry.name: entry for entry in store.entries}
    planned = {tensor.name: tensor for tensor in plan.tensors}
    if len(values) != len(store.entries) or values.keys() != planned.keys():
        odd = sorted(values.keys() ^ planned.keys())[:3]
        raise FallbackToKeras(f"the file's datasets are not those that Keras set: {', '.join(odd)}")
    for name, tensor in planned.items():
        if (tensor.dtype, tensor.shape) != (values[name].dtype, values[name].shape):
            raise FallbackToKeras(f"the file stores {name} as {tensor.dtype} {tensor.shape}")
    return Template(plan, [values[t.name].value for t in plan.tensors], literals, tuple(store.steps))


class _SparseStore(RecordingStore):
    """A store that writes Keras's file with one element per tensor; Keras itself makes the groups."""

    def __init__(self, target: Path | SparseImage) -> None:
        super().__init__()
        self._own = True
        self._file: Any = None
        self._group: Any = None
        H5IOStore.__init__(self, target, mode="w")
        self._own = False

    def make(self, path: str, metadata: dict[str, Any] | None = None) -> _SparseStore:
        super().make(path, metadata)
        with self._as_keras():
            H5IOStore.make(self, path, metadata)
        return self

    def _create(self, key: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        with self._as_keras():
            if not self._h5_entry_initialized:
                self._create_h5_group(self._h5_entry_path)
            h5.create_sparse(self._h5_entry_group, key, dtype, shape)

    def finish(self) -> None:
        self._file.close()

    @contextmanager
    def _as_keras(self) -> Iterator[None]:
        """Allow the inherited code to use the file; nothing else may."""
        self._own = True
        try:
            yield
        finally:
            self._own = False

    @property
    def h5_file(self) -> Any:
        return self._file if self._own else self._refuse("uses the HDF5 file")

    @h5_file.setter
    def h5_file(self, file: Any) -> None:
        self._file = file

    @property
    def _h5_entry_group(self) -> Any:
        return self._group if self._own else self._refuse("uses the HDF5 group")

    @_h5_entry_group.setter
    def _h5_entry_group(self, group: Any) -> None:
        self._group = group
