"""What lamina remembers about one W&B run; nothing else of lamina is stored on a run."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

_ATTRIBUTE = "_lamina"
_creating = threading.Lock()


class RunState:
    """The directory, the publisher and the summed costs of one run, shared by all callbacks that log to it.

    It is an attribute of the run. A `WeakKeyDictionary` would keep every run alive, because the publisher refers to its
    run; a run and its own attribute are a cycle, which Python collects.
    """

    def __init__(self, run: Any) -> None:
        # `run.dir` is relative where WANDB_DIR is, and the user may change the working directory later.
        self.directory: Path = Path(run.dir).parent.absolute()
        self.publisher: Any = None  # a `Publisher`, once something is uploaded
        self.totals: dict[str, float] = {}  # key of the summary → sum


def state_of(run: Any) -> RunState:
    """The state of a run; the first call creates it."""
    with _creating:
        state = vars(run).get(_ATTRIBUTE)
        if state is None:
            state = vars(run)[_ATTRIBUTE] = RunState(run)
        return state  # type: ignore[no-any-return]
