"""How often a checkpoint is saved, counted in epochs."""

from __future__ import annotations

from lamina.keras import arguments


class EveryNEpochs(str):
    """``save_freq=EveryNEpochs(5)`` saves at the end of the 5th, 10th, 15th … epoch.

    To Keras it is ``"epoch"``: it decides at each epoch's end, and between those epochs nothing is decided.

    Example:
        >>> from lamina.keras import EveryNEpochs, ModelCheckpoint
        >>> checkpoint = ModelCheckpoint("model-{epoch}.keras", save_freq=EveryNEpochs(5))
    """

    n: int

    def __new__(cls, n: int) -> EveryNEpochs:
        made = super().__new__(cls, "epoch")
        made.n = arguments.integer("n", n, 1)
        return made

    def __getnewargs__(self) -> tuple[int]:  # type: ignore[override]
        return (self.n,)

    def __repr__(self) -> str:
        return f"EveryNEpochs({self.n})"


def is_due(save_freq: object, epoch: int) -> bool:
    """Whether the end of an epoch, counted from 0, is one to save at; epochs of earlier runs count."""
    return not isinstance(save_freq, EveryNEpochs) or (epoch + 1) % save_freq.n == 0
