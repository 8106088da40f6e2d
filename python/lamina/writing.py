"""Saving files from disk, and the fields that every save records."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import metadata as packages
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lamina import _core
from lamina.errors import InvalidInputError
from lamina.files import h5, keras_archive
from lamina.files.plain import kind_of
from lamina.files.plan import FilePlan
from lamina.repository import repository
from lamina.repository.json_values import plain
from lamina.repository.repository import Repository, now
from lamina.repository.snapshot import Snapshot

#: How new chunks are compressed.
Codec: TypeAlias = Literal["auto", "raw", "zstd", "planes", "delta"]
#: The series of a save that names none.
DEFAULT_SERIES = "default"


def as_repository(value: str | os.PathLike[str] | Repository) -> Repository:
    """The repository itself, or the one in a directory, made where it is new.

    Raises:
        InvalidInputError: if it is in a bucket.
    """
    if isinstance(value, Repository):
        value.path  # noqa: B018  (one in a bucket has none, and says so)
        return value
    return repository.open_or_create(value)


def save_path(
    target: Repository,
    path: Path,
    fields: Mapping[str, Any],
    *,
    codec: str = "auto",
    threads: int = 0,
    names: Mapping[str, str] | None = None,
) -> Snapshot:
    """Save a file or a directory. ``fields`` are further fields of the snapshot, ``names`` Keras's names of tensors."""
    if path.is_dir() and target.path.resolve().is_relative_to(path.resolve()):
        raise InvalidInputError(f"cannot save {path} into {target.path}, because the repository is inside it; move one")
    plans = h5.plan_source(path)
    known = {"kind": kind_of(plan.path for _, plan in plans), "training": keras_archive.training(path)}
    text = body(known | dict(fields))
    variables = [[names.get(t.name) for t in p.tensors] for _, p in plans] if names else []
    core = target._core.save_files(
        text, [file_argument(p) for _, p in plans], [f for f, _ in plans], codec, threads, variables
    )
    return Snapshot(core, repository=target)


def file_argument(plan: FilePlan) -> Any:
    """A plan in the form that the engine expects."""
    return plan.path, plan.size, [(t.name, t.dtype, t.shape, t.role, t.offset) for t in plan.tensors]


def body(fields: Mapping[str, Any]) -> str:
    """The JSON text of a snapshot's fields."""
    everything = {"created_at": now(), "software": software()} | dict(fields)
    return json.dumps(plain(everything), allow_nan=False)


_versions: dict[str, str] = {}


def software() -> dict[str, str]:
    """Versions of the packages that determine the format of a checkpoint."""
    for name in ("lamina", "keras", "h5py", "numpy"):
        if name not in _versions:
            try:
                _versions[name] = packages.version(name)
            except packages.PackageNotFoundError:
                continue
    return dict(_versions)


def threads_or_default(threads: int | None) -> int:
    """Check the argument ``threads``; returns 0 for the engine's default."""
    if threads is None:
        return 0
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise InvalidInputError(f"threads must be a whole number of at least 1. Received: {threads!r}")
    return min(threads, 4 * _core.default_threads() + 64)
