"""Where the files of an upload wait for it: a folder that outlives the process, and that nobody else writes to."""

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

_TRAVEL = Path(__file__).parents[1] / "travel"
#: In the directory of an offline run.
NOTICE = "SEND-WITH-LAMINA-PUSH.txt"
_NOTICE = """This offline run has checkpoints of lamina.

    lamina push DIRECTORY        sends all of it, from any directory and any machine
    wandb sync DIRECTORY         sends all of it only while DIRECTORY stands where the run was made

After this directory was moved or copied, wandb sync sends the history without the checkpoints and reports
no error. Use lamina push then; it also sends what an earlier wandb sync has left out.
"""
TRAVELLING = ("README.md", "restore.py")


@dataclass(frozen=True)
class Staging:
    """The folder of the files and records of uploads. Records and entries name files relative to ``root``."""

    root: Path  # a repository, or the directory of a run
    folder: Path  # `journal` in a repository, `lamina` in the directory of a run

    @classmethod
    def of_repository(cls, repository: Repository) -> Staging:
        root = repository.path.absolute()  # uploads outlast a change of the working directory
        return cls(root, root / "journal")

    @classmethod
    def of_run(cls, run: Any) -> Staging:
        root = state_of(run).directory
        staging = cls(root, root / "lamina")
        if run.offline:
            staging._say_how_it_is_sent()
        return staging

    def _say_how_it_is_sent(self) -> None:
        """`wandb sync` of a run that was moved sends no version, and says that it has finished."""
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
        """For whoever sends the version of this key, as long as he does; None where somebody else has it."""
        return _core.Claim.take(self.new_folder(key) / "lock")

    def remove(self, key: str) -> None:
        shutil.rmtree(self.folder / key, ignore_errors=True)

    def stage_file(self, key: str, name: str, write: Callable[[Path], None]) -> list[FileEntry]:
        """The plain file as the one file of a version; ``write`` makes a file, or a directory, of its own."""
        target = self.new_folder(key) / name
        write(target)
        if target.is_dir():  # its files as entries at the top, as `Artifact.add_dir` has them
            files = sorted(path for path in target.rglob("*") if path.is_file())
            return measured(((path.relative_to(target).as_posix(), path) for path in files), self.root)
        return measured([(name, target)], self.root)

    def stage_packs(
        self, key: str, repository: Repository, snapshot: Snapshot, known: dict[str, str]
    ) -> list[FileEntry]:
        """A snapshot with its packs, which stay in the repository if this folder is in it.

        ``known``: MD5 digests by path in the artifact; those of more packs are added to it.
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
        """The reader for those without lamina, once for all versions that carry the same one.

        An older lamina's stays where it stands: records of versions that have not arrived name it.
        """
        content = (_TRAVEL / name).read_bytes()
        target = self.new_folder(f"travel/{hashlib.sha256(content).hexdigest()[:16]}") / name
        if not target.is_file() or target.read_bytes() != content:
            # Another callback may be about to stage it too: it must not see half of it.
            temporary = target.with_name(f".{name}-{os.urandom(6).hex()}")
            temporary.write_bytes(content)
            os.replace(temporary, target)
        return target
