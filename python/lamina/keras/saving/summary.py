"""What ``verbose=1`` prints: a line for each save, and one for all at the end."""

from __future__ import annotations

from dataclasses import dataclass

from lamina.keras.saving.commit import Commit
from lamina.units import count, duration, human


def line(commit: Commit, seconds: float) -> str:
    """Size and times of a save, for the line below Keras's own; ``seconds`` from the decision to the commit."""
    parts = [human(commit.bytes)]
    if commit.snapshot is not None:
        where = "" if commit.snapshot.number is None else f" as version {commit.snapshot.number}"
        parts.append(f"{human(commit.snapshot.bytes_new)} new{where}")
    return f"  {', '.join(parts)}; training waited {duration(commit.blocked_seconds)}, committed in {duration(seconds)}"


@dataclass
class Totals:
    """The sums over the saves of one training."""

    saves: int = 0
    snapshots: int = 0
    bytes: int = 0
    bytes_new: int = 0
    bytes_stored: int = 0
    blocked_seconds: float = 0.0

    def add(self, commit: Commit) -> None:
        self.saves += 1
        self.bytes += commit.bytes
        self.blocked_seconds += commit.blocked_seconds
        if commit.snapshot is not None:
            self.snapshots += 1
            self.bytes_new += commit.snapshot.bytes_new
            self.bytes_stored += commit.snapshot.bytes_stored

    def summary(self) -> str:
        """One line."""
        new = f", {human(self.bytes_new)} new" if self.snapshots == self.saves else ""
        waited = duration(self.blocked_seconds)
        return f"lamina: {count(self.saves, 'version')}, {human(self.bytes)}{new}; training waited {waited} for them"

    def as_packs(self) -> str:
        """What ``layout="packs"`` would have uploaded; empty without a snapshot per save."""
        if self.snapshots < self.saves:
            return ""
        return f"; layout='packs' would have uploaded {human(self.bytes_stored)} instead of {human(self.bytes)}"
