"""The staging folder: the files and records of uploads, kept until the server has them, also after a crash."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamina import _core
from lamina.errors import StorageError
from lamina.fetching.copies import immutable_copy
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.wandb.manifest import FileEntry, measured
from lamina.wandb.upload.run_state import state_of

TRAVEL = Path(__file__).parents[1] / "travel"
#: The file with the notice, in the directory of an offline run.
NOTICE = "SEND-WITH-LAMINA-PUSH.txt"
_NOTICE = """This offline run contains lamina checkpoints.

    lamina push DIRECTORY        uploads everything, from any machine and any working directory
    wandb sync DIRECTORY         uploads everything only while DIRECTORY is where the run created it

If this directory was moved or copied, wandb sync uploads the history without the checkpoints and reports no
error. Use lamina push then. It also uploads the checkpoints that an earlier wandb sync left out.
"""
TRAVELLING = ("README.md", "restore.py")


@dataclass(frozen=True)
class Staging:
    """A staging folder. Records and entries name files relative to ``root``."""

    root: Path  # a repository, or the directory of a run
    folder: Path  # `journal` in a repository, `lamina` in the directory of a run

    @classmethod
    def of_repository(cls, repository: Repository) -> Staging:
        root = repository.path.absolute()  # the user may change the working directory during an upload
        return cls(root, root / "journal")

    @classmethod
    def of_run(cls, run: Any) -> Staging:
        root = state_of(run).directory
        staging = cls(root, root / "lamina")
        if run.offline:
            staging._write_notice()
        return staging

    def _write_notice(self) -> None:
        """Warn the user: `wandb sync` of a run that was moved sends no version and still reports success."""
        path = self.root / NOTICE
        if not path.exists():
            with contextlib.suppress(OSError):
                path.write_text(_NOTICE)

    def new_folder(self, key: str) -> Path:
        folder = self.folder / key
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {folder}: {error.strerror or error}") from error
        return folder

    def claim(self, key: str) -> _core.Claim | None:
        """Claim the version of this key for as long as it is sent; None if another process has claimed it."""
        return _core.Claim.take(self.new_folder(key) / "lock")

    def remove(self, key: str) -> None:
        shutil.rmtree(self.folder / key, ignore_errors=True)

    def stage_file(self, key: str, name: str, write: Callable[[Path], None]) -> list[FileEntry]:
        """Stage a plain file as the only file of a version; ``write`` creates a file or a directory at its path."""
        target = self.new_folder(key) / name
        write(target)
        if target.is_dir():  # its files are entries at the top level, as with `Artifact.add_dir`
            files = sorted(path for path in target.rglob("*") if path.is_file())
            return measured(((path.relative_to(target).as_posix(), path) for path in files), self.root)
        return measured([(name, target)], self.root)

    def stage_packs(
        self, key: str, repository: Repository, snapshot: Snapshot, known: dict[str, str]
    ) -> list[FileEntry]:
        """Stage a snapshot. Its packs are copied, unless this folder is in their repository.

        ``known`` holds MD5 digests by path in the artifact; the digests of further packs are added to it.
        """
        folder = self.new_folder(key)
        core, number = repository._core, snapshot.number or 0
        (folder / "lamina.json").write_bytes(core.snapshot_bytes(number))
        (folder / "lamina.placement").write_bytes(core.placement_bytes(snapshot._core))
        small = [(name, folder / name) for name in ("lamina.json", "lamina.placement")]
        small += [(name, self._travelling(name)) for name in TRAVELLING]
        packs = [f"{name}.pack" for name, _ in core.packs_of(snapshot._core)]
        entries = measured([(f"packs/{name}", self._pack(repository, name)) for name in packs], self.root, known)
        known.update((entry.path, entry.digest) for entry in entries)
        return measured(small, self.root) + entries

    def _pack(self, repository: Repository, name: str) -> Path:
        pack = repository.path / "packs" / name
        if self.root == repository.path.absolute():
            return pack.absolute()
        target = self.new_folder("packs") / name
        immutable_copy(pack, target)
        return target

    def _travelling(self, name: str) -> Path:
        """Stage the stand-alone reader, once for all versions that carry the same one.

        A reader of an older lamina is not overwritten: records of pending versions name it.
        """
        content = (TRAVEL / name).read_bytes()
        target = self.new_folder(f"travel/{hashlib.sha256(content).hexdigest()[:16]}") / name
        if not target.is_file() or target.read_bytes() != content:
            # Another callback may stage the same file at this moment. It must not see a part of it.
            temporary = target.with_name(f".{name}-{os.urandom(6).hex()}")
            temporary.write_bytes(content)
            os.replace(temporary, target)
        return target
