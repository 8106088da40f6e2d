"""Tensors as files of other tools: ``.safetensors`` and ``.npz``. Written block by block; in memory are a few MB."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from lamina import _core
from lamina.errors import InvalidInputError, StorageError, UnsupportedFormatError
from lamina.files.plain import PlainContent
from lamina.files.replacing import flush, put_in_place
from lamina.repository.content import Content
from lamina.repository.dtypes import as_bytes, to_numpy
from lamina.repository.tensor import TensorInfo

Advance: TypeAlias = Callable[[int], None]
_Tensors: TypeAlias = Mapping[str, TensorInfo]
_Content: TypeAlias = Content | PlainContent
_Array: TypeAlias = np.ndarray[Any, Any]
#: Bytes of a tensor that are written at once: four chunks.
_BLOCK = 4 << 20
#: What readers of safetensors accept, and where they want the tensors to begin.
_MAX_HEADER, _ALIGNMENT = 100_000_000, 8
_RESERVED = "__metadata__"
#: numpy's name of a dtype → that of safetensors.
_SAFETENSORS = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32",
    "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0", "complex64": "C64",
}  # fmt: skip


def write(path: Path, kind: str, content: _Content, advance: Advance) -> None:
    """Write all tensors of a content under the names that people know; the file is there whole or not at all."""
    tensors = dict(content.tensors)
    if not tensors:
        raise InvalidInputError(f"the source holds no tensors, only {', '.join(content.files) or 'nothing'}")
    body = {"safetensors": _safetensors, "npz": _npz}[kind]
    header = _safetensors_header(tensors) if kind == "safetensors" else b""
    if kind == "npz":
        _check_npz(tensors)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _core.Temporary(path.parent)
        try:
            made = temporary.path / "made"
            with made.open("wb") as file:
                file.write(header)
                body(file, tensors, content, advance)
            flush(made)
            put_in_place(path, lambda target: os.replace(made, target))
            flush(path.parent)
        finally:
            temporary.remove()
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def _in_order(tensors: Mapping[str, TensorInfo]) -> list[tuple[str, TensorInfo]]:
    """The widest elements first, so that each tensor begins at a multiple of its own."""
    return sorted(tensors.items(), key=lambda item: -to_numpy(item[1].dtype).itemsize)


def _safetensors_header(tensors: Mapping[str, TensorInfo]) -> bytes:
    entries, at = {}, 0
    for name, tensor in _in_order(tensors):
        dtype = _SAFETENSORS.get(to_numpy(tensor.dtype).name)
        if dtype is None:
            raise UnsupportedFormatError(f"safetensors has no dtype for the tensor {name!r}, which is {tensor.dtype}")
        if name == _RESERVED:
            raise InvalidInputError(f"safetensors keeps the name {_RESERVED} for itself, and a tensor is called so")
        entries[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > _MAX_HEADER:
        raise UnsupportedFormatError(f"the names of {len(tensors)} tensors take more than safetensors allows")
    return len(text).to_bytes(8, "little") + text


def _safetensors(file: BinaryIO, tensors: _Tensors, content: _Content, advance: Advance) -> None:
    for _, tensor in _in_order(tensors):
        for block in _blocks(content, tensor, advance):
            file.write(as_bytes(block.astype(block.dtype.newbyteorder("<"), copy=False)).data)


def _npz(file: BinaryIO, tensors: _Tensors, content: _Content, advance: Advance) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, tensor in tensors.items():
            dtype = _npy_dtype(tensor)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": tensor.shape}
                np.lib.format.write_array_header_2_0(member, about)
                for block in _blocks(content, tensor, advance):
                    member.write(as_bytes(block.astype(dtype, copy=False)).data)


def _check_npz(tensors: Mapping[str, TensorInfo]) -> None:
    """Whoever unpacks the archive must get its files below the folder that they chose."""
    for name, tensor in tensors.items():
        _npy_dtype(tensor)
        if any(part in ("", ".", "..") for part in name.split("/")) or set(name) & set("\\:\0"):
            raise InvalidInputError(f"a file of an archive cannot be called {name!r}, and a tensor is; use safetensors")


def _npy_dtype(tensor: TensorInfo) -> np.dtype[np.generic]:
    """numpy's files know none of the small floats; float32 holds each of their values."""
    dtype = to_numpy(tensor.dtype)
    if dtype.kind != "V" or dtype.name.startswith("void"):
        return dtype
    return np.dtype(np.float32 if "float" in dtype.name else np.int8 if dtype.name.startswith("int") else np.uint8)


def _blocks(content: _Content, tensor: TensorInfo, advance: Advance) -> Iterator[_Array]:
    dtype = to_numpy(tensor.dtype)
    count, step = math.prod(tensor.shape), max(1, _BLOCK // dtype.itemsize)
    for start in range(0, count, step):
        block = np.empty(min(step, count - start), dtype)
        content.read_part(tensor, start * dtype.itemsize, as_bytes(block))
        yield block
        advance(block.nbytes)
