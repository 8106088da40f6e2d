"""Opening a repository in a bucket, or one of its snapshots, as a source."""

from __future__ import annotations

import contextlib
import json
import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lamina import _core
from lamina.errors import InvalidInputError, NotFoundError
from lamina.fetching.folder import new_folder
from lamina.fetching.packs import FetchingReader, PackStore
from lamina.files.plain import Opened
from lamina.remote import skeleton
from lamina.remote.address import Address, split
from lamina.remote.bucket import Bucket
from lamina.remote.transfer import Transfer
from lamina.repository.content import Content
from lamina.repository.keep import Keep
from lamina.repository.repository import Repository
from lamina.repository.results import PruneReport, RepairReport, Stats, VerifyReport
from lamina.repository.snapshot import Snapshot


class RemoteRepository(Repository):
    """A repository in a bucket, as it was when it was opened. Reads fetch what they need, and verify it."""

    def __init__(self, address: Address) -> None:
        self._bucket = Bucket(address)
        super().__init__(_core.Repository.open(self._bucket.mirror))

    @property
    def path(self) -> Path:
        """It has none.

        Raises:
            InvalidInputError: what needs the directory of a repository cannot work on a bucket.
        """
        return self._refuse("this")

    def snapshot(self, ref: str | int = "latest", *, series: str | None = None) -> Snapshot:
        try:
            return super().snapshot(ref, series=series)
        except (InvalidInputError, NotFoundError) as error:  # the engine knows the mirror only
            raise type(error)(str(error).replace(str(self._bucket.mirror), self.place)) from None

    @property
    def place(self) -> str:
        return self._bucket.url

    def verify(self, full: bool = False, *, sample: float | None = None, seed: int = 0) -> VerifyReport:
        """As `Repository.verify`. ``full``, and a ``sample``, first fetch every pack into the cache."""
        with self._local(whole=full or sample is not None) as local:
            return local.verify(full, sample=sample, seed=seed)

    def stats(self) -> Stats:
        found, sizes = self.snapshots(), self._bucket.packs.values()
        total = sum(snapshot.bytes_total for snapshot in found)
        return Stats(len(found), len({s.series for s in found}), len(sizes), sum(sizes), total)

    def user_aliases(self) -> dict[str, list[str]]:
        """Snapshot id → the user's names for it."""
        found: dict[str, list[str]] = {}
        for path in sorted((self._bucket.mirror / "aliases").glob("*.json")):
            body = json.loads(_core.unseal("alias", path.read_bytes(), str(path)))
            found.setdefault(body["snapshot"], []).append(body["alias"])
        return found

    def repair(self, *sources: Any) -> RepairReport:
        return self._refuse("a repair")

    def prune(self, keep: Keep | None = None, *, series: str | None = None, dry_run: bool = False) -> PruneReport:
        return self._refuse("a prune")

    def forget(self, snapshot: Snapshot | str | int, *, dry_run: bool = False) -> PruneReport:
        return self._refuse("a forget")

    def set_alias(self, snapshot: Snapshot | str | int, alias: str) -> None:
        self._refuse("an alias")

    def remove_alias(self, snapshot: Snapshot | str | int, alias: str) -> bool:
        return self._refuse("an alias")

    def __repr__(self) -> str:
        return f"Repository({self.place!r})"

    def _refuse(self, what: str) -> NoReturn:
        raise InvalidInputError(
            f"{what} needs a repository on this machine. Received: {self.place!r}. lamina.pull brings one here, and "
            "lamina.push sends what is new in it"
        )

    def _open(self, snapshot: Snapshot) -> Content:
        return self._opened(snapshot, [])

    def _opened(self, snapshot: Snapshot, local: Sequence[Path]) -> Content:
        """``local`` are folders with packs that need not be fetched."""
        held = new_folder()
        try:
            placement = self._placement(snapshot)
            (held.path / "lamina.json").write_bytes(self._core.snapshot_bytes(snapshot.number or 0))
            (held.path / "lamina.placement").write_bytes(placement)
            what = f"snapshot {snapshot.number} in {self.place}"
            store = PackStore(held.path / "packs", Transfer(self._bucket.store), placement, local, what)
            content = Content(FetchingReader(held.path, store, what))
        except BaseException:
            held.remove()
            raise
        weakref.finalize(content, held.remove)
        return content

    def _placement(self, snapshot: Snapshot) -> bytes:
        found = self._bucket.placement(snapshot.id)
        if found is not None:
            return found
        with self._local(whole=False) as local:  # it came by a plain copy
            return local._core.placement_bytes(local.snapshot(snapshot.number or 0)._core)

    @contextlib.contextmanager
    def _local(self, *, whole: bool) -> Iterator[Repository]:
        held = new_folder()
        try:
            folder = skeleton.build(self._bucket, held.path / "repository", whole=whole)
            yield Repository(_core.Repository.open(folder))
        finally:
            held.remove()


def open_repository(text: str) -> RemoteRepository:
    """Open the repository at an address."""
    address, ref = split(text)
    if ref is not None:
        raise InvalidInputError(f"expected the address of a repository, without @. Received: {text!r}")
    return RemoteRepository(address)


def repository_at(text: str) -> RemoteRepository | None:
    """The repository at an address; None if it names one of its snapshots."""
    address, ref = split(text)
    return RemoteRepository(address) if ref is None else None


def in_repository(text: str) -> tuple[str, str]:
    """The repository and the reference in it that an address names."""
    address, ref = split(text)
    return address.url, ref or "latest"


def open_source(source: Any) -> Opened:
    """Open what `lamina.restore` and the others were given."""
    address, ref = split(os.fspath(source))
    snapshot = RemoteRepository(address).snapshot(ref or "latest")
    return Opened(snapshot._opened(), snapshot)


def fetch_packs(source: Any, present: set[str]) -> tuple[Path, Any]:
    """Fetch the packs that are not ``present``, for a repair."""
    address, ref = split(os.fspath(source))
    opened = RemoteRepository(address)
    content = opened.snapshot(ref)._opened() if ref else None
    if content is not None and isinstance(content.reader, FetchingReader):
        content.reader.fetch_packs(present)
        return content.reader.folder, content
    return _all_packs(opened._bucket, present)


def _all_packs(bucket: Bucket, present: set[str]) -> tuple[Path, Any]:
    held = new_folder()
    bucket.packs = {name: size for name, size in bucket.packs.items() if name not in present}
    return skeleton.build(bucket, held.path / "repository", whole=True), held
