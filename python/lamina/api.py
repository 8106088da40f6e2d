"""`save`, `restore`, `load_model`, `export` and `read_tensors`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lamina.averaging import Average, save_average
from lamina.errors import InvalidInputError
from lamina.files.listing import file_status
from lamina.repository.repository import Repository, check_alias
from lamina.repository.snapshot import Snapshot
from lamina.schemes import local_path
from lamina.sources import Source, read
from lamina.writing import DEFAULT_SERIES, Codec, as_repository, save_path

if TYPE_CHECKING:
    import keras


def save(
    model_or_path: keras.Model | str | os.PathLike[str] | Average,
    repository: str | os.PathLike[str] | Repository,
    *,
    aliases: Iterable[str] = (),
    metadata: Mapping[str, Any] | None = None,
    codec: Codec = "auto",
    weights_only: bool = False,
    series: str = DEFAULT_SERIES,
) -> Snapshot:
    """Save a Keras model, an average, a checkpoint file, a sharded one (by its ``.weights.json``) or a directory.

    Args:
        model_or_path: a built Keras model, a path, or the result of `lamina.average`.
        repository: a repository or its directory; created if it does not exist.
        aliases: aliases of the snapshot; ``latest`` is always set.
        metadata: values to store with the snapshot, as JSON can hold them.
        codec: how new chunks are compressed: ``"auto"``, ``"raw"``, ``"zstd"``, ``"planes"`` or ``"delta"``.
        weights_only: save a model as ``model.weights.h5`` instead of ``model.keras``.
        series: name of the series; ``latest``, ``best`` and retention apply within one series.

    Examples:
        >>> import keras, lamina
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> lamina.save(model, "runs/a", aliases=["before-pruning"]).aliases
        ['latest', 'before-pruning']

    Returns:
        The new snapshot.

    Raises:
        InvalidInputError: if there is nothing to save, or a file changes while it is read.
        NotFoundError: if the path does not exist.
        StorageError: if the operating system refuses, for example because the disk is full.
    """
    if not isinstance(metadata, Mapping | None):
        raise InvalidInputError(f"metadata must be a dict. Received: {metadata!r}")
    names = _aliases(aliases)
    average = model_or_path if isinstance(model_or_path, Average) else None
    path = None if average else _path_of(model_or_path)  # first: on an error, no new repository must be left behind
    target = as_repository(repository)
    fields = {"series": series, "metadata": dict(metadata or {})}
    if average is not None:
        snapshot = save_average(target, average, fields, codec=codec)
    elif path is not None:
        snapshot = save_path(target, path, fields, codec=codec)
    else:
        from lamina.keras.saving.save_model import save_model

        snapshot = save_model(target, model_or_path, fields, codec=codec, weights_only=weights_only)
    target._name(snapshot, names)
    return snapshot


def _path_of(given: Any) -> Path | None:
    """The path to save; None for a model."""
    if isinstance(given, (str, os.PathLike)):
        path = local_path(given, "a Keras model or a path")
        file_status(path)
        return path
    if not hasattr(given, "save_weights"):
        raise InvalidInputError(f"expected a Keras model or a path. Received: {given!r} of type {type(given).__name__}")
    return None


def _aliases(given: Any) -> list[str]:
    names = [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else [given]
    if not all(isinstance(name, str) for name in names):
        raise InvalidInputError(f"aliases must be a list of names. Received: {given!r}")
    names = [name for name in names if name != "latest"]
    for name in names:
        check_alias(name)
    return names


def restore(
    source: Source, model: keras.Model, *, optimizer: bool | Literal["auto"] = "auto", skip_mismatch: bool = False
) -> Snapshot:
    """Restore a snapshot's weights into a model. They are read in parallel and verified, without a temporary file.

    A compiled model can continue training from ``snapshot.next_epoch``: its optimizer, the random seeds and the factors
    of LoRA layers are restored, too. For inference or fine-tuning, pass ``optimizer=False``. On torch, ``fit`` draws
    from torch's own generator before its first step: for an exact continuation give dropout layers a seed, or let a
    callback restore with ``resume=True``.

    A source is one of

    - ``"DIR"``: the latest snapshot of a repository; ``"DIR@REF"``: the one that REF names: an alias, ``latest``,
      ``best``, ``epoch_N``, a number or an id; ``"DIR@SERIES:REF"`` if the repository has several series;
    - a checkpoint file: ``.keras``, ``.weights.h5``, ``.h5``, a sharded one by its ``.weights.json``, or a directory of
      files;
    - ``"s3://BUCKET/PREFIX"``, also with ``@REF`` and ``@SERIES:REF``: a repository in a bucket (also ``gs://``,
      ``az://``, ``file:///``), of which only what is read is fetched;
    - ``"wandb:[ENTITY/][PROJECT/]NAME:ALIAS"``, a `wandb.Artifact`, or the directory of a downloaded one;
    - a `Snapshot`, or a `Repository` (its latest snapshot).

    Args:
        source: one of these.
        model: a built Keras model with the same variables.
        optimizer: ``"auto"`` restores the optimizer of a compiled model if the snapshot has a matching one, and warns
            otherwise; True raises an error otherwise; False does not restore it.
        skip_mismatch: skip variables that the snapshot lacks or has with another shape (for example a new head).

    Examples:
        >>> import keras, lamina
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> lamina.save(model, "runs/a").number
        1
        >>> lamina.restore("runs/a@latest", model).number
        1

    Returns:
        The snapshot that was restored.

    Raises:
        NotFoundError: if the source does not exist.
        InvalidInputError: if the variables do not match; the error names each, and the model is unchanged.
        CorruptDataError: if stored bytes are damaged; the model is unchanged.
    """
    from lamina.keras.restoring.restore import restore as into

    return read(source, lambda opened: into(opened, model, optimizer=optimizer, skip_mismatch=skip_mismatch))


def load_model(source: Source, **load_model_kwargs: Any) -> keras.Model:
    """Load the whole model of a snapshot (a ``.keras`` or ``.h5`` file).

    ``source`` takes the forms of `restore`; the other arguments are those of `keras.models.load_model`.

    Examples:
        >>> import keras, lamina
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> lamina.save(model, "runs/a").kind
        'model'
        >>> lamina.load_model("runs/a").output_shape
        (None, 1)

    Raises:
        NotFoundError: if the source does not exist.
        InvalidInputError: if the snapshot has only weights.
        CorruptDataError: if stored bytes are damaged.
    """
    from lamina.keras.restoring.load_model import load_model as load

    return read(source, lambda opened: load(opened, **load_model_kwargs))


def export(source: Source, directory: str | os.PathLike[str]) -> list[Path]:
    """Write the original files of a snapshot into a directory, byte for byte. They are verified on the way.

    Existing files are replaced. ``source`` takes the forms of `restore`.

    Examples:
        >>> import keras, lamina
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> lamina.save(model, "runs/a").number
        1
        >>> [path.name for path in lamina.export("runs/a@1", "out")]
        ['model.keras']

    Returns:
        The paths of the files.

    Raises:
        NotFoundError: if the source does not exist.
        CorruptDataError: if stored bytes are damaged; each file is complete or absent.
        StorageError: if the operating system refuses, for example because the disk is full.
    """
    target = local_path(directory, "a directory")
    return read(source, lambda opened: opened.content.export(target))


def read_tensors(source: Source, names: Iterable[str] | None = None) -> dict[str, np.ndarray[Any, Any]]:
    """Read tensors of a snapshot by name, or all tensors. From an artifact, only what is read is downloaded.

    A name is Keras's ``variable.path`` (``encoder/kernel``, ``optimizer/encoder/kernel/momentum``), with or without the
    name of the model in front (``encoder/kernel`` for ``sequential/encoder/kernel``), a path in the file
    (``layers/dense/vars/0``; plain files have only these), or a prefix of several names (``encoder``).
    ``source`` takes the forms of `restore`.

    Examples:
        >>> import keras, lamina
        >>> inputs = keras.Input((4,))
        >>> model = keras.Model(inputs, keras.layers.Dense(1, name="head")(inputs))
        >>> lamina.save(model, "runs/a").number
        1
        >>> tensors = lamina.read_tensors("runs/a")
        >>> {name: tensor.shape for name, tensor in tensors.items()}
        {'head/kernel': (4, 1), 'head/bias': (1,)}
        >>> lamina.read_tensors("runs/a", ["layers/dense/vars/1"])
        {'layers/dense/vars/1': array([0.], dtype=float32)}

    Returns:
        Name → array, with the dtype and shape that were saved (bfloat16 and the like as dtypes of ml_dtypes).

    Raises:
        NotFoundError: if the source does not exist, or has no tensor of a name.
        CorruptDataError: if stored bytes are damaged.
    """
    wanted = [names] if isinstance(names, str) else names
    return read(source, lambda opened: opened.content.read_named(wanted))


for _public in (save, restore, load_model, export, read_tensors):
    _public.__module__ = "lamina"  # where users find it
