"""State of training that no Keras file holds: captured with the weights, and put back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class TrainingTensors:
    """Tensors of the training state, and how docs/format.md describes them."""

    values: list[Any] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    specs: list[tuple[str, str, list[int], str, int]] = field(default_factory=list)
