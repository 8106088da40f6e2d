"""Arrays of a training with several processes: one process saves what it has, and refuses what is sharded over all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import lamina
from side_by_side import content

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
from lamina.keras.capture.arena import ArenaPool
from lamina.keras.capture.capture import capture
from lamina.keras.capture.devices.stage import DeviceStage

VALUES = np.arange(12, dtype="float32").reshape(4, 3)
assert not over_processes().is_fully_addressable
captured = capture([over_processes()], [VALUES.nbytes], ArenaPool(), DeviceStage(), 0)
assert captured.arrays()[0].tobytes() == VALUES.tobytes()
try:
    capture([over_processes("all")], [VALUES.nbytes], ArenaPool(), DeviceStage(), 0)
except InvalidInputError as error:
    print(error, flush=True)
"""


def _run_two(program: str, tmp_path: Path, *arguments: str) -> list[str]:
    """The output of two processes of one training."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    outputs = [tmp_path / "0", tmp_path / "1"]
    children = []
    for rank, output in enumerate(outputs):
        with output.open("w") as file:
            command = [sys.executable, "-c", program, str(port), str(rank), *arguments]
            children.append(subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ}))
    try:
        status = [child.wait(timeout=240) for child in children]
    finally:
        for child in children:
            child.kill()
    said = [output.read_text() for output in outputs]
    assert status == [0, 0], said
    return said


def test_what_several_processes_hold_together_is_refused_by_name(tmp_path: Path) -> None:
    said = _run_two(PROCESS, tmp_path)
    assert all("(4, 3) is sharded over several" in text for text in said), said


FIT = """
import sys
import jax
import numpy as np

rank, folder, epochs = int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, rank)
import keras
from lamina.keras import ModelCheckpoint

keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))

def fit(epochs, callback):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,), name="in"), keras.layers.Dense(2, name="out")], name="m")
    model.compile(keras.optimizers.Adam(0.01, name="adam"), "mse")
    x = np.arange(24, dtype="float32").reshape(8, 3)
    return model.fit(x, x[:, :2], epochs=epochs, batch_size=8, shuffle=False, verbose=0, callbacks=[callback]).epoch

if epochs == 2:
    fit(4, keras.callbacks.ModelCheckpoint(f"{folder}/stock-{rank}/m.keras", "loss"))
print(fit(epochs, ModelCheckpoint(f"{folder}/m.keras", "loss", repository=f"{folder}/r", resume=True)), flush=True)
"""


def test_fit_of_several_processes_that_hold_the_same_weights(tmp_path: Path) -> None:
    """It goes on in as many processes, and ends with the file of a training that was never interrupted."""
    said = _run_two(FIT, tmp_path, str(tmp_path), "2")
    assert all("[0, 1]" in text for text in said), said
    said = _run_two(FIT, tmp_path, str(tmp_path), "4")
    assert all("training begins with epoch 3" in text and "[2, 3]" in text for text in said), said
    assert [snapshot.epoch for snapshot in lamina.open(tmp_path / "r").snapshots()] == [0, 1, 2, 3]
    ours, stock = (content(path.read_bytes()) for path in (tmp_path / "m.keras", tmp_path / "stock-0" / "m.keras"))
    assert ours == stock
