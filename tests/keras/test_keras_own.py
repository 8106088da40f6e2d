"""Keras's own tests of its callback, from the installed package, run with lamina's callback."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import keras
import pytest

pytestmark = pytest.mark.keras

_DRIVER = """
import sys, unittest
import lamina.keras
from keras.src import callbacks
from keras.src.callbacks import model_checkpoint_test

class ModelCheckpoint(lamina.keras.ModelCheckpoint):
    saves = 0

    def _committed(self, commit):
        ModelCheckpoint.saves += 1

callbacks.ModelCheckpoint = ModelCheckpoint
tests = unittest.defaultTestLoader.loadTestsFromModule(model_checkpoint_test)
result = unittest.TextTestRunner(verbosity=2).run(tests)
print("saves:", ModelCheckpoint.saves, "tests:", result.testsRun)
sys.exit(not (result.wasSuccessful() and result.testsRun >= 2 and ModelCheckpoint.saves >= 20))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("keras.src.callbacks.model_checkpoint_test") is None,
    reason=f"the package of Keras {keras.__version__} comes without its tests",
)
@pytest.mark.backend
def test_keras_tests_of_its_callback_pass_with_ours() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER], capture_output=True, text=True, env=dict(os.environ), timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
