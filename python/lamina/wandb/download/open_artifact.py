"""Opening an artifact as a source of `lamina.restore`, `load_model`, `export` and `read_tensors`."""

from __future__ import annotations

import contextlib
import os
import unicodedata
import warnings
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import wandb

from lamina import _core
from lamina.errors import ArtifactError, CorruptDataError, InvalidInputError, NotFoundError
from lamina.fetching.folder import new_folder
from lamina.fetching.packs import FetchingReader, PackStore
from lamina.fetching.transfer import Range, make_sparse
from lamina.files.listing import folded_path, is_portable
from lamina.files.plain import Opened, open_plain
from lamina.repository.content import Content
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.schemes import Artifact, DeletedError, local_path
from lamina.wandb.download.transfer import Transfer
from lamina.wandb.manifest import as_base64
from lamina.wandb.server import Server, full_name

_SMALL = ("lamina.json", "lamina.placement")
_UNSAFE = {"", ".", ".."}
#: Characters that reverse text: with them a name can show another extension than it has.
_TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
#: Bytes of one file. W&B allows less, and no file system creates a sparse file of any size.
_MAX_FILE = 1 << 43


def open_artifact(
    name_or_artifact: Any,
    *,
    use: bool | None = None,
    repository: str | os.PathLike[str] | Repository | None = None,
) -> Opened:
    """Open a version of an artifact, of either layout. Only what is read is downloaded, and it is verified.

    Downloads are kept below ``LAMINA_CACHE_DIR``, or the user's cache directory, as long as the result lives.

    Args:
        name_or_artifact: ``[wandb:][entity/][project/]name[:alias]``, or a `wandb.Artifact`. The default alias is
            ``latest``; the default entity and project are those of the active run, or of the user's settings.
        use: whether the active run records that it uses the artifact; default: yes, unless the environment variable
            ``LAMINA_LINEAGE`` is ``0``.
        repository: a local repository; its packs are not downloaded again.

    Examples:
        >>> import keras, lamina, wandb
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> snapshot = lamina.save(model, "runs/a")
        >>> with wandb.init(project="digits") as run:
        ...     artifact = lamina.wandb.log_checkpoint(snapshot, name="digits")
        >>> opened = lamina.wandb.open_artifact("digits/digits:latest")
        >>> [tensor.name for tensor in opened.content.tensors.values()]
        ['layers/dense/vars/0', 'layers/dense/vars/1']

    Returns:
        An object with ``content`` (``files``, ``tensors``, ``read_named``, ``export``) and ``snapshot``.

    Raises:
        NotFoundError: if there is no such version.
        InvalidInputError: if the name is malformed, or the object is not an artifact.
        ArtifactError: if W&B cannot be reached, or the artifact has no files.
        CorruptDataError: if a downloaded file is damaged, or has an unsafe path.
    """
    artifact = find(name_or_artifact)
    _note_use(artifact, use)
    entries = _files_of(artifact)
    held = new_folder()
    folder = held.path
    try:
        if "lamina.json" in entries:
            opened = _open_packs(artifact, entries, folder, _local_packs(repository))
        else:
            opened = _open_files(artifact, entries, folder)
    except BaseException:
        held.remove()
        raise
    weakref.finalize(opened.content, held.remove)
    return opened


def open_source(source: str | Artifact) -> Opened:
    """Open a source of `lamina.restore` and the others."""
    return open_artifact(source)


def fetch_packs(source: str | Artifact, present: set[str]) -> tuple[Path, Opened]:
    """Download the packs that are not ``present``, for a repair.

    Raises:
        InvalidInputError: if the artifact holds plain files.
    """
    opened = open_artifact(source)
    reader = getattr(opened.content, "reader", None)
    if not isinstance(reader, FetchingReader):
        raise InvalidInputError(f"{source} holds plain files; only an artifact with packs can repair a repository")
    reader.fetch_packs(present)
    return reader.folder, opened


def find(name_or_artifact: Any) -> Any:
    """The logged artifact of this name, or this artifact once it is logged."""
    if isinstance(name_or_artifact, str):
        name = name_or_artifact.removeprefix("wandb:")
        return _server().artifact(name if ":" in name else f"{name}:latest")
    if not hasattr(name_or_artifact, "wait"):  # not "manifest": hasattr would download it
        raise InvalidInputError(f"expected an artifact or its name. Received: {name_or_artifact!r}")
    try:
        return name_or_artifact.wait()
    except Exception as error:
        raise ArtifactError(f"the artifact {name_or_artifact.name} is not on the server: {error}") from error


def _server() -> Server:
    """The server of the active run, as for `run.use_artifact`; without a run, that of the user's settings."""
    run = wandb.run
    return Server() if run is None or run.disabled else Server.of_run(run)


def _note_use(artifact: Any, use: bool | None) -> None:
    run = wandb.run
    wanted = use if use is not None else os.environ.get("LAMINA_LINEAGE", "1") != "0"
    if not wanted or run is None or run.offline or run.disabled:
        return
    try:
        run.use_artifact(artifact)
    except Exception as error:  # a restore must not fail because of lineage
        warnings.warn(f"could not record in the run that it uses {artifact.name}: {error}", stacklevel=3)


class _Download(Transfer):
    """Tells where a version is gone from where it cannot be had."""

    def fetch(self, ranges: Iterable[Range]) -> None:
        with _deletion_told(self._artifact):
            super().fetch(ranges)


@contextlib.contextmanager
def _deletion_told(artifact: Any) -> Iterator[None]:
    try:
        yield
    except ArtifactError as error:
        with contextlib.suppress(ArtifactError):  # the server cannot say
            try:
                _server().artifact(full_name(artifact))
            except NotFoundError:
                raise DeletedError(f"{full_name(artifact)} was deleted on the server while it was read") from error
        raise


def _files_of(artifact: Any) -> dict[str, Any]:
    with _deletion_told(artifact):
        try:
            entries = {str(path): entry for path, entry in artifact.manifest.entries.items() if entry.ref is None}
        except Exception as error:
            raise ArtifactError(f"cannot get the list of files of {artifact.name}: {error}") from error
    if not entries:
        raise ArtifactError(f"the artifact {artifact.name} has no files")
    for path, entry in entries.items():
        if not _safe(path):
            raise CorruptDataError(f"the artifact {artifact.name} has a file with the unsafe path {path!r}")
        if type(entry.size) is not int or not 0 <= entry.size <= _MAX_FILE:
            raise CorruptDataError(f"the artifact {artifact.name} claims {entry.size!r} bytes for {path!r}")
    _refuse_collisions(entries, artifact.name)
    return entries


def _safe(path: str) -> bool:
    """Whether a path stays inside its folder on every system, and is displayed as it is."""
    turned = _TURNS & set(map(unicodedata.bidirectional, path))
    return is_portable(path) and not turned and not set(path.split("/")) & _UNSAFE


def _refuse_collisions(paths: Iterable[str], what: str) -> None:
    """Refuse two paths that are the same file, or a file and its folder, on some file system."""
    folded = [folded_path(path) for path in paths]
    folders = {path[:at] for path in folded for at, letter in enumerate(path) if letter == "/"}
    seen: set[str] = set()
    for path in folded:
        if path in seen or path in folders:
            raise CorruptDataError(f"conflicting paths in the artifact {what}: {path!r}")
        seen.add(path)


def _open_packs(artifact: Any, entries: dict[str, Any], folder: Path, local: list[Path]) -> Opened:
    if "lamina.placement" not in entries:
        raise CorruptDataError(f"the artifact {artifact.name} has no file lamina.placement")
    transfer = _Download(artifact)
    download(transfer, entries, _SMALL, folder, artifact.name)
    # First, because it verifies the snapshot.
    core = _core.parse_snapshot((folder / "lamina.json").read_bytes(), f"lamina.json of {artifact.name}")
    placement = (folder / "lamina.placement").read_bytes()
    what = f"the artifact {artifact.name}"
    store = PackStore(folder / "packs", transfer, placement, local, what)
    content = Content(FetchingReader(folder, store, what))
    return Opened(content, Snapshot(core, content=content))


def _open_files(artifact: Any, entries: dict[str, Any], folder: Path) -> Opened:
    files = folder / "files"
    download(_Download(artifact), entries, entries, files, artifact.name)
    return open_plain(files / next(iter(entries)) if len(entries) == 1 else files)


def download(transfer: Transfer, entries: dict[str, Any], names: Iterable[str], folder: Path, what: str) -> None:
    """Download whole files, and compare them with the digests in the artifact's manifest."""
    wanted = [(name, folder / name) for name in names]
    for name, path in wanted:
        make_sparse(path, entries[name].size)
    transfer.fetch(Range(name, 0, entries[name].size, path) for name, path in wanted if entries[name].size)
    # A digest that is not MD5 exists only if a user asked for it. The engine verifies lamina's own files in any case.
    checked = [(name, path) for name, path in wanted if "alg" not in entries[name].extra]
    digests = _core.md5_files([path for _, path in checked]) if checked else []
    for (name, path), digest in zip(checked, digests, strict=True):
        if as_base64(digest) != entries[name].digest:
            with contextlib.suppress(OSError):
                path.unlink()
            raise CorruptDataError(f"{name} of the artifact {what} arrived damaged: MD5 mismatch")


def _local_packs(repository: str | os.PathLike[str] | Repository | None) -> list[Path]:
    if repository is None:
        return []
    root = repository.path if isinstance(repository, Repository) else local_path(repository, "a repository")
    return [root / "packs"]
