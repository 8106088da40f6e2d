"""``python other_keras.py FOLDER (MODULE | MODULE:NAME)``: a training with a Keras that lacks a name.

The name is renamed in each file of Keras, so Keras itself works. A module cannot be imported any more.
"""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType


def rename(name: str) -> None:
    word, read = re.compile(rb"\b" + name.encode() + rb"\b"), SourceFileLoader.get_code

    def get_code(self: SourceFileLoader, fullname: str) -> CodeType | None:
        if fullname.partition(".")[0] == "keras" and word.search(source := self.get_data(self.path)):
            return compile(word.sub(name.encode() + b"_of_late", source), self.path, "exec")
        return read(self, fullname)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def train(folder: Path) -> None:
    import keras
    import numpy as np

    import lamina
    from lamina.keras import ModelCheckpoint

    def network() -> keras.Model:
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dropout(0.5)])
        model.compile("adam", "mse")
        return model

    def fit(model: keras.Model, epochs: int, *, resume: bool) -> list[int]:
        file = folder / "m.keras"
        checkpoint = ModelCheckpoint(file, monitor="loss", repository=folder / "r", resume=resume)
        fitted = model.fit(np.ones((8, 4)), np.ones((8, 3)), epochs=epochs, verbose=0, callbacks=[checkpoint])
        return list(fitted.epoch)

    def same(one: keras.Model, other: keras.Model) -> bool:
        weights = zip(one.get_weights(), other.get_weights(), strict=True)
        return all(np.array_equal(a, b) for a, b in weights) and one.optimizer.iterations == other.optimizer.iterations

    fit(network(), 2, resume=False)
    model = network()
    epochs = fit(model, 4, resume=True)
    assert epochs == ([0, 1, 2, 3] if "_initial_epoch" in sys.argv[2] else [2, 3])
    assert int(model.optimizer.iterations) == 2 + len(epochs)
    assert same(model, keras.models.load_model(folder / "m.keras"))
    assert same(model, lamina.load_model(folder / "r"))
    restored = network()
    lamina.restore(folder / "r", restored)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), restored.get_weights(), strict=True))
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        options = tf.saved_model.SaveOptions()
        checkpoint = ModelCheckpoint(folder / "served" / "", monitor="loss", options=options)
        model.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0, callbacks=[checkpoint])
        served = tf.saved_model.load(str(folder / "served"))  # its variables move with it
        assert served.serve(np.ones((1, 4), "float32")).shape == (1, 3)


def main() -> None:
    folder, (module, _, name) = Path(sys.argv[1]), sys.argv[2].partition(":")
    if name:
        rename(name.rpartition(".")[2])
    import keras  # noqa: F401  (before the module goes)

    if not name:
        importlib.import_module(module)
        sys.modules[module] = None  # type: ignore[assignment]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(folder)
    for warning in caught:
        if "lacks what lamina needs" in str(warning.message):
            print(f"TOLD: {warning.message}")


if __name__ == "__main__":
    main()
