"""Loads the whole model of a snapshot: Keras builds it from its configuration, and the engine reads its weights.

Keras alone would first fill each variable with random numbers, and then read the archive tensor by tensor. It still
loads everything except a ``.keras`` file whose tensors are known.
"""

from __future__ import annotations

import tempfile
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import keras

from lamina.errors import InvalidInputError
from lamina.files import h5, keras_archive
from lamina.files.plain import Opened
from lamina.keras import private
from lamina.keras.capture.walk import FallbackToKeras, walk
from lamina.keras.private import saving_lib
from lamina.keras.restoring.keras_errors import as_corrupt_data, check_archive
from lamina.keras.restoring.optimizers import OPTIMIZER
from lamina.keras.restoring.restore import by_folder, load_arrays, saved_state, stored_tensors
from lamina.keras.restoring.skip_init import SkippedInit, skip_random_init
from lamina.keras.restoring.zero_copy import shareable_array

#: The arguments that Keras 3 accepts for a ``.keras`` file. With any other, Keras loads it.
_ARGUMENTS = {"custom_objects", "compile", "safe_mode"}
#: The file that identifies a folder of ``model.save(folder, zipped=False)``.
_CONFIG = "config.json"
_BUILD = "build the model and use lamina.restore(source, model)"
#: A longer configuration is not read: the size in the archive may be forged.
_MAX_CONFIG = 1 << 30


def load_model(opened: Opened, **load_model_kwargs: Any) -> Any:
    """Load the whole model of an opened source."""
    name = _model_file(opened)
    with as_corrupt_data(name):
        return _load_model(opened, name, **load_model_kwargs)


def _load_model(opened: Opened, name: str, **load_model_kwargs: Any) -> Any:
    if name.endswith(".keras") and load_model_kwargs.keys() <= _ARGUMENTS:
        try:
            return _load(opened, name, **load_model_kwargs)
        except FallbackToKeras:
            pass  # Keras must load it
    with tempfile.TemporaryDirectory(prefix="lamina-") as folder:
        files = opened.content.export(Path(folder))
        path = next(file for file in files if file.name == Path(name).name)
        if name == _CONFIG:
            return keras.models.load_model(path.parent, **load_model_kwargs)
        check_archive(path)
        if path.suffix == ".h5" and not h5.holds_model(path):
            raise InvalidInputError(f"{name} holds weights only; {_BUILD}")
        return keras.models.load_model(path, **load_model_kwargs)


def _model_file(opened: Opened) -> str:
    names = [name for name in opened.content.files if name.endswith((".keras", ".h5"))]
    names = [name for name in names if not name.endswith(".weights.h5")]
    if len(names) == 1:
        return names[0]
    if not names and keras_archive.is_unpacked(opened.content.files):
        return _CONFIG
    if "saved_model.pb" in opened.content.files:
        raise InvalidInputError(
            "Keras cannot load a SavedModel, which is for inference only: call lamina.export(source, DIRECTORY), then "
            "tf.saved_model.load(DIRECTORY) or keras.layers.TFSMLayer"
        )
    raise InvalidInputError(
        "load_model needs a whole model (a .keras or .h5 file), but the source holds "
        f"{', '.join(opened.content.files) or 'nothing'}; {_BUILD}"
    )


def _load(opened: Opened, name: str, custom_objects: Any = None, compile: bool = True, safe_mode: bool = True) -> Any:
    """Load as `keras.saving.saving_lib.load_model` does.

    Raises:
        FallbackToKeras: if Keras must load it.
    """
    if reason := private.why_not("load"):
        raise FallbackToKeras(reason)
    stored = stored_tensors(opened)
    if not stored:
        raise FallbackToKeras("its tensors are not known")
    with opened.content.open(name) as file, _archive(file) as archive:
        config = _config(archive)
        with skip_random_init() as skipped:
            model = saving_lib._model_from_config(config, custom_objects, compile, safe_mode)
        assets = any(member.startswith(f"{saving_lib._ASSETS_DIRNAME}/") for member in archive.namelist())
        if not assets:
            _fill(opened, model, stored, skipped, None)
        else:
            with closing(saving_lib.DiskIOStore(saving_lib._ASSETS_DIRNAME, archive=archive, mode="r")) as store:
                _fill(opened, model, stored, skipped, store)
    return model


def _archive(file: Any) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError) as error:
        raise FallbackToKeras("no archive") from error  # Keras raises its own error


def _config(archive: zipfile.ZipFile) -> bytes:
    try:
        info = archive.getinfo(saving_lib._CONFIG_FILENAME)
    except KeyError as error:
        raise FallbackToKeras("no configuration") from error
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > _MAX_CONFIG:
        raise FallbackToKeras("not as Keras writes it")
    return archive.read(info)


def _fill(opened: Opened, model: Any, stored: dict[str, Any], skipped: SkippedInit, assets: Any) -> None:
    if not model.built:
        raise FallbackToKeras("built only when it is called")
    state = saved_state(opened, model, "auto")
    entries = _walk(model)
    with_optimizer = getattr(model, "optimizer", None) is not None
    wanted = [tensor for tensor in stored.values() if with_optimizer or not tensor.name.startswith(OPTIMIZER)]
    if {entry.name: tuple(entry.shape) for entry in entries} != {tensor.name: tensor.shape for tensor in wanted}:
        raise FallbackToKeras("Keras knows what to do, or what to say")
    folders = by_folder(wanted, opened.content.read(wanted, empty=shareable_array))
    with skipped.loading():
        load_arrays(model, folders, with_optimizer=with_optimizer, mismatched={}, assets=assets)
        if state is not None:
            state.put_into_model(model)


def _walk(model: Any) -> Any:
    try:
        return walk(model).entries
    except FallbackToKeras:
        raise
    except Exception as error:  # a layer that cannot be saved before it is loaded
        raise FallbackToKeras(str(error)) from error
