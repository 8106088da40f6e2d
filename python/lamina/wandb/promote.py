"""`promote`: a version becomes one of a registry, as the plain file that everybody can load."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import wandb

from lamina import sources
from lamina.errors import ArtifactError, InvalidInputError
from lamina.sources import Source
from lamina.wandb.description import Description, aliases_or_error
from lamina.wandb.log_checkpoint import log_checkpoint
from lamina.wandb.push import _run
from lamina.wandb.upload.draft import new_draft

_TARGET = re.compile(r"([^/:]+/){1,2}[^/:]+")


def promote(
    source: Source, target: str, aliases: Iterable[str] = (), *, name: str | None = None
) -> wandb.Artifact | None:
    """Link a version into a registry or a portfolio, as the plain file; its content is verified on the way.

    Args:
        source: what `lamina.restore` takes; ``"wandb:NAME:best"`` for instance.
        target: ``"wandb-registry-NAME/COLLECTION"`` or ``"[entity/]project/portfolio"``.
        aliases: aliases of the link.
        name: the collection that the plain file is logged to; default: the file's name.

    Examples:
        >>> import keras, lamina, wandb
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> snapshot = lamina.save(model, "runs/a")
        >>> with wandb.init(project="digits") as run:
        ...     artifact = lamina.wandb.log_checkpoint(snapshot, name="digits")
        >>> linked = lamina.wandb.promote("wandb:digits/digits:latest", "digits/models", ["production"])

    Returns:
        The linked artifact.

    Raises:
        InvalidInputError: if ``target`` is malformed, or the snapshot has several files.
        ArtifactError: if W&B refuses the file or the link.
    """
    if not _TARGET.fullmatch(target):
        raise InvalidInputError(
            f"expected 'wandb-registry-NAME/COLLECTION' or 'project/portfolio'. Received: {target!r}"
        )
    names = aliases_or_error(aliases)
    new_draft(Description(name or "model"))
    opened = sources.resolve(source)
    with tempfile.TemporaryDirectory(prefix="lamina-promote-") as folder:
        paths = opened.content.export(Path(folder))
        if len(paths) != 1:
            raise InvalidInputError(f"only a snapshot with one file can be promoted; this one has {len(paths)}")
        metadata = {"promoted_from": str(source), "snapshot": opened.snapshot.id or None, "logs": opened.snapshot.logs}
        if wandb.run is not None and not (wandb.run.offline or wandb.run.disabled):
            return _linked(wandb.run, paths[0], target, names, name, metadata)
        with _run(job_type="lamina-promote") as run:
            return _linked(run, paths[0], target, names, name, metadata)


def _linked(run: Any, path: Path, target: str, aliases: list[str], name: str | None, metadata: dict[str, Any]) -> Any:
    collection = name or path.name.split(".")[0]
    artifact = log_checkpoint(path, run=run, name=collection, layout="file", metadata=metadata)
    try:
        artifact.wait()
        return run.link_artifact(artifact, target, aliases=aliases)
    except Exception as error:
        raise ArtifactError(f"cannot link {collection} to {target}: {error}") from error
