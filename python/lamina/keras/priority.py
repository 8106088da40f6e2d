"""Gives saving threads a lower priority than training."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

#: Of the saving thread. Without it the step after a save took twice as long if all cores were busy.
NICENESS = 10


def lower_priority() -> None:
    """Lower the priority of this thread, and of the engine's threads that it starts.

    Only Linux has a priority per thread.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
