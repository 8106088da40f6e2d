"""Puts a snapshot into a Keras model: checked first, then read in parallel, then handed over by Keras's own walk."""

from __future__ import annotations

import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras

from lamina.errors import InvalidInputError
from lamina.files.plain import Opened
from lamina.keras import private
from lamina.keras.capture.structure_guard import Visited, visits
from lamina.keras.capture.training_state import SavedState, optimizer_class
from lamina.keras.capture.walk import NotPlannable, walk
from lamina.keras.restoring.keras_errors import damage_told, refuse_no_archive
from lamina.keras.restoring.zero_copy import adoptable
from lamina.repository.snapshot import Snapshot
from lamina.repository.tensor import TensorInfo

OPTIMIZER = "optimizer/"


def restore(opened: Opened, model: Any, *, optimizer: bool | str = "auto", skip_mismatch: bool = False) -> Snapshot:
    """Put the weights, and what training goes on from, of an opened source into ``model``."""
    if optimizer not in (True, False, "auto"):
        raise InvalidInputError(f"optimizer must be True, False or 'auto'. Received: {optimizer!r}")
    if not hasattr(model, "load_weights"):
        raise InvalidInputError(f"expected a Keras model. Received: {model!r} of type {type(model).__name__}")
    if not getattr(model, "built", False):
        raise InvalidInputError("the model has no variables yet; build it, or call it on data, before restoring")
    stored = stored_tensors(opened)
    if not stored or private.why_not("load"):
        return _through_keras(opened, model, optimizer, skip_mismatch)
    with_optimizer = _prepare_optimizer(model, stored, optimizer)
    try:
        with visits() as visited:
            expected = {entry.name: entry.shape for entry in walk(model).entries}
    except NotPlannable:
        return _through_keras(opened, model, optimizer, skip_mismatch)
    left = _optimizers_left(visited, expected, stored, optimizer)
    expected, stored = _without(left, expected), _without(left, stored)
    odd = _mismatches(expected, stored)
    if odd and not skip_mismatch:
        raise InvalidInputError(_explain(odd))
    if with_optimizer:
        saved_class = opened.snapshot.training.get("optimizer")
        with_optimizer = _optimizer_fits(expected, stored, optimizer, model.optimizer, saved_class)
    wanted = [
        tensor
        for name, tensor in stored.items()
        if (with_optimizer or not name.startswith(OPTIMIZER)) and _folder(name)[0] not in _folders(odd)
    ]
    folders = by_folder(wanted, opened.content.read(wanted, empty=adoptable))
    hand_over(model, folders, with_optimizer=with_optimizer, odd=odd, skipped=left.values())
    if not odd:
        put_training_state(opened, model, optimizer)
    return opened.snapshot


def put_training_state(opened: Opened, model: Any, optimizer: bool | str) -> None:
    """Random seeds and LoRA factors belong to a training that goes on, as the optimizer does."""
    if optimizer is not False and getattr(model, "optimizer", None) is not None:
        SavedState(opened).put_into_model(model)


def stored_tensors(opened: Opened) -> dict[str, TensorInfo]:
    """The tensors that Keras's walk names; none for a legacy ``.h5`` file."""
    found = opened.content.tensors.values()
    return {t.name: t for t in found if (t.file or "").endswith((".keras", ".weights.h5"))}


def by_folder(tensors: Iterable[TensorInfo], arrays: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """Arrays by the path of a saveable, then by the key in its store."""
    folders: dict[str, dict[str, Any]] = defaultdict(dict)
    for tensor, array in zip(tensors, arrays, strict=True):
        folder, key = _folder(tensor.name)
        folders[folder][key] = array
    return folders


def _folder(name: str) -> tuple[str, str]:
    """The path of a saveable, and the key in its store."""
    folder, _, key = ("/" + name).rpartition("/vars/")
    return folder.removeprefix("/"), key


def _prepare_optimizer(model: Any, stored: Iterable[str], wanted: bool | str) -> bool:
    """Whether to restore the optimizer; builds one that has no variables yet."""
    optimizer = getattr(model, "optimizer", None)
    if wanted is False:
        return False
    if optimizer is None:
        if wanted is True:
            raise InvalidInputError("the model has no optimizer; compile it first, or pass optimizer=False")
        return False
    saved = sum(name.startswith(OPTIMIZER) for name in stored)
    if not saved:
        return _without_optimizer("the snapshot holds no optimizer state", wanted)
    # One saved before its first step has no slots, and needs none here.
    if not optimizer.built and saved > len(optimizer.variables):
        optimizer.build(model.trainable_variables)
    return True


def _without_optimizer(reason: str, wanted: bool | str) -> bool:
    if wanted is True:
        raise InvalidInputError(f"the optimizer cannot be restored: {reason}")
    warnings.warn(f"lamina.restore leaves the optimizer as it is: {reason}", stacklevel=5)
    return False


def _optimizer_fits(
    expected: dict[str, Any], stored: dict[str, TensorInfo], wanted: bool | str, optimizer: Any, saved_class: str | None
) -> bool:
    """Whether it is the same kind of optimizer, as far as that is known, with the same variables."""
    ours = optimizer_class(optimizer)
    if saved_class is not None and saved_class.lower() != ours.lower():
        return _without_optimizer(f"a different optimizer: the snapshot's is {saved_class}, the model's {ours}", wanted)
    have = {name: shape for name, shape in expected.items() if name.startswith(OPTIMIZER)}
    there = {name: tensor.shape for name, tensor in stored.items() if name.startswith(OPTIMIZER)}
    if have == there:
        return True
    return _without_optimizer(
        f"the model's has {len(have)} variables, the saved one {len(there)}, or their shapes differ", wanted
    )


def _optimizers_left(
    visited: Visited, expected: Mapping[str, Any], stored: Mapping[str, TensorInfo], wanted: bool | str
) -> dict[str, Any]:
    """Path and optimizer of those besides the model's own that stay as they are: unwanted, or of another form.

    A model that trains with several builds them itself, often in its first step, and only it knows for which variables.
    """
    others = {
        path: saveable
        for saveable, path in visited
        if isinstance(saveable, keras.optimizers.Optimizer) and not f"{path}/".startswith(OPTIMIZER)
    }
    if wanted is False:
        return others
    left = {}
    for path, other in others.items():
        have = {name: tuple(expected[name]) for name in _inside(path, expected)}
        there = {name: stored[name].shape for name in _inside(path, stored)}
        if have != there:
            differ = f"the model's {path!r} has {len(have)} variables, the saved one {len(there)}, or their shapes"
            how = f"if it was not built yet: model.{path.replace('/', '.')}.build(…) with what it trains, before this"
            _without_optimizer(f"{differ} differ; {how}", wanted)
            left[path] = other
    return left


def _inside(path: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(f"{path}/")]


def _without(paths: Iterable[str], tensors: dict[str, Any]) -> dict[str, Any]:
    out = {name for path in paths for name in _inside(path, tensors)}
    return {name: value for name, value in tensors.items() if name not in out}


def _mismatches(expected: dict[str, Any], stored: dict[str, TensorInfo]) -> dict[str, str]:
    """Name → what does not match, for all variables but the optimizer's."""
    odd = {}
    for name in dict.fromkeys([*expected, *stored]):
        if name.startswith(OPTIMIZER):
            continue
        if name not in stored:
            odd[name] = f"missing in the snapshot: {name} {expected[name]}"
        elif name not in expected:
            odd[name] = f"unexpected in the snapshot: {name} {stored[name].shape}"
        elif tuple(expected[name]) != stored[name].shape:
            odd[name] = f"different shape: {name} is {stored[name].shape}, the model's {tuple(expected[name])}"
    return odd


def _folders(names: Iterable[str]) -> set[str]:
    return {_folder(name)[0] for name in names}


def _explain(odd: dict[str, str]) -> str:
    listed = "\n  ".join(odd.values())
    return (
        f"the snapshot does not fit the model, which is unchanged; {len(odd)} variables differ:\n  {listed}\n"
        "Pass skip_mismatch=True to leave the layers that differ as they are"
    )


class _Arrays(private.H5IOStore):  # type: ignore[misc]
    """A store of arrays in memory, as Keras's walk reads one."""

    def __init__(self, folders: dict[str, dict[str, Any]]) -> None:
        self.mode = "r"
        self._folders = folders
        self._paths = {path[: i if i >= 0 else None] for path in folders for i in _ends(path)}

    def __bool__(self) -> bool:
        return True

    def get(self, path: str) -> dict[str, Any]:
        if path not in self._folders:
            # Files of Keras before 2.13 call the layers so.
            path = path.replace("layers", "_layer_checkpoint_dependencies")
        return self._folders.get(path, {})

    def has_path(self, path: str) -> bool:
        return path in self._paths

    def close(self) -> None:
        """Nothing is open."""


def _ends(path: str) -> list[int]:
    return [i for i, letter in enumerate(path) if letter == "/"] + [-1]


def hand_over(
    model: Any,
    folders: dict[str, dict[str, Any]],
    *,
    with_optimizer: bool,
    odd: dict[str, str],
    assets: Any = None,
    skipped: Iterable[Any] = (),
) -> None:
    # An empty set counts as "none visited yet" only while it is empty; the walk adds to it.
    visited = set() if with_optimizer or getattr(model, "optimizer", None) is None else {id(model.optimizer)}
    visited |= {id(saveable) for saveable in skipped}
    failed: set[int] = set()
    errors: dict[int, tuple[Any, Exception]] = {}
    private.saving_lib._load_state(
        model,
        weights_store=_Arrays(folders),
        assets_store=assets,
        inner_path="",
        skip_mismatch=bool(odd),
        visited_saveables=visited,
        failed_saveables=failed,
        error_msgs=errors,
    )
    if not failed:
        return
    if odd:
        names = ", ".join(sorted({getattr(item, "name", str(item)) for item, _ in errors.values()}))
        warnings.warn(f"lamina.restore left these as they are, they do not fit: {names}", stacklevel=4)
        return
    first, error = next(iter(errors.values()))
    raise InvalidInputError(f"{first} refused its weights: {error}") from error


def _through_keras(opened: Opened, model: Any, optimizer: bool | str, skip_mismatch: bool) -> Snapshot:
    """Legacy files and layers with stores of their own: Keras reads the exported file."""
    with tempfile.TemporaryDirectory(prefix="lamina-") as folder:
        files = opened.content.export(Path(folder))
        path = next((file for file in files if file.name.endswith((".keras", ".h5"))), None)
        if path is None:
            raise InvalidInputError(
                f"the source holds no Keras weights, only {', '.join(opened.content.files) or 'nothing'}"
            )
        if optimizer is True:
            raise InvalidInputError(
                f"the optimizer's state in {path.name} can only be loaded with the whole model: "
                "lamina.load_model(source)"
            )
        arguments = {"skip_mismatch": True} if skip_mismatch else {}
        try:
            with damage_told(path.name):
                refuse_no_archive(path)
                model.load_weights(path, **arguments)
        except ValueError as error:
            raise InvalidInputError(f"the snapshot does not fit the model: {error}") from error
    if not skip_mismatch:
        put_training_state(opened, model, optimizer)
    return opened.snapshot
