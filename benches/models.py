"""Restoring weights, and loading a whole model, beside Keras. lamina verifies every chunk, Keras verifies nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import lamina
from benches.blocked import LAYERS, QUICK_WIDTH, WIDTH, arrays, model_and_data
from benches.measure import Bench, Contender, Table, demand, race, times


def run(bench: Bench) -> Iterator[Table]:
    """Restore and load_model beside Keras's load_weights and load_model; files and packs are in the page cache."""
    import keras

    backend = keras.backend.backend()
    bench.say(f"models: {backend}")
    model, _ = model_and_data(QUICK_WIDTH if bench.quick else WIDTH, LAYERS)
    other, _ = model_and_data(QUICK_WIDTH if bench.quick else WIDTH, LAYERS)
    weights, whole = bench.folder / "m.weights.h5", bench.folder / "m.keras"
    model.save_weights(weights)
    model.save(whole)
    for path, codec in ((weights, "auto"), (weights, "raw"), (whole, "auto")):
        lamina.save(path, bench.folder / f"{path.suffix[1:]}-{codec}", codec=codec)
    expected = [array.copy() for array in arrays(model)]

    def check(found: Any) -> None:
        same = all(np.array_equal(a, b) for a, b in zip(expected, arrays(found), strict=True))
        demand(same, "the model has wrong weights")

    def blank() -> None:
        for variable in (*other.variables, *other.optimizer.variables):
            variable.assign(variable * 0)

    def restored(codec: str) -> Contender:
        folder = bench.folder / f"h5-{codec}"
        return Contender(
            f'lamina.restore, codec="{codec}"',
            lambda _: (lamina.restore(folder, other, optimizer=True), other)[1],
            check,
            blank,
            ours=True,
        )

    nbytes = sum(array.nbytes for array in expected)
    note = f"{nbytes / 1e6:,.0f} MB with the optimizer, Keras on {backend}; medians of {bench.repeats}"
    contenders = [
        Contender("keras load_weights", lambda _: (other.load_weights(weights), other)[1], check, blank),
        restored("auto"),
        restored("raw"),
    ]
    yield times(f"weights · {backend}", note, race(contenders, bench.repeats), nbytes, {"keras": "keras load_weights"})
    contenders = [
        Contender("keras load_model", lambda _: keras.models.load_model(whole), check),
        Contender("lamina.load_model", lambda _: lamina.load_model(bench.folder / "keras-auto"), check, ours=True),
    ]
    yield times(f"model · {backend}", note, race(contenders, bench.repeats), nbytes, {"keras": "keras load_model"})
