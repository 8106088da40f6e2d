"""Which module knows the addresses of a scheme, as in ``wandb:NAME:best``; it is imported when one is opened."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

#: Scheme → module, as fsspec has them. Each has the functions of `Opener`.
_MODULES = {"wandb": "lamina.wandb.download.open_artifact"}


@runtime_checkable
class Artifact(Protocol):
    """A logged `wandb.Artifact`, as far as it is a source; wandb itself need not be installed to say so."""

    def wait(self) -> Any:
        """Wait for its upload."""

    def files(self) -> Any:
        """Its files on the server."""


class Opener(Protocol):
    """What the module of a scheme can do."""

    def open_source(self, source: Any) -> Any:
        """Open a source as an `lamina.files.plain.Opened`."""

    def fetch_packs(self, source: str | Artifact, present: set[str]) -> tuple[Path, Any]:
        """Fetch the packs that are not ``present``; the folder, and what keeps it there as long as it lives."""


def opener_of(source: object) -> Opener | None:
    """The module that opens a source; None for one that stands on this machine."""
    scheme = _scheme(source)
    return None if scheme is None else cast(Opener, importlib.import_module(_MODULES[scheme]))


def _scheme(source: object) -> str | None:
    if isinstance(source, str):
        name, colon, _ = source.partition(":")
        return name if colon and name in _MODULES else None
    return "wandb" if isinstance(source, Artifact) else None
