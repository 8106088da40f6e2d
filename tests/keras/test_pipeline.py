"""`Pipeline`: the thread that commits saves."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass, field

import pytest

from lamina.keras.priority import NICENESS
from lamina.keras.saving.pipeline import Pipeline

pytestmark = pytest.mark.keras


@dataclass
class Look:
    """A job that records the priority of its thread."""

    seen: list[int] = field(default_factory=list)
    nbytes: int = 1
    best: bool = False

    def run(self) -> None:
        self.seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def discard(self) -> None:
        raise AssertionError


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority per thread")
def test_saves_leave_the_cores_to_training() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    pipeline, job = Pipeline(), Look()
    pipeline.admit(job.nbytes)
    pipeline.submit(job)
    assert pipeline.wait(60)
    assert job.seen == [max(before, NICENESS)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
    pipeline.close()
