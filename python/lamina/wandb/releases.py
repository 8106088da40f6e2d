"""Which releases of wandb lamina knows."""

from __future__ import annotations

import warnings

import wandb

#: Older ones re-hash every file, and their `wandb sync` deletes the files that it has sent.
OLDEST = (0, 30)


def check(release: str | None = None) -> None:
    """Warn of a release that lamina was not made for."""
    release = release or wandb.__version__
    numbers = tuple(int(part) for part in release.split(".")[:2] if part.isdigit())
    if numbers < OLDEST:
        warnings.warn(
            f"lamina needs wandb 0.30 or newer for offline runs: wandb {release} deletes or reads again the files "
            "that it uploads. Online runs work, more slowly",
            stacklevel=3,
        )
