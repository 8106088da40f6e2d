"""Which module knows the addresses of a scheme, as in ``wandb:NAME:best`` and ``s3://bucket/run``; it is imported when
one is opened.

Where a local path is expected, a URL of any scheme is refused: as a path it would name a folder called ``s3:``.
"""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from lamina.errors import InvalidInputError, NotFoundError

#: Scheme → module, as in fsspec. Each module has the functions of `Opener`.
_MODULES = {"wandb": "lamina.wandb.download.open_artifact"}
#: Schemes of buckets, in which repositories stand.
BUCKETS = ("s3", "gs", "az", "file")
_BUCKET_MODULE = "lamina.remote.opening"
#: A drive of Windows has one letter; `Path` makes one slash of two.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


@runtime_checkable
class Artifact(Protocol):
    """The part of `wandb.Artifact` that a source needs; recognised without importing wandb."""

    def wait(self) -> Any:
        """Wait for its upload."""

    def files(self) -> Any:
        """Its files on the server."""


class BucketOpener(Protocol):
    """What the module of buckets can do besides."""

    def open_repository(self, text: str) -> Any:
        """Open the `lamina.Repository` at an address."""

    def repository_at(self, text: str) -> Any | None:
        """The same; None if it names one of its snapshots."""

    def in_repository(self, text: str) -> tuple[str, str]:
        """The repository and the reference in it that an address names."""


class Opener(Protocol):
    """The functions of a scheme's module."""

    def open_source(self, source: Any) -> Any:
        """Open a source as an `lamina.files.plain.Opened`."""

    def fetch_packs(self, source: str | Artifact, present: set[str]) -> tuple[Path, Any]:
        """Download the packs that are not ``present``; returns their folder, and an object that keeps it alive."""


class DeletedError(NotFoundError):
    """What a source named was deleted while it was read; the name may stand for something else by now."""


def opener_of(source: object) -> Opener | None:
    """The module that opens a source; None for one that stands on this machine."""
    if (bucket := bucket_of(source)) is not None:
        return cast(Opener, bucket)
    scheme = _scheme(source)
    return None if scheme is None else cast(Opener, importlib.import_module(_MODULES[scheme]))


def bucket_of(source: object) -> BucketOpener | None:
    """The module that opens repositories in buckets, if this text is the address of one, or of something in one."""
    if isinstance(source, str) and source.partition("://")[0] in BUCKETS and "://" in source:
        return cast(BucketOpener, importlib.import_module(_BUCKET_MODULE))
    return None


def _scheme(source: object) -> str | None:
    if isinstance(source, str):
        name, colon, _ = source.partition(":")
        return name if colon and name in _MODULES else None
    return "wandb" if isinstance(source, Artifact) else None


def local_path(value: object, what: str = "a path") -> Path:
    """Check a local path; every path argument goes through here.

    Raises:
        InvalidInputError: if it is not a path, or a URL such as ``s3://bucket/run``.
    """
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise InvalidInputError(f"expected {what}. Received: {value!r}")
    text = os.fspath(value)
    if isinstance(text, bytes):
        raise InvalidInputError(f"expected {what} as str or Path. Received: {value!r}")
    if (address := _ADDRESS.match(text)) is not None:
        raise InvalidInputError(f"expected {what} on this machine. Received: {text!r}. {_instead(value, address[1])}")
    return Path(text)


def _instead(value: object, scheme: str) -> str:
    """What to do about an address that is no path."""
    if scheme not in BUCKETS:
        return (
            f"lamina does not open {scheme}://: use a local directory, and copy it to or from {scheme}:// with a tool "
            "of that storage, or mount the storage"
        )
    if not isinstance(value, str):
        return "An address is a str: as a Path it loses one of its slashes"
    return "A repository on this machine goes to a bucket by lamina.push, and comes from there by lamina.pull"


def native_path(path: str | os.PathLike[str]) -> Path:
    """A path from the engine, which uses UTF-8, in the encoding of this Python (under an ASCII locale they differ)."""
    return Path(os.fsdecode(os.fspath(path).encode("utf-8", "surrogateescape")))


def check_name(name: str, what: str) -> str:
    """Check that a name can be encoded as UTF-8; a lone surrogate cannot.

    Raises:
        InvalidInputError: if it cannot.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{what} must be text that can be encoded as UTF-8. Received: {name!a}") from error
    return name
