"""How often a checkpoint is saved where Keras's own ways do not suffice: by epochs, by time, by what saves cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from lamina.errors import InvalidInputError
from lamina.keras import arguments
from lamina.keras.capture.walk import describe

#: What training's time is measured with.
clock: Callable[[], float] = time.monotonic
#: Before one is measured, a save is taken to cost this many seconds, and as many bytes of state to be copied in one.
_FIRST_SECONDS, _BYTES_PER_SECOND = 0.05, 1e9


class EveryNEpochs(str):
    """``save_freq=EveryNEpochs(5)`` saves at the end of the 5th, 10th, 15th … epoch.

    Keras sees ``"epoch"``. At the other epochs ``save_best_only`` does not compare values.

    Raises:
        InvalidInputError: if ``n`` is not an int of 1 or more.

    Examples:
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


class EveryMinutes(int):
    """``save_freq=EveryMinutes(10)`` saves at the first end of a batch after 10 minutes, after 10 more, and so on.

    ``datetime.timedelta(minutes=10)`` is the same. To Keras it is a save at each batch, of which those in between are
    left out.

    Examples:
        >>> from lamina.keras import EveryMinutes, ModelCheckpoint
        >>> checkpoint = ModelCheckpoint("model.keras", monitor="loss", save_freq=EveryMinutes(10))
    """

    minutes: float

    def __new__(cls, minutes: float) -> EveryMinutes:
        made = super().__new__(cls, 1)
        made.minutes = arguments.number_above_zero("minutes", minutes)
        return made

    def __getnewargs__(self) -> tuple[float]:  # type: ignore[override]
        return (self.minutes,)

    def __repr__(self) -> str:
        return f"EveryMinutes({self.minutes:g})"

    __str__ = __repr__


class Overhead(int):
    """``save_freq=Overhead(0.02)`` saves as often as costs at most 2 % of the time that training takes without saves.

    What a save costs, and how long training takes, is measured while it runs: a save is due at the first end of a batch
    where the saves so far, and one more like the last one, fit into the share. With ``verbose=1`` each save tells what
    they have cost.

    Examples:
        >>> from lamina.keras import ModelCheckpoint, Overhead
        >>> checkpoint = ModelCheckpoint("model.keras", monitor="loss", save_freq=Overhead(0.02), verbose=1)
    """

    share: float

    def __new__(cls, share: float) -> Overhead:
        made = super().__new__(cls, 1)
        made.share = arguments.number_above_zero("share", share)
        if made.share > 1:
            raise InvalidInputError(f"`share` must be a share of training's time, such as 0.02. Received: {share!r}")
        return made

    def __getnewargs__(self) -> tuple[float]:  # type: ignore[override]
        return (self.share,)

    def __repr__(self) -> str:
        return f"Overhead({self.share:g})"

    __str__ = __repr__


def frequency(save_freq: Any) -> Any:
    """What stands for ``save_freq``; a `timedelta` is one of minutes."""
    return EveryMinutes(save_freq.total_seconds() / 60) if isinstance(save_freq, timedelta) else save_freq


class Pace:
    """Whether a moment at which Keras would decide on a save is one to save at."""

    def __init__(self, save_freq: Any) -> None:
        self._freq = save_freq
        self._begun = self._decided = 0.0
        self._waited = 0.0  # for saves, in this training
        self._last: float | None = None  # what a save has cost

    def begin(self, variables: Iterable[Any]) -> None:
        """Training begins; these variables will be saved."""
        self._begun = self._decided = clock()
        self._waited = 0.0
        if self._last is None and isinstance(self._freq, Overhead):
            size = sum(math.prod(shape) * dtype.itemsize for dtype, shape in map(describe, variables))
            self._last = _FIRST_SECONDS + size / _BYTES_PER_SECOND

    def due(self, epoch: int) -> bool:
        """Whether to save now; epochs of earlier runs count."""
        if isinstance(self._freq, EveryNEpochs):
            return (epoch + 1) % self._freq.n == 0
        if isinstance(self._freq, EveryMinutes):
            return self._passed(60 * self._freq.minutes)
        if isinstance(self._freq, Overhead):
            return self._waited + (self._last or 0.0) <= self._freq.share * self._trained
        return True

    def add_wait(self, seconds: float) -> None:
        """Training has waited this long for a save."""
        self._waited += seconds
        self._last = seconds

    def summary(self) -> str:
        """What saves have cost so far, where that decides."""
        if not isinstance(self._freq, Overhead) or self._trained <= 0:
            return ""
        return f"saves take {self._waited / self._trained:.2%} of training, at most {self._freq.share:.2%}"

    @property
    def _trained(self) -> float:
        return clock() - self._begun - self._waited

    def _passed(self, seconds: float) -> bool:
        if (now := clock()) - self._decided < seconds:
            return False
        self._decided = now
        return True
