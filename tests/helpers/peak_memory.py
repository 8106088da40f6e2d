"""The peak memory of a process that a test starts."""

from __future__ import annotations

#: Not ``ru_maxrss``: a child inherits it from its parent, which here runs all tests.
PEAK = """
import re
def peak():
    "MiB since this program began."
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10
"""
