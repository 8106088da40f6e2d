"""How much memory a process had at its peak, for the code of a process that a test begins."""

from __future__ import annotations

#: Not ``ru_maxrss``: that of a child begins with what its parent had, which here is a whole run of tests.
PEAK = """
import re
def peak():
    "MiB since this program began."
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10
"""
