"""A tour in one minute: train, log checkpoints as W&B artifacts, restore the best one, export the plain file.

A small convolutional network learns scikit-learn's handwritten digits. W&B runs offline, so this needs neither an
account nor a network. After epoch 2 the first block is frozen: from then on its weights cost nothing.

    python examples/digits.py [FOLDER]     # default: a temporary folder
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import wandb
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import lamina
from lamina.keras import WandbMetricsLogger, WandbModelCheckpoint

EPOCHS = 6
FREEZE_AFTER = 2


def network() -> keras.Model:
    """A network with most of its weights in the first block."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(128, 3, padding="same", activation="relu", name="block1_conv1"),
            layers.Conv2D(256, 3, padding="same", activation="relu", name="block1_conv2"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu", name="block2_conv"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", name="head"),
        ],
        name="digits",
    )


def build() -> keras.Model:
    """The network, ready for training."""
    model = network()
    compile_(model)
    return model


def compile_(model: keras.Model) -> None:
    """Compile the model; only then does freezing a layer take effect."""
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])


def freeze(model: keras.Model) -> None:
    """Stop training the first block."""
    for layer in model.layers:
        if layer.name.startswith("block1"):
            layer.trainable = False
    compile_(model)


def main(folder: Path) -> None:
    """Run the demo in ``folder``."""
    keras.utils.set_random_seed(1)
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).reshape(-1, 8, 8, 1).astype("float32")
    x, x_val, y, y_val = train_test_split(images, labels, test_size=0.25, random_state=1)

    os.chdir(folder)  # W&B writes its offline run here
    run = wandb.init(project="lamina-demo", dir=str(folder))
    model = build()
    checkpoint = WandbModelCheckpoint(
        folder / "checkpoints" / "digits.weights.h5",
        monitor="val_accuracy",
        save_weights_only=True,
        layout="packs",
    )
    callbacks = [WandbMetricsLogger(), checkpoint]
    fit = {"validation_data": (x_val, y_val), "batch_size": 64, "verbose": 0, "callbacks": callbacks}
    model.fit(x, y, epochs=FREEZE_AFTER, **fit)
    freeze(model)
    model.fit(x, y, initial_epoch=FREEZE_AFTER, epochs=EPOCHS, **fit)
    series = checkpoint.last_snapshot.series
    run.finish()

    repository = lamina.open(checkpoint.repository)
    show(repository, series)
    best = repository.snapshot("best", series=series)
    fresh = build()
    lamina.restore(best, fresh, optimizer=False)
    accuracy = fresh.evaluate(x_val, y_val, verbose=0, return_dict=True)["accuracy"]
    logged = best.logs["val_accuracy"]
    print(f"\nbest is version {best.number}: logged val_accuracy {logged:.4f}, restored {accuracy:.4f}")
    assert abs(accuracy - logged) < 1e-6, "the restored model is not the one that was logged"

    (path,) = lamina.export(best, folder / "exported")
    plain = network()
    plain.load_weights(path)
    for ours, theirs in zip(fresh.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    print(f"exported {path} and loaded it with stock Keras: every weight is the same")


def show(repository: lamina.Repository, series: str) -> None:
    """Print a line per version."""
    print("\nversion epoch val_accuracy  total kB   new kB stored kB blocked ms")
    for s in repository.snapshots(series):
        sizes = f"{s.bytes_total / 1e3:9.0f} {s.bytes_new / 1e3:8.0f} {s.bytes_stored / 1e3:9.0f}"
        print(f"{s.number:>7} {s.epoch:>5} {s.logs['val_accuracy']:12.4f} {sizes} {s.blocked_seconds * 1e3:10.1f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        target = Path(sys.argv[1]).absolute()
        target.mkdir(parents=True, exist_ok=True)
        main(target)
        print(f"the offline run, artifacts included, is in {target / 'wandb'}")
    else:
        with tempfile.TemporaryDirectory(prefix="lamina-demo-") as temporary:
            main(Path(temporary))
        print(f"to keep all of it: {sys.executable} {sys.argv[0]} FOLDER")
