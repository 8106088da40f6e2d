"""Training goes first: the threads of a save take the processor time that it leaves."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

#: Of the thread that commits; without it the step after a save took twice as long where all cores were busy.
NICENESS = 10


def lower_priority() -> None:
    """Cores that training wants are training's: the calling thread, and the engine's that it starts, take what is left.

    While training waits for a save it wants none. Only Linux has a priority per thread.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
