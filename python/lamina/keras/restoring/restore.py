"""Restores a snapshot into a Keras model: check, read in parallel, then load with Keras's own walk."""

from __future__ import annotations

import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lamina.errors import InvalidInputError
from lamina.files.plain import Opened
from lamina.keras import private
from lamina.keras.built import check_built
from lamina.keras.capture.model_identity import Visited, visits
from lamina.keras.capture.training_state import SavedState
from lamina.keras.capture.variable_names import variable_names
from lamina.keras.capture.walk import Entry, FallbackToKeras, walk
from lamina.keras.restoring.assets import compare_assets, load_missing_assets
from lamina.keras.restoring.keras_errors import as_corrupt_data, check_archive
from lamina.keras.restoring.optimizers import (
    OPTIMIZER,
    build_optimizer,
    optimizer_fits,
    optimizers_left,
    unbuilt,
    wants_optimizer,
    without,
)
from lamina.keras.restoring.strategy import scope_of
from lamina.keras.restoring.zero_copy import shareable_array
from lamina.repository.dtypes import to_numpy
from lamina.repository.snapshot import Snapshot
from lamina.repository.tensor import TensorInfo

#: Advice for the caller of `lamina.restore` if shapes differ.
SKIP = "Pass skip_mismatch=True to skip the layers that differ"


def restore(
    opened: Opened,
    model: Any,
    *,
    optimizer: bool | str = "auto",
    skip_mismatch: bool = False,
    advice: str = SKIP,
) -> Snapshot:
    """Restore the weights and the training state of an opened source into ``model``."""
    if optimizer not in (True, False, "auto"):
        raise InvalidInputError(f"optimizer must be True, False or 'auto'. Received: {optimizer!r}")
    if not hasattr(model, "load_weights"):
        raise InvalidInputError(f"expected a Keras model. Received: {model!r} of type {type(model).__name__}")
    check_built(model, "restoring")
    with scope_of(model):
        return _restore(opened, model, optimizer, skip_mismatch, advice)


def _restore(opened: Opened, model: Any, optimizer: bool | str, skip_mismatch: bool, advice: str) -> Snapshot:
    state = saved_state(opened, model, optimizer)
    stored = stored_tensors(opened)
    if not stored or private.why_not("load"):
        return _load_with_keras(opened, model, optimizer, skip_mismatch, state)
    with_optimizer = wants_optimizer(model, stored, optimizer)
    try:
        entries, visited = _entries_of(model)
    except FallbackToKeras:
        if with_optimizer:
            build_optimizer(model, stored, optimizer, state)
        return _load_with_keras(opened, model, optimizer, skip_mismatch, state)
    left = optimizers_left(visited, _shapes(entries), stored, optimizer)
    stored = without(left, stored)
    mismatched = _mismatches(without(left, _shapes(entries)), stored, _shown_names(entries, visited, stored))
    if mismatched and not skip_mismatch:
        raise InvalidInputError(_mismatch_message(mismatched, advice))
    missing_assets = compare_assets(opened, visited)
    with_optimizer = with_optimizer and _optimizer_is_ready(model, stored, optimizer, state)
    wanted = [
        tensor
        for name, tensor in stored.items()
        if (with_optimizer or not name.startswith(OPTIMIZER)) and _folder(name)[0] not in _folders(mismatched)
    ]
    _warn_of_casts(entries, wanted)
    _warn_of_unknown(mismatched, stored, _shapes(entries))
    folders = by_folder(wanted, opened.content.read(wanted, empty=shareable_array))
    load_arrays(model, folders, with_optimizer=with_optimizer, mismatched=mismatched, skipped=left.values())
    load_missing_assets(missing_assets)
    if state is not None and not mismatched:
        state.put_into_model(model)
    return opened.snapshot


def _entries_of(model: Any) -> tuple[list[Entry], Visited]:
    with visits() as visited:
        return walk(model).entries, visited


def _shapes(entries: Iterable[Entry]) -> dict[str, Any]:
    return {entry.name: entry.shape for entry in entries}


def _optimizer_is_ready(
    model: Any, stored: Mapping[str, TensorInfo], optimizer: bool | str, state: SavedState | None
) -> bool:
    """Build the optimizer if necessary; undo that if it does not match."""
    was_built = model.optimizer.built
    if not build_optimizer(model, stored, optimizer, state):
        return False
    try:
        fits = optimizer_fits(_shapes(_entries_of(model)[0]), stored, optimizer, model.optimizer, state)
    except InvalidInputError:
        fits = False
        raise
    finally:
        if not was_built and model.optimizer.built and not fits:
            model.optimizer = unbuilt(model.optimizer)
    return fits


def _warn_of_casts(entries: Iterable[Entry], wanted: Iterable[TensorInfo]) -> None:
    """Warn of floats that lose precision in the model's dtype."""
    held = {entry.name: entry.dtype for entry in entries}
    cast = [t for t in wanted if t.name in held and _loses_precision(t.dtype, held[t.name])]
    if cast:
        kinds = sorted({f"{_numpy_name(t.dtype)} to {_numpy_name(held[t.name])}" for t in cast})
        warnings.warn(
            f"lamina.restore rounds {len(cast)} variables of the snapshot, from {', '.join(kinds)}: "
            f"{_first_names(cast)}",
            stacklevel=5,
        )


def _numpy_name(name: str) -> str:
    return str(to_numpy(name).name)


def _loses_precision(saved: str, held: str) -> bool:
    ours, theirs = to_numpy(held), to_numpy(saved)
    floats = all(dtype.kind == "f" or dtype.isbuiltin == 2 for dtype in (ours, theirs))
    return floats and not np.can_cast(theirs, ours, "safe")


def _warn_of_unknown(mismatched: Iterable[str], stored: Mapping[str, TensorInfo], expected: Mapping[str, Any]) -> None:
    unknown = [stored[name].variable or name for name in mismatched if name not in expected]
    if unknown:
        warnings.warn(
            f"lamina.restore skipped {len(unknown)} variables of the snapshot that the model does not have: "
            f"{', '.join(unknown[:5])}{', …' if len(unknown) > 5 else ''}",
            stacklevel=5,
        )


def _first_names(tensors: Sequence[TensorInfo]) -> str:
    return ", ".join(tensor.variable or tensor.name for tensor in tensors[:5]) + (", …" if len(tensors) > 5 else "")


def saved_state(opened: Opened, model: Any, optimizer: bool | str) -> SavedState | None:
    """The training state, if training continues: the model has an optimizer and it is wanted. Otherwise None."""
    goes_on = optimizer is not False and getattr(model, "optimizer", None) is not None
    return SavedState(opened) if goes_on else None


def stored_tensors(opened: Opened) -> dict[str, TensorInfo]:
    """The tensors with the names of Keras's walk; none for a legacy ``.h5`` file."""
    found = opened.content.tensors.values()
    return {t.name: t for t in found if (t.file or "").endswith((".keras", ".weights.h5"))}


def by_folder(tensors: Iterable[TensorInfo], arrays: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """Arrays by the path of a saveable, then by key."""
    folders: dict[str, dict[str, Any]] = defaultdict(dict)
    for tensor, array in zip(tensors, arrays, strict=True):
        folder, key = _folder(tensor.name)
        folders[folder][key] = array
    return folders


def _folder(name: str) -> tuple[str, str]:
    """The path of a saveable and the key of a tensor in it."""
    folder, _, key = ("/" + name).rpartition("/vars/")
    return folder.removeprefix("/"), key


def _shown_names(entries: Iterable[Entry], visited: Visited, stored: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Path in the file → the model's name for the variable, else the snapshot's."""
    theirs = {name: tensor.variable for name, tensor in stored.items() if tensor.variable}
    return theirs | variable_names(((entry.name, entry.value) for entry in entries), visited)


def _mismatches(
    expected: dict[str, Any], stored: dict[str, TensorInfo], shown_names: Mapping[str, str]
) -> dict[str, str]:
    """Path in the file → mismatch, for all variables except the optimizer's."""
    mismatched = {}
    for name in dict.fromkeys([*expected, *stored]):
        if name.startswith(OPTIMIZER):
            continue
        shown = shown_names.get(name, name)
        if name not in stored:
            mismatched[name] = f"missing in the snapshot: {shown} {expected[name]}"
        elif name not in expected:
            mismatched[name] = f"unexpected in the snapshot: {shown} {stored[name].shape}"
        elif tuple(expected[name]) != stored[name].shape:
            mismatched[name] = f"different shape: {shown} is {stored[name].shape}, the model's {tuple(expected[name])}"
    return mismatched


def _folders(names: Iterable[str]) -> set[str]:
    return {_folder(name)[0] for name in names}


def _mismatch_message(mismatched: dict[str, str], advice: str) -> str:
    listed = "\n  ".join(mismatched.values())
    return (
        "the snapshot does not fit the model, which is unchanged; "
        f"{len(mismatched)} variables differ:\n  {listed}\n{advice}"
    )


class _Arrays(private.H5IOStore):  # type: ignore[misc]
    """A store of arrays in memory that Keras's walk can read."""

    def __init__(self, folders: dict[str, dict[str, Any]]) -> None:
        self.mode = "r"
        self._folders = folders
        self._paths = {path[: i if i >= 0 else None] for path in folders for i in _ends(path)}

    def __bool__(self) -> bool:
        return True

    def get(self, path: str) -> dict[str, Any]:
        if path not in self._folders:
            # The name in files of Keras before 2.13.
            path = path.replace("layers", "_layer_checkpoint_dependencies")
        return self._folders.get(path, {})

    def has_path(self, path: str) -> bool:
        return path in self._paths

    def close(self) -> None:
        """Nothing to close."""


def _ends(path: str) -> list[int]:
    return [i for i, letter in enumerate(path) if letter == "/"] + [-1]


def load_arrays(
    model: Any,
    folders: dict[str, dict[str, Any]],
    *,
    with_optimizer: bool,
    mismatched: dict[str, str],
    assets: Any = None,
    skipped: Iterable[Any] = (),
) -> None:
    # Saveables in this set are skipped; the walk adds to it.
    visited = set() if with_optimizer or getattr(model, "optimizer", None) is None else {id(model.optimizer)}
    visited |= {id(saveable) for saveable in skipped}
    failed: set[int] = set()
    errors: dict[int, tuple[Any, Exception]] = {}
    private.saving_lib._load_state(
        model,
        weights_store=_Arrays(folders),
        assets_store=assets,
        inner_path="",
        skip_mismatch=bool(mismatched),
        visited_saveables=visited,
        failed_saveables=failed,
        error_msgs=errors,
    )
    if not failed:
        return
    if mismatched:
        names = ", ".join(sorted({getattr(item, "name", str(item)) for item, _ in errors.values()}))
        warnings.warn(f"lamina.restore skipped layers whose shapes differ: {names}", stacklevel=4)
        return
    first, error = next(iter(errors.values()))
    raise InvalidInputError(f"{first} could not load its weights: {error}") from error


def _load_with_keras(
    opened: Opened, model: Any, optimizer: bool | str, skip_mismatch: bool, state: SavedState | None
) -> Snapshot:
    """Let Keras read the exported file: for legacy files, and layers with their own stores."""
    with tempfile.TemporaryDirectory(prefix="lamina-") as folder:
        files = opened.content.export(Path(folder))
        path = next((file for file in files if file.name.endswith((".keras", ".h5"))), None)
        if path is None:
            raise InvalidInputError(
                f"the source has no Keras weights, only {', '.join(opened.content.files) or 'nothing'}"
            )
        if optimizer is True:
            raise InvalidInputError(
                f"the optimizer's state in {path.name} can only be loaded with the whole model: "
                "lamina.load_model(source)"
            )
        arguments = {"skip_mismatch": True} if skip_mismatch else {}
        try:
            with as_corrupt_data(path.name):
                check_archive(path)
                model.load_weights(path, **arguments)
        except ValueError as error:
            raise InvalidInputError(f"the snapshot does not fit the model: {error}") from error
    if state is not None and not skip_mismatch:
        state.put_into_model(model)
    return opened.snapshot
