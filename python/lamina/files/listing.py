"""The files that a path stands for, and their names in a snapshot."""

from __future__ import annotations

import json
import os
import re
import stat
import unicodedata
from pathlib import Path

from lamina.errors import InvalidInputError, NotFoundError, StorageError

# A Keras index has 100 bytes per layer.
MAX_INDEX = 64 << 20
# docs/format.md §5.1
MAX_PATH = 1024
_NOT_PORTABLE = re.compile(r"[\\:\x00-\x1f\x7f-\x9f]")


def source_files(source: Path) -> list[tuple[Path, str]]:
    """List the file, a sharded checkpoint by its index, or the directory's files, each with its name.

    A file that stands alone may have any name; files that know each other's must have names that the format can write.
    """
    if stat.S_ISDIR(file_status(source).st_mode):
        names = _names_below(source)
        return [(source / name, _portable(name)) for name in names]
    shards = _shards(source) if source.name.endswith(".weights.json") else []
    if not shards:  # nothing refers to it by its name
        return [(source, _portable(portable(source.name)))]
    return [(source.with_name(name), _portable(name)) for name in [source.name, *shards]]


def file_status(path: Path) -> os.stat_result:
    """``Path.stat`` with lamina's errors."""
    try:
        return path.stat()
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


def folded_path(path: str) -> str:
    """A form that is equal for paths that some file system treats as the same (docs/format.md §5.1)."""
    lower = unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).lower())
    return "/".join(part.rstrip(". ") for part in lower.split("/"))


def _names_below(root: Path) -> list[str]:
    files: list[str] = []
    folders = [""]
    while folders:
        prefix = folders.pop()
        for entry in _entries(root / prefix):
            name = prefix + entry.name
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                raise InvalidInputError(
                    f"{root / name} is neither a regular file nor a directory; lamina does not save links"
                )
            (folders.append(name + "/") if entry.is_dir() else files.append(name))
    if not files:
        raise InvalidInputError(f"{root} has no files; there is nothing to save")
    return sorted(files)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise StorageError(f"cannot read {folder}: {error.strerror or error}") from error


def is_portable(name: str) -> bool:
    """Whether the format allows a name (§5.1), apart from its length."""
    return name.encode(errors="replace").decode() == name and not _NOT_PORTABLE.search(name)


def portable(name: str) -> str:
    """A name that the format allows: other characters are percent-encoded, as in a URL (``:`` is ``%3A``)."""
    return _NOT_PORTABLE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), name)


def _portable(name: str) -> str:
    """Refuse a name that the format does not allow, before anything is read."""
    if not is_portable(name) or len(name.encode()) > MAX_PATH:
        raise InvalidInputError(
            f"a file of a snapshot cannot be called {name!r}: a name has at most {MAX_PATH} bytes of UTF-8, "
            "and no backslash, colon or control character"
        )
    return name


def _shards(index: Path) -> list[str]:
    """The names of the shards in a Keras index; none if the file is not an index."""
    try:
        if index.stat().st_size > MAX_INDEX:
            return []
        weight_map = json.loads(index.read_bytes())["weight_map"]
        names = {name for value in weight_map.values() for name in ([value] if isinstance(value, str) else value)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []  # another file with this extension
    for name in sorted(names, key=str):
        if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\\0"):
            raise InvalidInputError(f"{index} names the shard {name!r}; expected the name of a file beside it")
        shard = index.with_name(name)
        if shard.is_symlink() or not shard.is_file():
            raise InvalidInputError(f"{index} names the shard {name!r}, which is not a regular file beside it")
    return sorted(names)
