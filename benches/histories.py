"""The states of a training, version by version, as a repository gets them after each epoch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from benches.corpora import MissingCorpusError

Arrays = dict[str, npt.NDArray[Any]]

#: Rows and columns of the embedding.
ROWS, COLUMNS = 80_000, 32
WIDTH = 1024
RANK = 8
HEAD = 48


def write(path: Path, arrays: Arrays) -> None:
    """Write a file with these tensors; its folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)


def embedding(versions: int) -> Iterator[Arrays]:
    """Between two versions, one row in a hundred moves."""
    rng = np.random.default_rng(1)
    table = rng.normal(0, 0.05, (ROWS, COLUMNS)).astype("<f4")
    for _ in range(versions):
        yield {"layers/embedding/vars/0": table}
        rows = rng.choice(ROWS, ROWS // 100, replace=False)
        table[rows] += rng.normal(0, 1e-3, (len(rows), COLUMNS)).astype("<f4")


def adam(versions: int, moments: bool) -> Iterator[Arrays]:
    """A network that learns digits, after each epoch, with both moments of Adam, or only its weights."""
    model, digits = _classifier()
    for _ in range(versions):
        model.fit(*digits, batch_size=32, verbose=0)
        yield _arrays([*model.variables, *(model.optimizer.variables if moments else ())])


def frozen(versions: int) -> Iterator[Arrays]:
    """The same network, trained, then frozen under a new head, which has a twentieth of the weights and learns."""
    model, digits = _classifier()
    import keras

    model.fit(*digits, batch_size=32, epochs=2, verbose=0)
    model.pop()
    model.trainable = False
    head = [keras.layers.Dense(HEAD, activation="relu"), keras.layers.Dense(10, activation="softmax")]
    tuned = keras.Sequential([model, *head])
    tuned.compile("adam", "sparse_categorical_crossentropy")
    for _ in range(versions):
        tuned.fit(*digits, batch_size=32, verbose=0)
        yield _arrays([*tuned.variables, *tuned.optimizer.variables])


def lora(versions: int, merged: bool) -> Iterator[Arrays]:
    """The same network, trained, then tuned by low-rank factors while its kernels are frozen.

    Keras writes the product of the factors into the kernels; ``merged`` says whether that happens.
    """
    model, digits = _classifier()
    model.fit(*digits, batch_size=32, epochs=2, verbose=0)
    layers = [layer for layer in model.layers if hasattr(layer, "enable_lora")]
    for layer in layers:
        layer.enable_lora(RANK)
    model.compile("adam", "sparse_categorical_crossentropy")
    for _ in range(versions):
        model.fit(*digits, batch_size=32, verbose=0)
        if merged:
            yield {f"{layer.path}/{key}": array for layer in layers for key, array in _saved(layer).items()}
        else:
            yield _arrays(model.variables)


def _saved(layer: Any) -> Arrays:
    store: dict[str, Any] = {}
    layer.save_own_variables(store)
    return {key: np.array(value) for key, value in store.items()}


def _arrays(variables: list[Any]) -> Arrays:
    return {variable.path: np.array(variable.value) for variable in variables}


def _classifier() -> tuple[Any, Any]:
    try:
        import keras
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingCorpusError(f"pip install keras, a backend and scikit-learn ({error})") from None
    keras.utils.set_random_seed(1)
    wide = [keras.layers.Dense(WIDTH, activation="relu") for _ in range(2)]
    model = keras.Sequential([keras.Input((64,)), *wide, keras.layers.Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    digits = load_digits()
    return model, (digits.data.astype("float32") / 16, digits.target)
