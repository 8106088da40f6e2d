"""Writes the golden repository and artifact, once; every later release must read them.

    PYTHONPATH=python:tests/helpers python tests/data/make_golden.py

It refuses to write where they exist. A later version of the format gets golden files beside these.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import lamina
from engine_repositories import Array, File, Saved, Tensor, save_files, save_memory, write_artifact
from lamina import _core
from lamina.repository import repository
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot

HERE = Path(__file__).parent
GOLDEN = HERE / "golden-v1"
EXPECTED = HERE / "golden-v1.json"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def described(tensors: dict[str, Array]) -> dict[str, Any]:
    """Tensors in the form of `EXPECTED`."""
    return {name: [str(a.dtype), list(a.shape), sha256(a.tobytes())] for name, a in tensors.items()}


def file_digests(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()) for path in found}


def _state(epoch: int) -> Saved:
    """A training: a head that changes, a frozen backbone, enough layers for a tree, and unusual dtypes."""
    frozen, moving = np.random.default_rng(0), np.random.default_rng(epoch)
    tensors = [
        Tensor("backbone/kernel", "<f4", frozen.normal(0, 0.05, (50, 150)).astype("<f4")),
        Tensor("head/kernel", "<f4", moving.normal(0, 0.05, (30, 100)).astype("<f4")),
        Tensor("head/bias", "bfloat16", _bfloat16(moving.normal(0, 1, 300))),
        Tensor("head/empty", "<f8", np.zeros((3, 0, 2))),
        Tensor("head/mask", "|b1", moving.integers(0, 2, 50).astype(bool)),
        Tensor("spectrum", ">c16", (frozen.normal(size=20) + 1j).astype(">c16")),
        Tensor("optimizer/iteration", "<i8", np.array(100 * epoch), "counters"),
        Tensor("optimizer/velocity", "<f4", moving.normal(0, 1e-3, (30, 10)).astype("<f4"), "optimizer"),
    ]
    for layer in range(40):
        gamma = frozen.normal(1, 0.1, 4).astype("<f2")
        tensors.append(Tensor(f"layers/norm_{layer}/gamma", "<f2", gamma))
    gaps = [b"\x89HDF\r\n\x1a\n", *(b"header of %d bytes " % n for n in range(1, len(tensors)))]
    model = File("model.weights.h5", tuple(zip(gaps, tensors, strict=True)), b"symbol table " * 100)
    seed = Tensor("seed_generator/state", "<u4", np.array([7, epoch], "<u4"), "training")
    loss = 1.5 / (epoch + 1)
    fields = {"series": "run-a", "kind": "weights", "run": "abc123", "epoch": epoch, "next_epoch": epoch + 1}
    fields |= {"step": 100 * epoch, "logs": {"val_loss": loss, "accuracy": float("nan")}, "best": True}
    fields |= {"monitor": "val_loss", "mode": "min", "value": loss, "training": {"lr": 0.1}}
    return Saved([model], [seed], fields)


def _bfloat16(values: Array) -> Array:
    import ml_dtypes

    return values.astype(ml_dtypes.bfloat16)


def _opaque() -> Saved:
    files = [
        File("assets/ü/vocabulary.txt", tail=b"".join(b"%d word\n" % n for n in range(3000))),
        File("noise.bin", tail=np.random.default_rng(5).bytes(20_000)),
        File("nothing"),
    ]
    return Saved(files, fields={"series": "opaque ✓", "metadata": {"note": "three files, none of Keras"}})


def _expect(snapshot: Snapshot, saved: Saved) -> dict[str, Any]:
    return {
        "number": snapshot.number,
        "id": snapshot.id,
        "series": snapshot.series,
        "epoch": snapshot.epoch,
        "aliases": snapshot.aliases,
        "files": {file.path: sha256(file.data) for file in saved.files},
        "tensors": described({tensor.name: tensor.array for file in saved.files for _, tensor in file.parts}),
        "training": described({tensor.name: tensor.array for tensor in saved.training}),
    }


def _real_file(target: Repository, folder: Path) -> dict[str, Any]:
    """A file written by HDF5 and planned by lamina; its tensors are read with h5py here."""
    path = folder / "small.weights.h5"
    random = np.random.default_rng(9)
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = random.normal(size=(30, 20)).astype("<f4")
        file["layers/dense/vars/1"] = np.zeros(20, "<f4")
        file["optimizer/vars/0"] = np.int64(3)
    snapshot = lamina.save(path, target, series="run-b", aliases=["published"], codec="zstd")
    expected = _expect(snapshot, Saved([File(path.name, tail=path.read_bytes())]))
    with h5py.File(path) as file:
        names = ["layers/dense/vars/0", "layers/dense/vars/1", "optimizer/vars/0"]
        return expected | {"tensors": described({name: np.asarray(file[name][()]) for name in names})}


def write(folder: Path) -> list[dict[str, Any]]:
    """Write repository and artifact; returns the content of each snapshot."""
    target = repository.open_or_create(folder / "repository")
    saves = [(save_memory(target, state), state) for state in map(_state, range(3))]
    target.set_alias(saves[1][0], "favourite")
    with tempfile.TemporaryDirectory() as temporary:
        opaque = _opaque()
        saves.append((save_files(target, opaque, Path(temporary)), opaque))
        real = _real_file(target, Path(temporary))
        # Deleted below: the snapshot with the highest number, whose claim remains, and one that prune deletes.
        save_memory(target, Saved([File("gone", tail=b"gone")], fields={"series": "gone"}))
    (target.path / "snapshots" / "0000000006.json").unlink()
    (target.path / "snapshots" / "0000000006.claim").touch()
    (target.path / "journal").mkdir()
    upload = {"required": [], "optional": ["resumable"], "snapshots": [saves[1][0].id], "packs": []}
    (target.path / "journal" / "upload.json").write_bytes(_core.seal("journal", json.dumps(upload)))
    target = repository.open(target.path)
    target.prune(lamina.Keep(last=2), series="run-a")
    expected = [_expect(target.snapshot(str(snapshot.number)), saved) for snapshot, saved in saves[1:]]
    write_artifact(target.snapshot("run-a:latest"), folder / "artifact")
    for name in ("sessions", ".gitignore", "prune.lock"):
        path = folder / "repository" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return [*expected, real]


if __name__ == "__main__":
    if GOLDEN.exists() or EXPECTED.exists():
        sys.exit(f"{GOLDEN} exists; golden files are never written again")
    snapshots = write(GOLDEN)
    document = {"files": file_digests(GOLDEN), "snapshots": snapshots, "artifact": snapshots[1]["id"]}
    EXPECTED.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
