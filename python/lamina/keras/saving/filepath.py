"""Checks ``filepath``: a Keras file or a SavedModel, local or remote."""

from __future__ import annotations

import importlib.util
import os
import re
import warnings
from dataclasses import dataclass
from typing import Any

import keras

from lamina.errors import InvalidInputError
from lamina.keras.remote import is_remote
from lamina.keras.saving.tf_saved_model import check_replaceable
from lamina.repository.repository import Repository
from lamina.schemes import local_path

# ``resnet-1.5`` has no extension, and neither has a template that ends in a placeholder.
_EXTENSION = re.compile(r"\.[A-Za-z]\w*$")
_SEPARATORS = "/" + (os.sep if os.sep != "/" else "")
_WEIGHTS = ".weights.h5"

#: Arguments of other checkpoint callbacks, and their replacements.
_REPLACED = {
    "period": "save_freq=lamina.keras.EveryNEpochs(n) saves every n epochs",
    "epochs": "save_freq=lamina.keras.EveryNEpochs(n) saves every n epochs",
    "save_format": "the extension of filepath decides: .keras, .h5, .weights.h5, or none for a SavedModel",
    "load_weights_on_restart": "repository=DIRECTORY with resume=True continues from the latest snapshot",
    "max_to_keep": "repository=DIRECTORY with keep=lamina.Keep(last=n) keeps the n newest",
    "save_model": "leave save_weights_only at False to save the whole model",
    "log_model": "WandbModelCheckpoint logs each save, lamina.keras.ModelCheckpoint logs none",
    "overwrite": "an existing file at filepath is always replaced",
}


@dataclass(frozen=True)
class Target:
    """A ``filepath`` and what it means."""

    filepath: str
    saved_model: bool = False
    options: Any = None  # tf.saved_model.SaveOptions, for a SavedModel

    @property
    def for_keras(self) -> str:
        """A path that Keras's constructor accepts."""
        return f"{self.filepath}.keras" if self.saved_model else self.filepath

    @property
    def early(self) -> bool:
        """Whether the directory of a SavedModel is known before training."""
        return self.saved_model and "{" not in self.filepath and not is_remote(self.filepath)

    @property
    def preempted(self) -> str:
        """The path for the last step of a preempted training, which must not replace the best one."""
        return os.path.join(os.path.dirname(self.filepath).partition("{")[0], f"preempted{self._suffix}")

    @property
    def _suffix(self) -> str:
        if self.saved_model:
            return ""
        return _WEIGHTS if self.filepath.endswith(_WEIGHTS) else os.path.splitext(self.filepath)[1]


def target_of(filepath: Any, *, weights_only: bool, options: Any, caller: str) -> Target:
    """The kind of file by the extension of the template; dots inside a placeholder do not count.

    Raises:
        InvalidInputError: if this backend or this machine cannot write such a file.
    """
    given = os.fspath(filepath) if isinstance(filepath, os.PathLike) else filepath
    if not isinstance(given, str):
        raise InvalidInputError(f"filepath must be a str or an os.PathLike. Received: {filepath!r}")
    if is_remote(given):
        _require_tensorflow(f"writing to {given!r} needs TensorFlow, which is not installed")
    path, saved_model = given, False
    if not _EXTENSION.search(given):
        path = given.rstrip(_SEPARATORS)
        if not os.path.basename(path):
            raise InvalidInputError(f"filepath must end in the name of a file or folder. Received: {given!r}")
        if weights_only:
            path += _WEIGHTS
            warnings.warn(f"{caller}: weights are saved as HDF5, so filepath becomes {path!r}", stacklevel=4)
        else:
            saved_model = True
            _check_backend(given)
    used = _options(options, saved_model=saved_model, weights_only=weights_only, caller=caller)
    return Target(path, saved_model, used)


def check_repository(repository: Any) -> None:
    """Refuse a repository that is not a directory on this machine."""
    if repository is None or isinstance(repository, Repository):
        return
    local_path(repository, "repository= to be a directory")
    _check_directory(os.path.abspath(repository))


def _check_directory(wanted: str) -> None:
    """Refuse a directory that could not be created at the first save."""
    parent = wanted
    while not os.path.lexists(parent) and parent != os.path.dirname(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent):
        raise InvalidInputError(f"repository must be a directory, but {parent} is not one. Received: {wanted!r}")


def check_destination(target: Target, repository: Any, *, keep_file: bool, resume: bool) -> None:
    """Refuse before training what would fail at a save or a resume."""
    check_repository(repository)
    if resume:
        _check_resumable(target, repository)
    if target.early:
        check_replaceable(target.filepath)
    if repository is None and not keep_file:
        raise InvalidInputError("keep_file=False without a repository saves nothing: pass repository=DIRECTORY")


def _check_resumable(target: Target, repository: Any) -> None:
    """Refuse to resume without a repository, or from files that cannot be trained."""
    if target.saved_model:
        raise InvalidInputError(
            "resume=True is not supported for a SavedModel, which is for inference only. "
            f"End filepath in .keras or {_WEIGHTS}. "
            f"Received: {target.filepath!r}"
        )
    if repository is None:
        raise InvalidInputError("resume=True needs a repository: pass repository=DIRECTORY")


def refuse_unknown(caller: str, unknown: dict[str, Any]) -> None:
    """Refuse unknown arguments, and name the replacement of those of other callbacks."""
    for name in unknown:
        instead = f": {_REPLACED[name]}" if name in _REPLACED else ""
        raise TypeError(f"{caller} has no argument {name!r}{instead}")


def check_model(model: Any, caller: str) -> None:
    """Refuse models of the package ``tf_keras`` (Keras 2), whose `fit` calls the same hooks."""
    if any(base.__module__.partition(".")[0] == "tf_keras" for base in type(model).__mro__):
        raise InvalidInputError(
            f"{caller} is a Keras 3 callback, but this is a tf_keras model (Keras 2). "
            "Unset TF_USE_LEGACY_KERAS and build the model with `keras`"
        )


def _check_backend(given: str) -> None:
    way = "end it in `.keras` or `.weights.h5`, or train on TensorFlow"
    if keras.config.backend() not in ("tensorflow", "jax"):
        raise InvalidInputError(
            "a filepath without an extension means a SavedModel, which the "
            f"{keras.config.backend()} backend cannot write: {way}. Received: {given!r}"
        )
    _require_tensorflow(
        "a filepath without an extension means a SavedModel, which needs TensorFlow, and that is not installed: "
        f"{way}. Received: {given!r}"
    )


def _require_tensorflow(otherwise: str) -> None:
    if importlib.util.find_spec("tensorflow") is None:
        raise InvalidInputError(otherwise)


def _options(options: Any, *, saved_model: bool, weights_only: bool, caller: str) -> Any:
    """The options if they have an effect; otherwise warn, and None."""
    if options is None:
        return None
    kind = type(options).__name__
    if saved_model and kind == "SaveOptions":
        return options
    if kind == "CheckpointOptions":
        reason = "it is for TensorFlow checkpoints, which Keras 3 does not write"
    elif kind == "SaveOptions":
        reason = f"it is for a SavedModel, but {'weights are' if weights_only else 'the model is'} saved to one file"
    else:
        reason = "only tf.saved_model.SaveOptions work, and only for a SavedModel"
    warnings.warn(f"{caller}: `options` of type {kind} has no effect: {reason}", stacklevel=5)
    return None
