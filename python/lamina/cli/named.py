"""Which snapshots of which repository an argument names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lamina.errors import InvalidInputError

if TYPE_CHECKING:
    from lamina.repository.repository import Repository

Snapshot = Annotated[
    str,
    typer.Argument(
        metavar="SNAPSHOT",
        help="DIR@ALIAS or DIR@SERIES:ALIAS; ALIAS may be a number, an id, latest, best or epoch_N.",
        show_default=False,
    ),
]


def repository_and_ref(source: str) -> tuple[Repository, str | None]:
    """The repository, and the name behind the last ``@``; None if there is none.

    Raises:
        InvalidInputError: if it is another kind of source.
    """
    from lamina.repository.repository import open as open_repository
    from lamina.sources import in_repository

    named = in_repository(source)
    if named is None or isinstance(named[0], str):  # an address
        raise InvalidInputError(f"expected a repository or DIR@ALIAS on this machine. Received: {source!r}")
    folder, ref = named
    return open_repository(folder), None if source == str(folder) else ref


def one_snapshot(source: str) -> tuple[Repository, str]:
    """The same, where one snapshot must be named.

    Raises:
        InvalidInputError: if none is.
    """
    repository, ref = repository_and_ref(source)
    if ref is None:
        raise InvalidInputError(f"say which snapshot: {source}@ALIAS, where ALIAS may be a number or an id")
    return repository, ref
