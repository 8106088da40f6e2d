"""Stops a process while it does some work."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable


def stop_within(process: subprocess.Popen[str], at_work: Callable[[], object]) -> None:
    """If it was stopped between two pieces of work, it continues until the next try."""
    while True:
        time.sleep(0.01)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        if at_work():
            return
        os.kill(process.pid, signal.SIGCONT)
