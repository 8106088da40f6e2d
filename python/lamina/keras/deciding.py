"""The moment in which Keras decides on a save, and the model that it sees then."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Decision:
    """Where training is while Keras decides."""

    epoch: int
    batch: int | None
    logs: dict[str, Any]
    verbose: int
    thread: int = field(default_factory=threading.get_ident)

    @property
    def here(self) -> bool:
        """Whether it is made on this thread."""
        return self.thread == threading.get_ident()


class Intercepted:
    """The model, except that saving it to a file captures it."""

    def __init__(self, model: Any, save: Callable[[str, bool], None]) -> None:
        self._model = model
        self._save = save

    def save(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        self._save(os.fspath(filepath), False)

    def save_weights(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        self._save(os.fspath(filepath), True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
