"""For any variables and any history of saves, prunes and retention, a restore equals what was saved."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lamina

pytestmark = [pytest.mark.keras, pytest.mark.backend]

DTYPES = ["float32", "float16", "bfloat16", "int32", "uint8", "int8", "bool"]
SHAPES = st.one_of(
    st.lists(st.integers(0, 5), max_size=4).map(tuple),
    st.sampled_from([(70, 80), (5000,), (1, 300, 20)]),
)
VARIABLES = st.lists(st.tuples(SHAPES, st.sampled_from(DTYPES)), min_size=1, max_size=5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("save"), st.integers(0, 1), st.integers(0, 2**32 - 1)),
        st.tuples(st.just("prune"), st.integers(0, 1), st.integers(1, 2)),
    ),
    min_size=1,
    max_size=7,
)


class Holder(keras.layers.Layer):
    """A layer with the given variables."""

    def __init__(self, variables: list[tuple[tuple[int, ...], str]]) -> None:
        super().__init__()
        self.held = [
            self.add_weight(shape=shape, dtype=dtype, initializer="zeros", trainable=False, name=f"v{i}")
            for i, (shape, dtype) in enumerate(variables)
        ]
        self.built = True

    def call(self, inputs: Any) -> Any:
        return inputs


def model_of(variables: list[tuple[tuple[int, ...], str]]) -> Any:
    return keras.Sequential([keras.Input((1,)), Holder(variables)])


def fill(model: Any, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    for variable in model.layers[0].held:
        values = rng.normal(0, 40, variable.shape)
        dtype = keras.backend.standardize_dtype(variable.dtype)
        variable.assign(keras.ops.cast(keras.ops.convert_to_tensor(values.astype("float32")), dtype))
    return contents(model)


def contents(model: Any) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(v)) for v in model.layers[0].held]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(variables=st.tuples(VARIABLES, VARIABLES), steps=STEPS)
def test_any_history(variables: Any, steps: Any) -> None:
    folder = Path(tempfile.mkdtemp(prefix="lamina-test-"))
    try:
        history: dict[int, list[tuple[int, list[np.ndarray]]]] = {0: [], 1: []}
        models = [model_of(v) for v in variables]
        for kind, series, number in steps:
            name = f"series-{series}"
            if kind == "save":
                saved = fill(models[series], number)
                snapshot = lamina.save(models[series], folder / "repo", series=name, weights_only=bool(number % 2))
                history[series].append((snapshot.number, saved))
            elif history[series]:
                lamina.open(folder / "repo").prune(lamina.Keep(last=number), series=name)
                del history[series][:-number]
        if not any(history.values()):
            return
        repository = lamina.open(folder / "repo")
        repository.verify(full=True)
        assert {s.number for s in repository.snapshots()} == {n for h in history.values() for n, _ in h}
        for series, kept in history.items():
            for number, saved in kept:
                fresh = model_of(variables[series])
                lamina.restore(f"{folder / 'repo'}@{number}", fresh)
                for ours, theirs in zip(contents(fresh), saved, strict=True):
                    assert ours.dtype == theirs.dtype
                    assert ours.tobytes() == theirs.tobytes()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
