"""What Keras sees while it decides whether to save."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Decision:
    """The point of training at which Keras decides whether to save."""

    epoch: int
    batch: int | None
    logs: dict[str, Any]
    verbose: int
    thread: int = field(default_factory=threading.get_ident)

    @property
    def here(self) -> bool:
        """Whether this thread decides."""
        return self.thread == threading.get_ident()


class InterceptedModel:
    """A proxy of the model that is captured instead of saved."""

    def __init__(self, model: Any, save: Callable[[str, bool], None]) -> None:
        vars(self).update(_intercepted=model, _capture=save)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The class of the model: user code may check it."""
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
