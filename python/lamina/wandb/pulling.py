"""`pull`: a version of an artifact as a snapshot of a local repository."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lamina import _core, h5
from lamina.dtypes import as_bytes
from lamina.repository import Repository
from lamina.saving import as_repository, body, file_argument
from lamina.snapshot import Snapshot
from lamina.wandb.remote import cache_root, find, open_artifact

_COMPUTED = ("required", "optional", "session", "state", "bytes_total", "bytes_new", "bytes_stored")


def pull(
    source: Any,
    repository: str | os.PathLike[str] | Repository,
    *,
    series: str | None = None,
    aliases: Iterable[str] = (),
) -> Snapshot:
    """Save a version of an artifact into a repository, with everything that is known of it.

    Only packs that the repository lacks are fetched. The snapshot's metadata names where it came from.

    Args:
        source: as for `lamina.wandb.open_artifact`.
        repository: a directory; made where it is new.
        series: another series than the snapshot has.
        aliases: names for it in the repository.
    """
    names = [name for name in ([aliases] if isinstance(aliases, str) else aliases) if name != "latest"]
    for name in names:
        _core.check_alias(name)
    artifact = find(source)  # before a new repository would be made for nothing
    target = as_repository(repository)
    opened = open_artifact(artifact, repository=target)
    fields = {key: value for key, value in json.loads(opened.snapshot._core.body()).items() if key not in _COMPUTED}
    if series is not None:
        fields["series"] = series
    if isinstance(source, str):
        fields["metadata"] = {**fields["metadata"], "pulled_from": source}
    cache_root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pull-", dir=cache_root()) as folder:
        opened.content.export(Path(folder))
        snapshot = _save(target, Path(folder), opened.content, fields)
    target._name(snapshot, names)
    return snapshot


def _save(target: Repository, folder: Path, content: Any, fields: dict[str, Any]) -> Snapshot:
    plans = h5.plan_source(folder)
    arrays, literals = [], []
    for path, plan in plans:
        image = np.fromfile(path, np.uint8) if plan.size == 0 else np.memmap(path, np.uint8, mode="r")
        arrays.append([np.asarray(image[t.offset : t.offset + t.nbytes]) for t in plan.tensors])
        runs = [np.asarray(image[at : at + length]) for at, length in plan.literal_runs()]
        literals.append(np.concatenate(runs) if runs else np.empty(0, np.uint8))
    training = list(content.training.values())
    arrays.append([as_bytes(value) for value in content.read(training)])
    core = target._core.save_memory(
        body(fields),
        [file_argument(plan) for _, plan in plans],
        [(tensor.name, tensor.dtype, tensor.shape, tensor.role, 0) for tensor in training],
        arrays,
        literals,
        "auto",
    )
    return Snapshot(core, repository=target)
