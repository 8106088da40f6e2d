"""Finds the tensors in .h5, .weights.h5 and .keras files; the only importer of h5py.

The content of a file is never an error: what is damaged, foreign or unusual is stored as literal bytes.

A tensor is a dataset whose bytes are in the file in one piece: contiguous, unfiltered, neither external nor virtual,
allocated, and of a dtype that docs/format.md has. If datasets share bytes (hard links, or a hostile file), the one
that begins first, and of these the first by name, is the tensor; the others are not listed.
"""

from __future__ import annotations

import functools
import io
import math
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5s, h5t

from lamina.errors import InvalidInputError, StorageError
from lamina.files.keras_archive import Window, stored_weights
from lamina.files.listing import file_status, source_files
from lamina.files.plan import FilePlan, TensorPlan

# What a snapshot may hold (docs/format.md §10); a file with more links is one opaque file.
MAX_LINKS = 1 << 24
# Keras writes no longer paths. The limit also bounds the nesting of groups.
MAX_NAME = 4096
MAX_RANK = 64

_DTYPE = re.compile(r"\|b1|\|[iu]1|[<>][iu][248]|[<>]f(2|4|8|12|16)|[<>]c(8|16|24|32)|\|V[1-9][0-9]{0,8}")


def plan_file(file: Path, path: str) -> FilePlan:
    """Plan ``file`` under the name ``path``. Only a file that cannot be read at all is an error."""
    status = file_status(file)
    if not stat.S_ISREG(status.st_mode):
        raise InvalidInputError(f"{file} is not a regular file")
    try:
        raw = file.open("rb", buffering=0)
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror or error}") from error
    with raw:
        return FilePlan(path, status.st_size, _tensors_of(file, raw, path.lower(), status.st_size))


def plan_source(source: Path) -> list[tuple[Path, FilePlan]]:
    """Plan the files of ``source``: a file, a sharded checkpoint (by its index), or a directory."""
    return [(file, plan_file(file, name)) for file, name in source_files(source)]


def holds_model(file: Path) -> bool:
    """Whether a legacy ``.h5`` file holds a whole model; True for a damaged file, whose reader gives a better error."""
    try:
        with h5py.File(file, "r", locking=False) as h5:
            return "model_config" in h5.attrs
    except OSError:
        return True


def _tensors_of(file: Path, raw: io.FileIO, name: str, size: int) -> tuple[TensorPlan, ...]:
    try:
        if name.endswith((".h5", ".hdf5")):
            with _opened(file, raw, size) as h5:
                return _disjoint(_tensors(h5, 0, size))
        if name.endswith(".keras") and (found := stored_weights(raw, size)) is not None:
            start, length = found
            with h5py.File(Window(raw, start, length), "r") as h5:
                return _disjoint(_tensors(h5, start, start + length))
    except Exception:
        # On damage h5py and zipfile raise almost any exception. What they cannot read is stored as opaque bytes.
        pass
    return ()


def _opened(file: Path, raw: io.FileIO, size: int) -> h5py.File:
    """Open without a lock: with one, a file on some network file systems cannot be read. Nothing is written."""
    try:
        return h5py.File(file, "r", locking=False)
    except OSError:
        # HDF5 refuses a file that this process has open with a lock. Through a Python file object it does not notice.
        return h5py.File(Window(raw, 0, size), "r")


def plan_image(image: BinaryIO, size: int, path: str) -> FilePlan:
    """Plan an HDF5 file from an open or in-memory file object."""
    with h5py.File(image, "r") as h5:
        return FilePlan(path, size, _disjoint(_tensors(h5, 0, size)))


@functools.cache
def dtype_name(dtype: np.dtype[Any]) -> str:
    """The name of docs/format.md §5.1 for the elements that h5py writes for a numpy dtype."""
    if dtype.name == "bfloat16":
        return "bfloat16"
    # h5py writes every other dtype of ml_dtypes as opaque bytes.
    native = dtype.kind in "biufcV" and dtype.isbuiltin != 2
    return str(dtype.str) if native else f"|V{dtype.itemsize}"


def create_sparse(group: Any, key: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Create the dataset as Keras does, but write one element only; HDF5 allocates all of them."""
    marked = dtype.name == "bfloat16"
    dataset = group.create_dataset(key if marked else None, shape=shape, dtype=dtype)
    if shape and 0 not in shape:
        one = (1,) * len(shape)
        space = dataset.id.get_space()
        space.select_hyperslab((0,) * len(shape), one)
        dataset.id.write(h5s.create_simple(one), space, np.zeros(one, dtype))
    else:
        dataset.id.write(h5s.ALL, h5s.ALL, np.zeros(shape, dtype))
    if marked:
        dataset.attrs["dtype"] = "bfloat16"
    else:
        group[key] = dataset


def write_vectors(file: Path, vectors: Iterable[np.ndarray[Any, Any]]) -> None:
    """Write a new file with a dataset per vector, named as Keras names layers."""
    with h5py.File(file, "x") as h5:
        for number, vector in enumerate(vectors):
            h5.create_dataset(f"layers/dense_{number}/vars/0", data=vector)


def _tensors(h5: h5py.File, start: int, end: int) -> Iterator[TensorPlan]:
    """Yield the tensors of an HDF5 file that is embedded in its file from ``start`` to ``end``, in any order."""
    dtypes: dict[bytes, str | None] = {}
    for name, dataset in _datasets(h5.id):
        try:
            tensor = _tensor(name, dataset, start, end, dtypes)
        except Exception:
            continue  # this dataset is stored as literal bytes; the others are not affected
        if tensor is not None:
            yield tensor


def _datasets(file_id: Any) -> Iterator[tuple[str, Any]]:
    """Visit each dataset by its hard links, without recursion: HDF5's own visitor has no depth limit."""
    pending: list[tuple[Any, bytes, str]] = [(file_id, b"/", "")]
    groups = {h5o.get_info(file_id).addr}
    links = 0
    while pending:
        parent, link, prefix = pending.pop()
        group = h5g.open(parent, link)
        children = _hard_links(group, MAX_LINKS - links)
        links += len(children)
        for child, address in children:
            found = _open(group, child, prefix)
            if found is None:
                continue
            name, opened = found
            if isinstance(opened, h5d.DatasetID):
                yield name, opened
            elif isinstance(opened, h5g.GroupID) and address not in groups:
                groups.add(address)
                pending.append((group, child, name + "/"))


def _hard_links(group: Any, limit: int) -> list[tuple[bytes, int]]:
    """The names and object addresses of a group's hard links; soft and external ones are never followed."""
    links: list[tuple[bytes, int]] = []

    def visit(name: bytes, info: Any) -> None:
        if len(links) >= limit:
            raise ValueError(f"more than {MAX_LINKS} links")
        if info.type == h5l.TYPE_HARD:
            links.append((name, info.u))

    group.links.iterate(visit, info=True)
    return links


def _open(group: Any, link: bytes, prefix: str) -> tuple[str, Any] | None:
    if len(prefix) + len(link) > MAX_NAME:
        return None
    try:
        return prefix + link.decode(), h5o.open(group, link)
    except Exception:
        return None  # a name that is not text, or a damaged object


def _tensor(name: str, dataset: Any, start: int, end: int, dtypes: dict[bytes, str | None]) -> TensorPlan | None:
    properties = dataset.get_create_plist()
    if properties.get_layout() != h5d.CONTIGUOUS or properties.get_nfilters() or properties.get_external_count():
        return None
    dtype = _dtype(dataset, dtypes)
    shape = dataset.shape
    if dtype is None or len(shape) > MAX_RANK:
        return None
    stored = dataset.get_storage_size()
    if stored != math.prod(shape) * dataset.get_type().get_size():
        return None
    if stored == 0:
        return TensorPlan(name, dtype, shape, role(name, shape), 0, 0)
    offset = dataset.get_offset()  # counted from byte 0 of the HDF5 file, a user block included
    if offset is None or start + offset + stored > end:
        return None
    return TensorPlan(name, dtype, shape, role(name, shape), start + offset, stored)


def _dtype(dataset: Any, known: dict[bytes, str | None]) -> str | None:
    kind = dataset.get_type()
    key = kind.encode()
    if key not in known:
        known[key] = _numpy_name(kind)
    if known[key] == "|V2" and _is_bfloat16(dataset):
        return "bfloat16"
    return known[key]


def _numpy_name(kind: Any) -> str | None:
    """The name of docs/format.md for an HDF5 type, if numpy stores its elements in exactly the same way."""
    opaque = kind.get_class() == h5t.OPAQUE
    if not opaque and kind.get_class() not in (h5t.INTEGER, h5t.FLOAT, h5t.ENUM, h5t.COMPOUND):
        return None
    if kind.get_class() == h5t.COMPOUND and kind.get_nmembers() != 2:
        return None
    dtype = kind.dtype
    if dtype.itemsize != kind.get_size() or not _DTYPE.fullmatch(dtype.str) or dtype.fields or dtype.subdtype:
        return None
    if kind.get_class() == h5t.ENUM and dtype.kind != "b":
        return None
    return dtype.str if opaque or kind.equal(h5t.py_create(dtype, logical=1)) else None


def _is_bfloat16(dataset: Any) -> bool:
    """Keras marks bfloat16, which h5py writes as two opaque bytes, with a string attribute ``dtype``.

    The value of the attribute is not read: HDF5 stores strings in its global heap, and a damaged heap can make the
    library loop for ever.
    """
    if not h5a.exists(dataset, b"dtype"):
        return False
    kind = h5a.open(dataset, b"dtype").get_type()
    return bool(kind.get_class() == h5t.STRING and kind.is_variable_str())


def role(name: str, shape: tuple[int, ...]) -> str:
    """The role of a tensor by its Keras name: ``"weights"``, ``"optimizer"``, or ``"counters"`` (optimizer scalars)."""
    if name.partition("/")[0] not in ("optimizer", "optimizer_weights"):
        return "weights"
    return "optimizer" if shape else "counters"


def _disjoint(tensors: Iterator[TensorPlan]) -> tuple[TensorPlan, ...]:
    kept: list[TensorPlan] = []
    empty: list[TensorPlan] = []
    end = 0
    for tensor in sorted(tensors, key=lambda t: (t.offset, t.name)):
        if tensor.nbytes == 0:
            empty.append(tensor)
        elif tensor.offset >= end:
            kept.append(tensor)
            end = tensor.offset + tensor.nbytes
    return (*kept, *empty)
