"""`Snapshot`: one saved state, its content and its cost."""

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
    """What a snapshot needs from its repository."""

    def _aliases_of(self, snapshot: Snapshot) -> list[str]: ...

    def _open(self, snapshot: Snapshot) -> Content: ...


class Snapshot:
    """One saved state.

    An attribute is None if it was not known at the save: only a save of a training loop has an epoch.

    Examples:
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
        """Sequence number in its repository, from 1; None outside a repository."""
        return self._core.number or None

    @property
    def created_at(self) -> str:
        """Time of the save, RFC 3339 in UTC: ``"2026-01-31T12:00:00.000Z"``."""
        return str(self._body["created_at"])

    @property
    def series(self) -> str:
        """Name of its series."""
        return str(self._body["series"])

    @property
    def run(self) -> str | None:
        """Id of the W&B run that was active, or None."""
        return self._text("run")

    @property
    def kind(self) -> str:
        """``"weights"``, ``"model"`` (with its configuration) or ``"files"``."""
        return str(self._body["kind"])

    @property
    def epoch(self) -> int | None:
        """Epoch, 0-based as in Keras's callbacks."""
        return self._whole("epoch")

    @property
    def batch(self) -> int | None:
        """Batch in the epoch, 0-based; None for a save at the end of an epoch."""
        return self._whole("batch")

    @property
    def step(self) -> int | None:
        """Number of optimizer steps done."""
        return self._whole("step")

    @property
    def next_epoch(self) -> int | None:
        """The value for ``fit(initial_epoch=)`` to continue. The position in the data is not restored."""
        return self._whole("next_epoch")

    @cached_property
    def logs(self) -> dict[str, Any]:
        """The metrics that Keras passed to the callback, as floats."""
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
        """``"min"`` or ``"max"``; None if it is unknown which is better."""
        return self._text("mode")

    @property
    def best(self) -> bool:
        """Whether it was the best of its series at the time of the save."""
        return bool(self._body["best"])

    @property
    def aliases(self) -> list[str]:
        """Its current aliases: ``latest``, ``best``, ``epoch_N`` and the user's; empty outside a repository."""
        return [] if self._repository is None else self._repository._aliases_of(self)

    @property
    def metadata(self) -> dict[str, Any]:
        """The user's ``metadata``."""
        return dict(self._body["metadata"])

    @property
    def training(self) -> dict[str, Any]:
        """Training state that no Keras file holds (optimizer class, callback state), without its tensors."""
        return dict(self._body["training"])

    @property
    def software(self) -> dict[str, str]:
        """Package versions at the save: package → version."""
        return dict(self._body["software"])

    @property
    def bytes_total(self) -> int:
        """Size of the saved state in bytes."""
        return int(self._body["bytes_total"])

    @property
    def bytes_new(self) -> int:
        """Bytes of new chunks, before compression; chunks that were already stored do not count."""
        return int(self._body["bytes_new"])

    @property
    def bytes_stored(self) -> int:
        """Bytes that this save added on disk: packs and the snapshot file."""
        return int(self._body["bytes_stored"]) + self._core.file_bytes

    @property
    def blocked_seconds(self) -> float:
        """How long training waited for this save, in seconds."""
        return float(self._body["blocked_seconds"])

    @property
    def capture_seconds(self) -> float | None:
        """The part of `blocked_seconds` that captured the weights; None if the save did not note it."""
        return self._seconds("capture_seconds")

    @property
    def wait_seconds(self) -> float | None:
        """The part of `blocked_seconds` that waited for an earlier save; None if the save did not note it."""
        return self._seconds("wait_seconds")

    @cached_property
    def files(self) -> list[str]:
        """Paths of its files, relative, with ``/``."""
        return list(self._opened().files)

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Its tensors by the names of their variables, or by their paths in the file if only these are known.

        Both names find a tensor. If several files have a tensor of the same path, it is ``FILE:PATH``.
        """
        return self._opened().tensors

    def _text(self, field: str) -> str | None:
        value = self._body[field]
        return None if value is None else str(value)

    def _whole(self, field: str) -> int | None:
        value = self._body[field]
        return None if value is None else int(value)

    def _seconds(self, field: str) -> float | None:
        """An optional field, which the engine does not check."""
        value = self._body.get(field)
        return float(value) if isinstance(value, int | float) else None

    def _opened(self) -> Content:
        if self._content is None:
            if self._repository is None:
                raise NotFoundError(
                    f"the data of snapshot {self.id} is not available here; open it from its repository or artifact"
                )
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
