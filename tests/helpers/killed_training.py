"""A training that is killed in its third epoch, and continues from its file when started again.

``python killed_training.py (stock | ours) FILE``
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from pathlib import Path
from typing import Any

import keras

import lamina.keras
from side_by_side import fit_on, fresh_model

EPOCHS = 4
LAST = 2  # the epoch in which the process is killed


class Kill(keras.callbacks.Callback):
    """Kills the process when the files of all earlier epochs exist, so both sides have the same files."""

    def __init__(self, checkpoint: Any) -> None:
        super().__init__()
        self.checkpoint = checkpoint

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == LAST:
            getattr(self.checkpoint, "wait", lambda: None)()
            os.kill(os.getpid(), signal.SIGKILL)


def main(side: str, file: Path) -> None:
    make = {
        "stock": keras.callbacks.ModelCheckpoint,
        "ours": functools.partial(lamina.keras.ModelCheckpoint, repository=file.parent.parent / f"{side}-repository"),
    }[side]
    checkpoint = make(file, monitor="loss", save_weights_only=False)
    if file.exists():
        fit_on(keras.models.load_model(file), "arrays", [checkpoint], epochs=EPOCHS, initial_epoch=LAST)
    else:
        fit_on(fresh_model(), "arrays", [checkpoint, Kill(checkpoint)], epochs=EPOCHS)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
