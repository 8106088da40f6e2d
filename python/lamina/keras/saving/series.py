"""Which series the snapshots of a file belong to, where nobody has named one."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from lamina.keras.remote import is_remote


def default_series(template: str, repository: Path | None) -> str:
    """The whole template of the file's name, so that ``fold1/m.keras`` and ``fold2/m.keras`` are two series.

    It is relative to the folder in which both the file and the repository stand, and so the same wherever the process
    runs and wherever both are moved; it never tells an absolute path.
    """
    if is_remote(template):
        return template.partition("://")[2].lstrip("/")
    path = Path(os.path.abspath(template))
    base = _common_folder(path.parent, repository)
    return PurePosixPath(*path.relative_to(base).parts).as_posix()


def old_default_series(template: str) -> str:
    """What it was called before: by the base name alone."""
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
