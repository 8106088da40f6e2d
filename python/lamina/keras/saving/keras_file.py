"""A checkpoint that Keras, or the model's own `save`, has written into a hidden staging folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lamina import _core
from lamina.files import h5
from lamina.files.listing import portable
from lamina.files.plain import kind_of
from lamina.files.replacing import behind_links, flush, mode_of
from lamina.keras import remote
from lamina.keras.capture.capture import Captured
from lamina.keras.capture.training_state import TrainingTensors
from lamina.repository.repository import Repository
from lamina.repository.snapshot import Snapshot
from lamina.writing import body, file_argument, save_path


class KerasFile:
    """Keras's own file, staged in a hidden folder in ``beside``; the commit moves it to its path."""

    def __init__(
        self,
        model: Any,
        path: str,
        *,
        weights_only: bool,
        beside: Path,
        training: TrainingTensors,
        captured: Captured,
    ) -> None:
        self._training = training
        self._captured = captured
        beside.mkdir(parents=True, exist_ok=True)
        self._temporary = _core.Temporary(beside)
        self._folder = self._temporary.path / "made"
        self.file = self._folder / portable(os.path.basename(path))
        try:
            self._folder.mkdir()
            save_by_keras(model, str(self.file), weights_only=weights_only)
            self.nbytes = sum(file.stat().st_size for file in self._files())
        except BaseException:
            self.release()
            raise

    def store(self, repository: Repository, fields: Mapping[str, Any], *, codec: str, threads: int) -> Snapshot:
        if self._files() != [self.file]:
            return save_path(repository, self._folder, fields, codec=codec, threads=threads)
        if not self._training.specs:
            return save_path(repository, self.file, fields, codec=codec, threads=threads)
        ((file, plan),) = h5.plan_source(self.file)
        image = np.frombuffer(np.memmap(file, np.uint8, mode="r"), np.uint8)
        literals = [image[at : at + length] for at, length in plan.literal_runs()]
        core = repository._core.save_memory(
            body({"kind": kind_of([plan.path])} | dict(fields)),
            [file_argument(plan)],
            self._training.specs,
            [[image[t.offset : t.offset + t.nbytes] for t in plan.tensors], self._captured.arrays()],
            [np.concatenate(literals)],
            codec,
            threads,
        )
        return Snapshot(core, repository=repository)

    def write(self, path: str) -> None:
        """Move the file to its path, and with it other files that the model's own `save` wrote."""
        if remote.is_remote(path):
            remote.copy(self.file, path)
            return
        folder, name = Path(path).parent, self.file.name
        for file in self._files():
            named = folder / str(file.relative_to(self._folder)).replace(name, Path(path).name, 1)
            named.parent.mkdir(parents=True, exist_ok=True)
            target = behind_links(named)
            flush(file)
            if (mode := mode_of(target)) is not None:
                os.chmod(file, mode)
            os.replace(file, target)
            flush(target.parent)
        self.file = Path(path)

    def _files(self) -> list[Path]:
        return sorted(file for file in self._folder.rglob("*") if file.is_file())

    def copy_to(self, path: Path) -> None:
        shutil.copyfile(self.file, path)

    def release(self) -> None:
        self._captured.release()
        self._temporary.remove()


def save_by_keras(model: Any, path: str, *, weights_only: bool) -> None:
    if weights_only:
        model.save_weights(path, overwrite=True)
    else:
        model.save(path, overwrite=True)
