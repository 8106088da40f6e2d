"""wandb's own callbacks need TensorFlow, and one backend is enough to compare with."""

from __future__ import annotations

import keras
import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if keras.backend.backend() != "tensorflow":
        for item in items:
            if "differential" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="compared on TensorFlow"))
