"""Histories whose numbers are known, for the tests of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import engine_repositories as engine
from lamina.repository import Repository
from lamina.saving import as_repository

BIG = 16_384  # float32 elements: a chunk of 64 KiB of its own


def save(
    repository: Repository, tensors: Mapping[str, Any], *, roles: Mapping[str, str] | None = None, **fields: Any
) -> None:
    """A version of float32 tensors, in a file with 100 bytes of headers."""
    listed = [
        engine.Tensor(name, "<f4", np.asarray(value, "<f4"), (roles or {}).get(name, "weights"))
        for name, value in tensors.items()
    ]
    file = engine.File("m.weights.h5", tuple((b"", tensor) for tensor in listed), b"x" * 100)
    body = {"series": "run", "kind": "weights", **fields}
    engine.save_memory(repository, engine.Saved([file], fields=body), codec="raw")


def known(root: Path) -> Path:
    """Four versions. What moved, and by how much, is exact in float32."""
    repository = as_repository(root)
    one = {
        "layers/big/vars/0": np.full(BIG, 2.0),
        "layers/small/vars/0": [3.0, 4.0],
        "layers/small/vars/1": [1.0],
        "layers/zero/vars/0": [0.0, 0.0],
        "optimizer/vars/0": np.full(BIG, 1.0),
    }
    two = one | {"layers/big/vars/0": np.full(BIG, 3.0), "optimizer/vars/0": np.full(BIG, 1.5)}
    three = two | {"layers/small/vars/0": [3.0, 4.0 + 5 / 8], "layers/zero/vars/0": [0.0, 1.0]}
    four = three | {"layers/new/vars/0": [1.0], "layers/small/vars/1": [1.0, 2.0], "layers/zero/vars/0": [0.0, np.nan]}
    for epoch, (tensors, value) in enumerate(zip((one, two, three, four), (4.0, 2.0, 3.0, None), strict=True)):
        roles = {"optimizer/vars/0": "optimizer"}
        fields = {"epoch": epoch, "monitor": "val_loss", "mode": "min", "value": value, "best": value in (4.0, 2.0)}
        save(repository, tensors, roles=roles, blocked_seconds=(epoch + 1) / 8, **fields)
    return root


def thousand(root: Path, versions: int = 1000, tensors: int = 1000) -> Path:
    """Each version adds 1 to the tensors ``moving(version)``, which were full of powers of 2."""
    repository = as_repository(root)
    names = [f"layers/block_{i // 20}/dense_{i // 2 % 10}/vars/{i % 2}" for i in range(tensors)]
    values = [np.full(4, 1.0, "f4") for _ in range(tensors)]
    for version in range(versions):
        for i in moving(version, tensors):
            values[i] = values[i] * 2
        value = 1 / (version + 1)
        fields = {"epoch": version, "monitor": "loss", "mode": "min", "value": value, "best": True}
        save(repository, dict(zip(names, values, strict=True)), blocked_seconds=0.01, **fields)
    return root


def moving(version: int, tensors: int) -> Sequence[int]:
    """Ten of them, one after the other."""
    return [(version * 10 + i) % tensors for i in range(10)] if version else []
