"""wandb's own callbacks need TensorFlow, and one backend is enough to compare with."""

from __future__ import annotations

import importlib.util

import keras
import pytest

#: wandb's own callbacks import it, so these files cannot even be collected without it.
collect_ignore_glob = [] if importlib.util.find_spec("tensorflow") else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if keras.backend.backend() != "tensorflow":
        for item in items:
            if "differential" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="compared on TensorFlow"))
