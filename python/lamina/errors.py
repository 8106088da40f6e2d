"""The errors of lamina. The engine raises these classes, too.

Each class has an ``exit_code``, the exit status of the ``lamina`` command when this error ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class LaminaError(Exception):
    """Base class of all errors that lamina raises."""

    exit_code = 1


class InvalidInputError(LaminaError, ValueError):
    """An argument, a file or a model is invalid for this call; nothing was changed."""

    exit_code = 2


class NotFoundError(LaminaError, LookupError):
    """A file, repository, snapshot, alias, series or tensor of this name does not exist."""

    exit_code = 3


class CorruptDataError(LaminaError):
    """Stored data is damaged: its bytes are not the bytes that were written. None of them are returned.

    ``report`` is what a verify found, if a verify raised the error.
    """

    exit_code = 4
    report: FoundDamage | None = None


class FoundDamage(Protocol):
    """The report of a failed verify; its fields are explained in `lamina.repository.results.VerifyReport`."""

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
    """The data needs a newer lamina: this one does not know its format version, or a feature that it requires."""

    exit_code = 5


class StorageError(LaminaError, OSError):
    """The operating system, or a bucket, refused to read or write: disk full, no permission, a path that is gone."""

    exit_code = 6


class BusyError(StorageError):
    """Another process holds the exclusive lock, for example a prune; nothing was changed. Try again later."""


class ArtifactError(LaminaError):
    """W&B refused a request, was not reachable, or has an artifact that lamina cannot use."""

    exit_code = 7
