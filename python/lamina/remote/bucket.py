"""A repository in a bucket: its snapshots and aliases, mirrored in the cache, and what it holds besides.

The layout is that of a repository (docs/format.md §11). Snapshots never change, so each is fetched once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from lamina import _core
from lamina.cache import cache_folder
from lamina.errors import NotFoundError, StorageError, UnsupportedFormatError
from lamina.fetching.folder import new_folder
from lamina.remote.address import Address
from lamina.remote.store import Entry, Store
from lamina.repository.repository import now

#: Requests at once, for small objects.
_AT_ONCE = 16
#: How often a commit tries the next number, or the same one again, before it gives up.
_NUMBERS = 1000
_PAUSE = 0.2
_SNAPSHOT = re.compile(r"(\d{10})\.json")
_TAKEN = re.compile(r"(\d{10})\.(json|claim)")
_PACK = re.compile(r"([0-9a-f]{64})\.pack")
_ALIAS = re.compile(r"[0-9a-f]{32}\.json")


class Bucket:
    """What stands in a bucket, as far as it has been looked at.

    Args:
        address: where.
        make: also write there: it becomes a repository if it is none, and the store must honour conditions.
    """

    def __init__(self, address: Address, *, make: bool = False) -> None:
        self.store = Store(address, make=make)
        self.config = self._made() if make else self._found()
        self._mirror = _Mirror(address, str(self._body("config", "config.json", self.config)["id"]))
        self._mirror.write("config.json", self.config)
        self._numbers: set[int] = set()
        self._aliases: dict[str, Entry] = {}
        self.refresh()

    @property
    def url(self) -> str:
        return self.store.url

    @property
    def mirror(self) -> Path:
        """A folder in the form of a repository, with the snapshots and aliases of the bucket, and without packs."""
        return self._mirror.folder

    def refresh(self) -> None:
        """Bring the mirror up to date: one listing, and the snapshots that are new."""
        listed = self.store.list("snapshots")
        sizes = {name: one.size for name, one in listed.items() if _SNAPSHOT.fullmatch(name)}
        self._numbers = {int(match[1]) for name in listed if (match := _TAKEN.fullmatch(name))}
        self._aliases = {name: one for name, one in self.store.list("aliases").items() if _ALIAS.fullmatch(name)}
        have = self._mirror.sizes("snapshots")  # where the power failed, one may be cut off
        self._fetch("snapshot", "snapshots", [name for name, size in sizes.items() if have.get(name) != size])
        self._fetch("alias", "aliases", set(self._aliases))  # they move
        self._mirror.keep("snapshots", set(sizes))
        self._mirror.keep("aliases", set(self._aliases))

    @cached_property
    def packs(self) -> dict[str, int]:
        """Name → bytes; listed once."""
        listed = self.store.list("packs")
        return {match[1]: one.size for name, one in listed.items() if (match := _PACK.fullmatch(name))}

    @cached_property
    def placements(self) -> set[str]:
        """Ids of the snapshots that have one; listed once."""
        return {name.removesuffix(".placement") for name in self.store.list("placements")}

    def placement(self, snapshot_id: str) -> bytes | None:
        """The footers of the packs that a snapshot needs; None where the bucket has none, as after a plain copy."""
        return self.store.get(f"placements/{snapshot_id}.placement")

    # Commits.

    def commit(self, snapshot: bytes) -> int:
        """Give a snapshot the next number; its packs are there. Once it is there it is not written again.

        Raises:
            StorageError: if the store does not say that it has it.
        """
        number = max(self._numbers, default=0) + 1
        for _ in range(_NUMBERS):
            name = f"snapshots/{number:010}.json"
            there = snapshot if self._created(name, snapshot) else self.store.get(name)
            if there == snapshot:  # ours, or the answer was lost, or somebody else has sent the same one
                self._numbers.add(number)
                self._mirror.write(name, snapshot)
                return number
            if there is None:
                time.sleep(_PAUSE)  # another write of this number was under way, and has not come through
            else:
                number += 1
        raise StorageError(f"cannot commit to {self.url}: {_NUMBERS} numbers were taken by others; try again later")

    def _created(self, name: str, content: bytes) -> bool:
        try:
            return self.store.create(name, content)
        except StorageError:
            if self.store.get(name) != content:  # it may have arrived all the same
                raise
            return True

    def set_alias(self, name: str, content: bytes) -> None:
        """Let an alias file of the bucket say this; ``name`` is that of the file."""
        for _ in range(_NUMBERS):
            path, there = f"aliases/{name}", self._aliases.get(name)
            if there is None:
                done = self.store.create(path, content)
            elif self._mirror.read(path) == content:
                return
            else:
                done = self.store.replace(path, content, there.etag)
            if done:
                self._mirror.write(path, content)
                return
            self.refresh()  # somebody else was faster
        raise StorageError(f"cannot set an alias in {self.url}: others set it again and again")

    # The beginning.

    def _found(self) -> bytes:
        found = self.store.get("config.json")
        if found is None:
            raise NotFoundError(f"{self.url} is not a lamina repository: it has no config.json")
        return found

    def _made(self) -> bytes:
        config = self.store.get("config.json")
        if config is None:
            new = {"id": os.urandom(16).hex(), "created_at": now()}
            self.store.create("config.json", _core.seal("config", json.dumps(new)))
            config = self._found()
        self._probe(config)
        return config

    def _probe(self, config: bytes) -> None:
        """Where two savers could replace each other's snapshots, nothing is saved. It writes what is there already."""
        if self.store.create("config.json", config):
            raise UnsupportedFormatError(
                f"the store of {self.url} ignores the condition If-None-Match of a write, so that two savers could "
                "replace each other's snapshots; nothing was saved. Use a store that honours it, or a newer release"
            )

    # The mirror.

    def _fetch(self, kind: str, folder: str, names: Iterable[str]) -> None:
        def bring(name: str) -> None:
            path = f"{folder}/{name}"
            content = self.store.get(path)
            if content is None:  # it has gone meanwhile
                return
            self._body(kind, path, content)
            self._mirror.write(path, content)

        in_parallel(bring, sorted(names), _AT_ONCE)

    def _body(self, kind: str, name: str, content: bytes) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(_core.unseal(kind, content, f"{name} in {self.url}"))
        return body


class _Mirror:
    """A folder in the cache. Several processes may write to it: each file is there whole or not at all."""

    def __init__(self, address: Address, identity: str) -> None:
        self._held: _core.Temporary | None = None
        name = f"{hashlib.sha256(address.url.encode()).hexdigest()[:24]}-{identity[:8]}"
        try:
            self.folder = cache_folder() / "buckets" / name
            self._make()
        except OSError:
            self._held = new_folder()
            self.folder = self._held.path / name
            self._make()

    def _make(self) -> None:
        for part in ("snapshots", "aliases", "packs"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)

    def sizes(self, folder: str) -> dict[str, int]:
        """Name → bytes."""
        sizes = {}
        for path in (self.folder / folder).iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process keeps the mirror up to date, too
                sizes[path.name] = path.stat().st_size
        return {name: size for name, size in sizes.items() if not name.startswith(".")}

    def read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        temporary = path.with_name(f".{path.name}-{os.urandom(6).hex()}")
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
        finally:
            temporary.unlink(missing_ok=True)

    def keep(self, folder: str, names: set[str]) -> None:
        for gone in self.sizes(folder).keys() - names:
            with contextlib.suppress(OSError):
                (self.folder / folder / gone).unlink()


def in_parallel(work: Callable[[Any], None], items: Iterable[Any], at_once: int) -> None:
    """Call ``work`` for all items; what one of them raises ends it. Ctrl-C does not wait for a silent store."""
    listed = list(items)
    if not listed:
        return
    pool = ThreadPoolExecutor(min(at_once, len(listed)), thread_name_prefix="lamina-bucket")
    waits = True
    try:
        for future in [pool.submit(work, item) for item in listed]:
            future.result()
    except BaseException as error:
        waits = isinstance(error, Exception)
        raise
    finally:
        pool.shutdown(waits, cancel_futures=True)
