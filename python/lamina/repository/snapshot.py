"""Snapshots: one saved state, what it holds and what it cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from lamina.errors import NotFoundError
from lamina.repository.json_values import number
from lamina.repository.tensor import TensorInfo

if TYPE_CHECKING:
    from lamina import _core
    from lamina.repository.content import Content


class Home(Protocol):
    """What a snapshot asks of its repository."""

    def _aliases_of(self, snapshot: Snapshot) -> list[str]: ...

    def _open(self, snapshot: Snapshot) -> Content: ...


class Snapshot:
    """One saved state.

    Attributes that are None were not known when it was saved: an epoch exists only where a training loop saved.

    Example:
        >>> import keras, lamina
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> snapshot = lamina.save(model, "runs/a", metadata={"lr": 0.001})
        >>> snapshot.number, snapshot.kind, snapshot.metadata
        (1, 'model', {'lr': 0.001})
    """

    __module__ = "lamina"

    def __init__(self, core: _core.Snapshot, *, repository: Home | None = None, content: Content | None = None) -> None:
        self._core = core
        self._repository = repository
        self._content = content
        self._body: dict[str, Any] = json.loads(core.body())

    @property
    def id(self) -> str:
        """32 hex digits, the same in every repository and artifact."""
        return self._core.id

    @property
    def number(self) -> int | None:
        """Sequence number in its repository, from 1; None outside one."""
        return self._core.number or None

    @property
    def created_at(self) -> str:
        """RFC 3339 time in UTC."""
        return str(self._body["created_at"])

    @property
    def series(self) -> str:
        """The series that it belongs to."""
        return str(self._body["series"])

    @property
    def run(self) -> str | None:
        """Id of the W&B run, if there was one."""
        return self._text("run")

    @property
    def kind(self) -> str:
        """``"weights"``, ``"model"`` (with its configuration) or ``"files"``."""
        return str(self._body["kind"])

    @property
    def epoch(self) -> int | None:
        """0-based, as Keras passes it to callbacks."""
        return self._whole("epoch")

    @property
    def batch(self) -> int | None:
        """0-based; None for a save at the end of an epoch."""
        return self._whole("batch")

    @property
    def step(self) -> int | None:
        """Optimizer steps done."""
        return self._whole("step")

    @property
    def next_epoch(self) -> int | None:
        """What to pass to ``fit(initial_epoch=)`` to go on. The position in the data is not restored."""
        return self._whole("next_epoch")

    @cached_property
    def logs(self) -> dict[str, Any]:
        """The metrics that Keras passed, as floats."""
        return {name: number(value) for name, value in self._body["logs"].items()}

    @property
    def monitor(self) -> str | None:
        """Name of the monitored metric."""
        return self._text("monitor")

    @property
    def value(self) -> float | None:
        """Value of the monitored metric."""
        value = self._body["value"]
        return None if value is None else float(value)

    @property
    def mode(self) -> str | None:
        """``"min"``, ``"max"``, or None where the better direction is unknown."""
        return self._text("mode")

    @property
    def best(self) -> bool:
        """Whether it was the best of its series when it was saved."""
        return bool(self._body["best"])

    @property
    def aliases(self) -> list[str]:
        """Names that lead to it now: ``latest``, ``best``, ``epoch_N`` and the user's; empty outside a repository."""
        return [] if self._repository is None else self._repository._aliases_of(self)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the user gave."""
        return dict(self._body["metadata"])

    @property
    def training(self) -> dict[str, Any]:
        """State of training that no Keras file holds, besides its tensors."""
        return dict(self._body["training"])

    @property
    def software(self) -> dict[str, str]:
        """Versions of what wrote it."""
        return dict(self._body["software"])

    @property
    def bytes_total(self) -> int:
        """Bytes of the saved state."""
        return int(self._body["bytes_total"])

    @property
    def bytes_new(self) -> int:
        """Raw bytes of chunks that no earlier save had stored."""
        return int(self._body["bytes_new"])

    @property
    def bytes_stored(self) -> int:
        """Bytes of files that this save added: packs and the snapshot itself."""
        return int(self._body["bytes_stored"]) + self._core.file_bytes

    @property
    def blocked_seconds(self) -> float:
        """How long training waited for it."""
        return float(self._body["blocked_seconds"])

    @cached_property
    def files(self) -> list[str]:
        """Paths of its files."""
        return list(self._opened().files)

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Its tensors by the names of their variables, or by their paths in the file, where only these are known.

        Either finds a tensor. Where several files have a tensor of a path: ``FILE:PATH``.
        """
        return self._opened().tensors

    def _text(self, field: str) -> str | None:
        value = self._body[field]
        return None if value is None else str(value)

    def _whole(self, field: str) -> int | None:
        value = self._body[field]
        return None if value is None else int(value)

    def _opened(self) -> Content:
        if self._content is None:
            if self._repository is None:
                raise NotFoundError(f"snapshot {self.id} was read without its packs")
            self._content = self._repository._open(self)
        return self._content

    def __repr__(self) -> str:
        parts = [f"number={self.number}"] if self.number else []
        parts += [f"series={self.series!r}", f"epoch={self.epoch}"]
        if self.monitor and self.value is not None:
            parts.append(f"{self.monitor}={self.value:.5g}")
        return f"Snapshot({self.id[:12]}, {', '.join(parts)})"

    def _repr_html_(self) -> str:
        from lamina.repository.notebook import snapshot_html

        return snapshot_html(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Snapshot) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)
