"""Arrays of a training with several processes: one process saves what it holds, and says what it cannot save."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import pytest

pytestmark = [
    pytest.mark.keras,
    pytest.mark.backend,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="only JAX has arrays that span processes"),
]

PROCESS = """
import sys
import jax
import numpy as np

jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("all",))

def over_processes(*axes):
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
    return jax.make_array_from_callback((4, 3), sharding, lambda index: VALUES[index])

from lamina.errors import InvalidInputError
from lamina.keras.capture.capture import _of_jax

VALUES = np.arange(12, dtype="float32").reshape(4, 3)
assert not over_processes().is_fully_addressable
held = _of_jax(over_processes())
assert held.memory.tobytes() == VALUES.tobytes()
try:
    _of_jax(over_processes("all"))
except InvalidInputError as error:
    print(error, flush=True)
"""


def test_what_several_processes_hold_together_is_refused_by_name(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    outputs = [tmp_path / "0", tmp_path / "1"]
    children = []
    for rank, output in enumerate(outputs):
        with output.open("w") as file:
            command = [sys.executable, "-c", PROCESS, str(port), str(rank)]
            children.append(subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ}))
    try:
        status = [child.wait(timeout=240) for child in children]
    finally:
        for child in children:
            child.kill()
    said = [output.read_text() for output in outputs]
    assert status == [0, 0], said
    assert all("(4, 3) is sharded over several" in text for text in said), said
