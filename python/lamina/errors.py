"""The errors that lamina raises; the engine raises these classes too.

Each class has an ``exit_code``: what the ``lamina`` command exits with when the error ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class LaminaError(Exception):
    """Base class of all errors that lamina raises on purpose."""

    exit_code = 1


class InvalidInputError(LaminaError, ValueError):
    """An argument, a file or a model is not what the call needs; nothing was changed."""

    exit_code = 2


class NotFoundError(LaminaError, LookupError):
    """A repository, snapshot, alias, series or tensor of this name does not exist."""

    exit_code = 3


class CorruptDataError(LaminaError):
    """Stored bytes are not the bytes that were written; none of them reached the caller.

    ``report`` is what a verify found, where one raised it.
    """

    exit_code = 4
    report: FoundDamage | None = None


class FoundDamage(Protocol):
    """What an error tells of a verify: a `lamina.repository.reports.VerifyReport`, which says what each number is."""

    @property
    def snapshots(self) -> int: ...

    @property
    def packs(self) -> int: ...

    @property
    def chunks(self) -> int: ...

    @property
    def bytes(self) -> int: ...

    @property
    def problems(self) -> list[str]: ...

    @property
    def lost(self) -> Sequence[Any]: ...


class UnsupportedFormatError(LaminaError):
    """The data needs a newer lamina: its format version or a feature it requires is unknown here."""

    exit_code = 5


class StorageError(LaminaError, OSError):
    """The operating system, or a bucket, refused to read or write: disk full, no permission, a path that is gone."""

    exit_code = 6


class BusyError(StorageError):
    """Another process does just now what only one may do at a time, such as prune; nothing was changed."""


class ArtifactError(LaminaError):
    """W&B refused, was not reachable, or holds something that lamina cannot use."""

    exit_code = 7
