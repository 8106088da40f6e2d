"""Compares the assets of layers, such as vocabularies, with those of a snapshot.

The rows of an embedding match the words only with the vocabulary that it was trained with.
"""

from __future__ import annotations

import tempfile
import warnings
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

from lamina.files.plain import Opened
from lamina.keras.capture.model_identity import Visited

_FOLDER = "assets"
#: A longer vocabulary is not read: the size in the archive may be forged.
_MAX_BYTES = 1 << 30

#: Layers without a vocabulary, and the files to load into them.
Missing = list[tuple[Any, dict[str, bytes]]]


def compare_assets(opened: Opened, visited: Visited) -> Missing:
    """Warn of layers with another vocabulary than the snapshot's; return those that have none yet."""
    owners = [(saveable, path) for saveable, path in visited if hasattr(saveable, "save_assets")]
    archive = next((name for name in opened.content.files if name.endswith(".keras")), None)
    if not owners or archive is None:
        return []
    missing: Missing = []
    others: list[str] = []
    with opened.content.open(archive) as stream, zipfile.ZipFile(stream) as file:
        for saveable, path in owners:
            theirs = _read(file, path)
            if not theirs or theirs == _own(saveable):
                continue
            if _has_none(saveable):
                missing.append((saveable, theirs))
            else:
                others.append(str(getattr(saveable, "name", path)))
    if others:
        names = ", ".join(dict.fromkeys(others))
        warnings.warn(
            f"the snapshot has another vocabulary, or other assets, than this model for {names}, so the restored "
            "weights belong to other words. lamina.load_model(source) loads the vocabulary too",
            stacklevel=5,
        )
    return missing


def load_missing_assets(missing: Missing) -> None:
    """Load the snapshot's vocabulary into layers without one, after their variables."""
    for saveable, files in missing:
        with tempfile.TemporaryDirectory(prefix="lamina-") as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            try:
                saveable.load_assets(folder)
            except (ValueError, TypeError, OSError, RuntimeError) as error:
                layer = getattr(saveable, "name", saveable)
                warnings.warn(f"{layer} refused the snapshot's vocabulary: {error}", stacklevel=5)


def _read(file: zipfile.ZipFile, path: str) -> dict[str, bytes]:
    """The files in a layer's folder, without subfolders."""
    folder = PurePosixPath(_FOLDER, path)
    inside = [info for info in file.infolist() if PurePosixPath(info.filename).parent == folder and not info.is_dir()]
    return {PurePosixPath(i.filename).name: file.read(i) for i in inside if i.file_size <= _MAX_BYTES}


def _own(saveable: Any) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="lamina-") as folder:
        saveable.save_assets(folder)
        return {file.name: file.read_bytes() for file in Path(folder).iterdir() if file.is_file()}


def _has_none(saveable: Any) -> bool:
    words = getattr(saveable, "get_vocabulary", None)
    return words is not None and len(words(include_special_tokens=False)) == 0
