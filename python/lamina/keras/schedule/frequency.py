"""`EveryNEpochs`: how often a checkpoint is saved."""

from __future__ import annotations

from lamina.keras import arguments


class EveryNEpochs(str):
    """``save_freq=EveryNEpochs(5)`` saves at the end of the 5th, 10th, 15th … epoch.

    Keras sees ``"epoch"``. At the other epochs ``save_best_only`` does not compare values.

    Raises:
        InvalidInputError: if ``n`` is not an int of 1 or more.

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
    """Whether to save at the end of ``epoch`` (from 0); epochs before a resume count."""
    return not isinstance(save_freq, EveryNEpochs) or (epoch + 1) % save_freq.n == 0
