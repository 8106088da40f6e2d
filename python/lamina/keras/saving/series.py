"""The default series of a file's snapshots."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from lamina.keras.remote import is_remote


def default_series(template: str, repository: Path | None) -> str:
    """The whole path template, so that ``fold1/m.keras`` and ``fold2/m.keras`` are two series.

    It is relative to the common folder of the file and the repository. So it does not depend on the working directory,
    does not change if both are moved, and never contains an absolute path.
    """
    if is_remote(template):
        return template.partition("://")[2].lstrip("/")
    path = Path(os.path.abspath(template))
    base = _common_folder(path.parent, repository)
    return PurePosixPath(*path.relative_to(base).parts).as_posix()


def old_default_series(template: str) -> str:
    """The default of earlier versions: the base name alone."""
    return os.path.basename(template)


def _common_folder(folder: Path, repository: Path | None) -> Path:
    try:
        common = Path(os.path.commonpath([folder, folder if repository is None else repository.absolute().parent]))
    except ValueError:  # on two drives
        common = Path(folder.anchor)
    if common != Path(common.anchor):
        return common
    here = Path.cwd()
    return here if folder.is_relative_to(here) else folder.parent
