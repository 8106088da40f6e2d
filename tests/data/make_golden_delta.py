"""Writes the golden repository with delta chunks, once; every later release must read it.

    PYTHONPATH=python:tests/helpers python tests/data/make_golden_delta.py

It refuses to write where it exists.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from data.make_golden import file_digests, sha256

from engine_repositories import File, Saved, Tensor, save_memory
from lamina.repository import repository

HERE = Path(__file__).parent
GOLDEN = HERE / "golden-v1-delta"
EXPECTED = HERE / "golden-v1-delta.json"
#: dtype and elements; the odd one is no float here.
TENSORS = {"table/f4": ("<f4", 5000), "table/f2": ("<f2", 9000), "table/f8": ("<f8", 2100), "table/big": (">f4", 4200)}


def _state(version: int) -> Saved:
    """Tables in which a few values change from version to version, also to unusual values."""
    random = np.random.default_rng(3)
    arrays = {name: random.normal(0, 0.05, count).astype(dtype) for name, (dtype, count) in TENSORS.items()}
    for step in range(1, version + 1):
        moving = np.random.default_rng(step)
        for array in arrays.values():
            array[moving.integers(0, array.size, 20)] *= 1.01
            array[moving.integers(0, array.size, 3)] = [np.nan, -np.inf, -0.0]
    parts = [(b"header", Tensor(name, array.dtype.str, array)) for name, array in arrays.items()]
    return Saved([File("model.weights.h5", tuple(parts), b"end")], fields={"series": "embedding"})


def write(folder: Path) -> list[dict[str, Any]]:
    """Write the repository; returns the content of each snapshot."""
    target = repository.open_or_create(folder / "repository")
    found = []
    for version in range(3):
        state = _state(version)
        snapshot = save_memory(target, state)
        files = {file.path: sha256(file.data) for file in state.files}
        found.append({"number": snapshot.number, "id": snapshot.id, "files": files})
    for name in ("sessions", ".gitignore"):
        path = folder / "repository" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return found


if __name__ == "__main__":
    if GOLDEN.exists() or EXPECTED.exists():
        sys.exit(f"{GOLDEN} exists; golden files are never written again")
    snapshots = write(GOLDEN)
    document = {"files": file_digests(GOLDEN), "snapshots": snapshots}
    EXPECTED.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
