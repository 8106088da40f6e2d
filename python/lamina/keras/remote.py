"""Remote files, which TensorFlow reads and writes, as it does for Keras."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

#: The paths that Keras treats as remote.
_REMOTE = re.compile(r"(/cns|/cfs|/gcs|/hdfs|/readahead|/placer|/tfhub|.*://)")


def is_remote(path: Any) -> bool:
    """Whether Keras writes to this path through TensorFlow."""
    return _REMOTE.match(str(path)) is not None


def _gfile() -> Any:
    import tensorflow as tf

    return tf.io.gfile


def exists(path: str) -> bool:
    return bool(_gfile().exists(path)) if is_remote(path) else os.path.exists(path)


def is_folder(path: str) -> bool:
    return bool(_gfile().isdir(path)) if is_remote(path) else os.path.isdir(path)


def names_in(path: str) -> set[str]:
    names = _gfile().listdir(path) if is_remote(path) else os.listdir(path)
    return {name.rstrip("/") for name in names}


def copy(file: Path, remote: str) -> None:
    """Copy a local file to a remote path."""
    _gfile().copy(str(file), remote, overwrite=True)


def copy_folder(folder: Path, remote: str, *, last: str) -> None:
    """Replace a remote folder with a copy of a local one; ``last`` names the file that is copied last."""
    gfile = _gfile()
    if gfile.exists(remote):
        gfile.rmtree(remote)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for file in sorted(files, key=lambda file: file.name == last):
        target = gfile.join(remote, *file.relative_to(folder).parts)
        gfile.makedirs(os.path.dirname(target))
        copy(file, target)
