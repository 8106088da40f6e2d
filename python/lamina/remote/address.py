"""Addresses of repositories in buckets: ``s3://bucket/prefix@reference``."""

from __future__ import annotations

from dataclasses import dataclass

from lamina.errors import InvalidInputError
from lamina.schemes import BUCKETS

EXPECTED = "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER"


@dataclass(frozen=True)
class Address:
    """Where a repository stands; ``url`` without a slash at its end."""

    scheme: str
    place: str  # bucket or container; empty for file
    prefix: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.place}{'/' if self.place and self.prefix else ''}{self.prefix}"

    def __str__(self) -> str:
        return self.url


def parse(text: object) -> Address:
    """The address of a repository.

    Raises:
        InvalidInputError: if it is none.
    """
    scheme, separator, rest = text.partition("://") if isinstance(text, str) else ("", "", "")
    if not separator or scheme not in BUCKETS:
        raise InvalidInputError(f"expected the address of a bucket: {EXPECTED}. Received: {text!r}")
    place, _, prefix = rest.partition("/")
    if "@" in place:  # not shown: it may hold a password
        raise InvalidInputError(f"an address of {scheme}:// holds an @ before its first slash; {_NO_SECRETS}")
    parts = [part for part in prefix.split("/") if part]
    if {".", ".."} & set(parts) or "?" in rest or "#" in rest or "\\" in rest:
        raise InvalidInputError(f"the path of an address has no '.', '..', '?', '#' or backslash. Received: {text!r}")
    if scheme == "file":
        if place or not parts:
            raise InvalidInputError(f"expected file:///FOLDER, with an absolute path. Received: {text!r}")
        return Address(scheme, "", "/" + "/".join(parts))
    if not place:
        raise InvalidInputError(f"the address names no bucket; expected {EXPECTED}. Received: {text!r}")
    return Address(scheme, place, "/".join(parts))


_NO_SECRETS = "credentials are no part of it: they come from the environment, a profile or the machine's role"


def split(text: object) -> tuple[Address, str | None]:
    """The repository and the reference in it that a source names, split at the last ``@``."""
    if not isinstance(text, str):
        return parse(text), None  # which says what is wrong with it
    scheme, _, rest = text.partition("://")
    place, slash, prefix = rest.partition("/")
    if not slash:  # a bucket is a repository itself
        place, at, ref = place.partition("@")
        if ":" in place:
            return parse(text), None
        return parse(f"{scheme}://{place}"), ref if at else None
    folder, at, ref = prefix.rpartition("@")
    if not at:
        return parse(text), None
    return parse(f"{scheme}://{place}/{folder}"), ref
