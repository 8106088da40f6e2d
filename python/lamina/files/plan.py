"""A file as a list of tensors between literal bytes: what the engine stores, and what it rebuilds files from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """Where one tensor's bytes are in a file; ``name`` is its HDF5 path, unique in the file."""

    name: str
    dtype: str  # a dtype name of docs/format.md §5.1
    shape: tuple[int, ...]
    role: str  # "weights" | "optimizer" | "counters"
    offset: int  # in the file; 0 where nbytes is 0
    nbytes: int


@dataclass(frozen=True, slots=True)
class FilePlan:
    """One file of a snapshot. Tensors are sorted by offset and never overlap; all other bytes are literal."""

    path: str  # relative, "/"-separated
    size: int
    tensors: tuple[TensorPlan, ...]

    def literal_runs(self) -> list[tuple[int, int]]:
        """(offset, length) of the bytes that belong to no tensor, in file order."""
        runs, end = [], 0
        for tensor in self.tensors:
            if tensor.nbytes == 0:
                continue
            if tensor.offset > end:
                runs.append((end, tensor.offset - end))
            end = tensor.offset + tensor.nbytes
        if self.size > end:
            runs.append((end, self.size - end))
        return runs
