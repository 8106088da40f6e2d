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


class InterceptedModel:
    """The model, except that saving it to a file captures it."""

    def __init__(self, model: Any, save: Callable[[str, bool], None]) -> None:
        vars(self).update(_intercepted=model, _capture=save)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """Who overrides a part of Keras's decision may ask whether it is a model."""
        return type(self._intercepted)

    def save(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        self._capture(os.fspath(filepath), False)

    def save_weights(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        self._capture(os.fspath(filepath), True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._intercepted(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._intercepted, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._intercepted, name, value)
