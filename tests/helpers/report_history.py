"""Histories with known numbers, for the tests of the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import engine_repositories as engine
from lamina.repository.repository import Repository
from lamina.writing import as_repository, body

BIG = 16_384  # float32 elements: its own chunk of 64 KiB


def save(
    repository: Repository, tensors: Mapping[str, Any], *, roles: Mapping[str, str] | None = None, **fields: Any
) -> None:
    """A version of float32 tensors, in a file with 100 bytes of headers."""
    listed = [
        engine.Tensor(name, "<f4", np.asarray(value, "<f4"), (roles or {}).get(name, "weights"))
        for name, value in tensors.items()
    ]
    file = engine.File("m.weights.h5", tuple((b"", tensor) for tensor in listed), b"x" * 100)
    saved = engine.Saved([file], fields={"series": "run", "kind": "weights", **fields})
    engine.save_memory(repository, saved, codec="raw")


def known(root: Path) -> Path:
    """Four versions. The distances are exact in float32."""
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
    """Each version doubles the tensors ``moving(version)``; only those are computed."""
    repository = as_repository(root)
    values = np.ones((tensors, 4), "<f4")
    names = [f"layers/block_{i // 20}/dense_{i // 2 % 10}/vars/{i % 2}" for i in range(tensors)]
    plan = [(name, "<f4", (4,), "weights", 16 * i) for i, name in enumerate(names)]
    arrays, headers = [[row.view(np.uint8) for row in values], []], np.zeros(100, np.uint8)
    for version in range(versions):
        values[moving(version, tensors)] *= 2
        fields = {"series": "run", "kind": "weights", "epoch": version, "monitor": "loss", "mode": "min", "best": True}
        text = body(fields | {"value": 1 / (version + 1), "blocked_seconds": 0.01})
        file = ("m.weights.h5", 16 * tensors + 100, plan)
        repository._core.save_memory(text, [file], [], arrays, [headers], "raw")
    return root


def moving(version: int, tensors: int) -> list[int]:
    """Ten of them, one after the other."""
    return [(version * 10 + i) % tensors for i in range(10)] if version else []
