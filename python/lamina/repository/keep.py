"""`Keep`: the rules of retention."""

from __future__ import annotations

from dataclasses import dataclass

from lamina.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Keep:
    """Which snapshots of a series are kept: those that match any rule, and all with a user alias.

    Args:
        last: number of newest snapshots to keep.
        best: number of snapshots to keep with the best values of the monitored metric.
        every: keep the snapshot at the end of every so many epochs, counted from 1.

    Examples:
        >>> import lamina
        >>> lamina.Keep(last=3, best=1)
        Keep(last=3, best=1, every=None)

    Raises:
        InvalidInputError: if no rule is given, or one is not a whole number of at least 1.
    """

    __module__ = "lamina"

    last: int | None = None
    best: int | None = None
    every: int | None = None

    def __post_init__(self) -> None:
        rules = (self.last, self.best, self.every)
        if all(rule is None for rule in rules):
            raise InvalidInputError("Keep() needs at least one of last=, best= and every=")
        for rule in rules:
            if rule is not None and (not isinstance(rule, int) or isinstance(rule, bool) or rule < 1):
                raise InvalidInputError(f"Keep takes whole numbers of at least 1. Received: {self}")
