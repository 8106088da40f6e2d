"""A group of processes with a memory limit: the system kills a process that exceeds it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REASON = "this process may make no group with a memory limit here"
_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Group:
    folder: Path
    limit: str
    told: str

    def join_code(self) -> str:
        """Python code with which a process joins; its present memory is not counted."""
        return f"open({str(self.folder / 'cgroup.procs')!r}, 'w').write('0')"

    def kills(self) -> int:
        found = re.search(r"^oom_kill (\d+)$", (self.folder / self.told).read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1])


@contextmanager
def small_memory(mebibytes: int) -> Iterator[Group | None]:
    """None if this process may not create one."""
    name = f"lamina-tests-{os.getpid()}"
    for group in (
        Group(_ROOT / name, "memory.max", "memory.events"),
        Group(_ROOT / "memory" / name, "memory.limit_in_bytes", "memory.oom_control"),
    ):
        if _make(group, mebibytes):
            break
    else:
        yield None
        return
    try:
        yield group
    finally:
        group.folder.rmdir()


def _make(group: Group, mebibytes: int) -> bool:
    try:
        group.folder.mkdir()
    except OSError:
        return False
    if not (group.folder / group.limit).exists():  # an ordinary folder, or no memory controller
        group.folder.rmdir()
        return False
    try:
        (group.folder / group.limit).write_text(str(mebibytes << 20))
        # Otherwise the system would swap instead.
        swap = group.folder / "memory.swap.max"
        if swap.exists():
            swap.write_text("0")
    except OSError:
        group.folder.rmdir()
        return False
    return True
