"""Which module knows the addresses of a scheme, as in ``wandb:NAME:best``; it is imported when one is opened.

Where a path on this machine is expected, an address of any scheme is refused: as a path it would name a folder ``s3:``.
"""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from lamina.errors import InvalidInputError

#: Scheme → module, as fsspec has them. Each has the functions of `Opener`.
_MODULES = {"wandb": "lamina.wandb.download.open_artifact"}
#: A drive of Windows has one letter; `Path` makes one slash of two.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


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


def local_path(value: object, what: str = "a path") -> Path:
    """The path on this machine that a caller gave; every path argument goes through here.

    Raises:
        InvalidInputError: if it is no path, or an address such as ``s3://bucket/run``.
    """
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise InvalidInputError(f"expected {what}. Received: {value!r}")
    text = os.fspath(value)
    if isinstance(text, bytes):
        raise InvalidInputError(f"expected {what} as str or Path. Received: {value!r}")
    if (address := _ADDRESS.match(text)) is not None:
        scheme = address[1]
        raise InvalidInputError(
            f"expected {what} on this machine. Received: {text!r}. lamina does not open {scheme}://: use a local "
            f"directory, and copy it to or from {scheme}:// with a tool of that storage, or mount the storage"
        )
    return Path(text)


def native_path(path: str | os.PathLike[str]) -> Path:
    """A path from the engine, which speaks UTF-8, as this Python spells it, for example under an ASCII locale."""
    return Path(os.fsdecode(os.fspath(path).encode("utf-8", "surrogateescape")))


def check_name(name: str, what: str) -> str:
    """Refuse a name that is no text, such as one with half of a surrogate pair: nothing can write it down.

    Raises:
        InvalidInputError: if it is one.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{what} must be text that UTF-8 can write. Received: {name!a}") from error
    return name
