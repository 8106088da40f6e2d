"""WandbCallback: what each argument logs to W&B, and what stays untouched."""

import importlib
import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import wandb

from lamina.errors import InvalidInputError
from lamina.keras import WandbCallback
from recorded_run import Arrived, Recorder

pytestmark = [pytest.mark.keras, pytest.mark.wandb, pytest.mark.backend]
BACKEND = keras.backend.backend()
layers = keras.layers
offline_only = pytest.mark.parametrize("recorder", ["offline"], indirect=True)


def dense_model(**compile_options: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="hidden"), layers.Dense(1, name="out")])
    model.compile("sgd", "mse", metrics=["mae"], **compile_options)
    return model


def dense_data(rows: int = 16) -> tuple[Any, Any]:
    generator = np.random.default_rng(0)
    return generator.normal(size=(rows, 4)).astype("float32"), generator.normal(size=(rows, 1)).astype("float32")


def classifier(classes: int = 3, activation: str = "softmax") -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Flatten(),
            layers.Dense(classes, activation=activation, name="scores"),
        ]
    )
    model.compile("sgd", "mse")
    return model


def pictures(rows: int = 8, classes: int = 3) -> tuple[Any, Any]:
    generator = np.random.default_rng(1)
    x = generator.uniform(size=(rows, 6, 6, 1)).astype("float32")
    return x, np.eye(classes, dtype="float32")[np.arange(rows) % classes]


def image(arrived: Arrived, value: dict[str, Any], i: int) -> Any:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(arrived.file(value["filenames"][i]))))


# --- history, summary, best model ---------------------------------------------------------------------


def test_the_documented_example(recorder: Recorder) -> None:
    """On Keras 3 the legacy callback ends training at the first batch (graph) or the first best model."""
    run = recorder.start(config={"hyper": "parameter"})
    x, y = dense_data()
    model = dense_model()
    fitted = model.fit(x, y, epochs=3, validation_data=(x, y), callbacks=[WandbCallback()], verbose=0).history
    arrived = recorder.finish()

    assert arrived.column("epoch") == [0, 1, 2]
    for name in ("loss", "mae", "val_loss", "val_mae"):
        assert arrived.column(name) == pytest.approx(fitted[name])
    best = int(np.argmin(fitted["val_loss"]))
    assert arrived.summary["best_val_loss"] == pytest.approx(fitted["val_loss"][best])
    assert arrived.summary["best_epoch"] == best
    assert arrived.summary["val_loss"] == pytest.approx(fitted["val_loss"][-1])

    versions = arrived.artifacts_of("model")
    name = "model-" + re.sub(r"[^a-zA-Z0-9_.-]", "_", run.name or run.id)
    assert {item.name for item in versions} == {name}
    improved = [
        epoch
        for epoch, value in enumerate(fitted["val_loss"])
        if value < min(fitted["val_loss"][:epoch], default=math.inf)
    ]
    assert [item.aliases - {"latest"} for item in versions] == [{f"epoch_{epoch}"} for epoch in improved]
    assert "latest" in versions[-1].aliases
    assert versions[-1].metadata["value"] == pytest.approx(fitted["val_loss"][best])
    (file,) = versions[-1].files.values()
    Path("best.keras").write_bytes(file.content or b"")
    loaded = keras.models.load_model("best.keras")
    if best == 2:
        for mine, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert arrived.summary["graph"]["_type"] == "graph-file"
    assert "keras" in arrived.features
    assert recorder.warnings == []


@offline_only
def test_weights_only(recorder: Recorder) -> None:
    """The legacy callback: "The filename must end in .weights.h5"."""
    run = recorder.start()
    x, y = dense_data()
    model = dense_model()
    callback = WandbCallback(monitor="loss", save_weights_only=True)
    model.fit(x, y, callbacks=[callback], verbose=0)
    assert callback.filepath == str(Path(run.dir) / "model-best.weights.h5")
    assert [path.name for path in Path(run.dir).glob("*model-best*")] == ["model-best.weights.h5"]
    (version,) = recorder.finish().artifacts_of("model")
    (file,) = version.files.values()
    Path("best.weights.h5").write_bytes(file.content or b"")
    other = dense_model()
    other.load_weights("best.weights.h5")
    for mine, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def drive(callback: WandbCallback, values: list[Any], monitor: str = "val_loss") -> None:
    """The epochs of a training with these values of the monitored metric."""
    model = dense_model()
    model.build((None, 4))
    callback.set_params({"epochs": len(values)})
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, {monitor: value})
    callback.on_train_end()


@offline_only
@pytest.mark.parametrize(
    ("monitor", "mode", "values", "best"),
    [
        ("val_loss", "auto", [2.0, 1.0, 1.5], 1),
        ("val_loss", "auto", [1.0, 0.0, 0.5], 1),  # the legacy callback skips a value of 0
        ("val_acc", "auto", [0.0, 0.5, 0.25], 1),
        ("fmeasure", "auto", [0.5, 0.75], 1),
        ("val_loss", "max", [1.0, 3.0, 2.0], 1),
        ("val_acc", "min", [1.0, 0.5], 1),
        ("val_loss", "auto", [2.0, math.nan, 1.0], 2),
        ("val_loss", "auto", [math.nan, 1.0], 1),
        ("val_loss", "auto", [-1.0, -2.0], 1),
    ],
)
def test_the_best_value(recorder: Recorder, monitor: str, mode: str, values: list[float], best: int) -> None:
    recorder.start()
    drive(WandbCallback(monitor=monitor, mode=mode, save_model=False), values, monitor)
    summary = recorder.finish().summary
    assert summary[f"best_{monitor}"] == values[best]
    assert summary["best_epoch"] == best


@offline_only
def test_auto_takes_the_metrics_own_direction(recorder: Recorder) -> None:
    recorder.start()
    x, y = dense_data()
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1, activation="sigmoid")])
    model.compile("sgd", "binary_crossentropy", metrics=[keras.metrics.AUC(name="area")])
    callback = WandbCallback(monitor="val_area", save_model=False)
    target = (y > 0).astype("float32")
    model.fit(x, target, validation_data=(x, target), epochs=2, callbacks=[callback], verbose=0)
    assert callback.monitor_op(2, 1)
    assert recorder.finish().summary["best_val_area"] > 0


@offline_only
def test_a_resumed_run_keeps_its_best(recorder: Recorder) -> None:
    run = recorder.start()
    run.summary["best_val_loss"] = 0.5
    callback = WandbCallback()
    assert callback.best == 0.5
    drive(callback, [0.7, 0.6])
    arrived = recorder.finish()
    assert arrived.summary["best_val_loss"] == 0.5
    assert arrived.artifacts_of("model") == []


@offline_only
@pytest.mark.parametrize("prefix", [None, "top_"])
def test_the_prefix_of_the_best(recorder: Recorder, prefix: str | None) -> None:
    recorder.start()
    drive(WandbCallback(log_best_prefix=prefix), [1.0, 0.5])
    arrived = recorder.finish()
    best = {key: value for key, value in arrived.summary.items() if key.startswith(("best", "top"))}
    assert best == ({} if prefix is None else {"top_val_loss": 0.5, "top_epoch": 1})
    assert len(arrived.artifacts_of("model")) == 2


@offline_only
def test_a_missing_metric_saves_nothing(recorder: Recorder) -> None:
    recorder.start()
    drive(WandbCallback(), [1.0], monitor="loss")
    arrived = recorder.finish()
    assert arrived.column("loss") == [1.0]
    assert arrived.artifacts == []
    assert "best_val_loss" not in arrived.summary
    assert any("no best model: `val_loss` is not among loss" in warning for warning in recorder.warnings)


@offline_only
def test_verbose_says_when_the_metric_improved(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder.start()
    printed: list[str] = []
    monkeypatch.setattr(wandb, "termlog", printed.append)
    drive(WandbCallback(verbose=1, save_model=False), [1.0, 2.0, 0.5])
    callback = WandbCallback(verbose=1)
    drive(callback, [0.25])
    assert printed == [
        "Epoch 00000: val_loss improved from inf to 1.00000",
        "Epoch 00002: val_loss improved from 1.00000 to 0.50000",
        f"Epoch 00000: val_loss improved from 0.50000 to 0.25000, saving model to {callback.filepath}",
    ]


@offline_only
@pytest.mark.parametrize(
    ("frequency", "per_execution", "expected"),
    [(1, 1, 8), (3, 1, 4), (2, 2, 4), (None, 1, 0)],
)
def test_batch_metrics(recorder: Recorder, frequency: int | None, per_execution: int, expected: int) -> None:
    if per_execution > 1 and BACKEND == "torch":
        pytest.skip("Keras has no steps_per_execution on torch")
    recorder.start()
    x, y = dense_data(32)
    model = dense_model(steps_per_execution=per_execution)
    callback = WandbCallback(log_batch_frequency=frequency, save_model=False)
    model.fit(x, y, batch_size=8, epochs=2, callbacks=[callback], verbose=0)
    arrived = recorder.finish()
    rows = [row for row in arrived.history if "epoch" not in row]
    assert len(rows) == expected
    assert all({"loss", "mae"} <= set(row) for row in rows)
    assert arrived.column("epoch") == [0, 1]
    assert callback.async_safe == (frequency is None)


@offline_only
def test_hooks_can_be_overridden(recorder: Recorder) -> None:
    recorder.start()
    calls = []

    class Mine(WandbCallback):
        def on_train_begin(self, logs: Any = None) -> None:
            super().on_train_begin(logs)
            calls.append("begin")

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            super().on_epoch_end(epoch, {**logs, "extra": 5.0})

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            super().on_train_batch_end(batch, logs)
            calls.append(batch)

    x, y = dense_data()
    dense_model().fit(x, y, batch_size=8, callbacks=[Mine(save_model=False)], verbose=0)
    assert calls == ["begin", 0, 1]
    assert recorder.finish().column("extra") == [5.0]


# --- histograms ---------------------------------------------------------------------------------------


def test_weight_histograms(recorder: Recorder) -> None:
    recorder.start()
    x, y = dense_data()
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, name="hidden"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(1, name="out", use_bias=False),
        ]
    )
    model.compile("sgd", "mse")
    model.fit(x, y, epochs=2, callbacks=[WandbCallback(log_weights=True, save_model=False)], verbose=0)
    arrived = recorder.finish()
    names = {key for row in arrived.history for key in row if key.startswith("parameters/")}
    norm = {f"parameters/norm.{part}" for part in ("gamma", "beta", "moving_mean", "moving_variance")}
    assert names == {"parameters/hidden.weights", "parameters/hidden.bias", "parameters/out.weights"} | norm
    kernel = arrived.column("parameters/hidden.weights")
    assert [value["_type"] for value in kernel] == ["histogram"] * 2
    assert sum(kernel[-1]["values"]) == 12
    actual = keras.ops.convert_to_numpy(model.get_layer("hidden").kernel.value)
    assert kernel[-1]["bins"][0] == pytest.approx(actual.min())
    assert kernel[-1]["bins"][-1] == pytest.approx(actual.max())
    assert arrived.column("epoch") == [0, 1]
    assert recorder.warnings == []


@offline_only
def test_weights_that_are_not_numbers_end_nothing(recorder: Recorder) -> None:
    recorder.start()
    model = dense_model()
    model.get_layer("hidden").kernel.assign(np.full((4, 3), np.nan))
    model.get_layer("out").kernel.assign([[np.nan], [1.0], [2.0]])
    callback = WandbCallback(log_weights=True, save_model=False)
    callback.set_model(model)
    callback.on_epoch_end(0, {"val_loss": 1.0})
    (row,) = recorder.finish().history
    assert "parameters/hidden.weights" not in row
    assert sum(row["parameters/out.weights"]["values"]) == 2
    assert any("parameters/hidden.weights holds no finite numbers" in warning for warning in recorder.warnings)


def expected_gradients(model: keras.Model, x: Any, y: Any) -> dict[str, Any]:
    """Gradients of mean((xW + b)W' + b' - y)², by hand."""
    w, b, v, c = (np.asarray(value, dtype="float64") for value in model.get_weights())
    hidden = x @ w + b
    error = 2 * (hidden @ v + c - y) / len(x)
    return {
        "hidden/kernel": x.T @ (error @ v.T),
        "hidden/bias": (error @ v.T).sum(axis=0),
        "out/kernel": hidden.T @ error,
        "out/bias": error.sum(axis=0),
    }


@pytest.mark.parametrize("rows", [16, 70])
def test_gradient_histograms_are_the_gradients_by_hand(recorder: Recorder, rows: int) -> None:
    """The legacy callback: "keras.optimizers.legacy is not supported in Keras 3"."""
    recorder.start()
    x, y = dense_data(rows)
    model = dense_model()
    callback = WandbCallback(log_gradients=True, training_data=(x, y), save_model=False)
    model.fit(x, y, epochs=2, callbacks=[callback], verbose=0)
    arrived = recorder.finish()
    expected = expected_gradients(model, x, y)
    names = {key for row in arrived.history for key in row if key.startswith("gradients/")}
    assert names == {f"gradients/{name}.gradient" for name in expected}
    for name, gradient in expected.items():
        first, last = arrived.column(f"gradients/{name}.gradient")
        assert sum(last["values"]) == gradient.size
        if gradient.size > 1:  # for a single number NumPy's histogram spans half a unit on each side
            assert last["bins"][0] == pytest.approx(gradient.min(), rel=1e-3, abs=1e-5)
            assert last["bins"][-1] == pytest.approx(gradient.max(), rel=1e-3, abs=1e-5)
        assert first["bins"] != last["bins"]
    assert recorder.warnings == []


def random_model() -> keras.Model:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((4,))
    hidden = layers.Dropout(0.5, seed=5)(layers.BatchNormalization()(layers.Dense(8)(inputs)))
    model = keras.Model(inputs, layers.Dense(1, kernel_regularizer="l2")(hidden))
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model


@offline_only
def test_the_training_is_the_same_with_everything_logged(recorder: Recorder) -> None:
    recorder.start()
    x, y = dense_data()
    histories, weights = [], []
    for logged in (False, True):
        model = random_model()
        callbacks = [
            WandbCallback(
                monitor="loss",
                log_weights=True,
                log_gradients=True,
                training_data=(x, y),
                validation_data=(x, y),
                log_evaluation=True,
                log_evaluation_frequency=1,
                compute_flops=True,
                log_batch_frequency=1,
            )
        ]
        np.random.seed(9)
        fitted = model.fit(
            x, y, batch_size=4, epochs=3, shuffle=False, callbacks=callbacks if logged else [], verbose=0
        )
        histories.append(fitted.history)
        weights.append([*model.get_weights(), np.random.uniform(size=1)])
    assert histories[0] == histories[1]
    for plain, logged_weights in zip(*weights, strict=True):
        np.testing.assert_array_equal(plain, logged_weights)
    assert recorder.warnings == []


@offline_only
def test_gradients_under_loss_scaling_are_not_scaled(recorder: Recorder) -> None:
    recorder.start()
    x, y = dense_data()
    model = dense_model()
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0)), "mse")
    callback = WandbCallback(log_gradients=True, training_data=(x, y), save_model=False)
    model.fit(x, y, callbacks=[callback], verbose=0)
    (found,) = recorder.finish().column("gradients/hidden/kernel.gradient")
    assert found["bins"][-1] == pytest.approx(expected_gradients(model, x, y)["hidden/kernel"].max(), rel=1e-3)


@offline_only
def test_gradients_of_an_embedding(recorder: Recorder) -> None:
    recorder.start()
    x = np.array([[1, 2], [3, 1]])
    model = keras.Sequential(
        [
            keras.Input((2,), dtype="int32"),
            layers.Embedding(5, 2, name="words"),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    callback = WandbCallback(log_gradients=True, training_data=(x, np.ones((2, 1))), save_model=False)
    model.fit(x, np.ones((2, 1)), callbacks=[callback], verbose=0)
    (found,) = recorder.finish().column("gradients/words/embeddings.gradient")
    assert sum(found["values"]) == 10


# --- sources of data ----------------------------------------------------------------------------------


class Sequence(keras.utils.PyDataset):  # type: ignore[misc]
    def __init__(self, x: Any, y: Any, batch: int) -> None:
        super().__init__()
        self.x, self.y, self.batch = x, y, batch

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        chosen = slice(i * self.batch, (i + 1) * self.batch)
        return self.x[chosen], self.y[chosen]


def endless(x: Any, y: Any, batch: int) -> Iterator[tuple[Any, Any]]:
    while True:
        for start in range(0, len(x), batch):
            yield x[start : start + batch], y[start : start + batch]


def source(kind: str, x: Any, y: Any, batch: int = 4) -> Any:
    if kind == "arrays":
        return x, y
    if kind == "tensors":
        return keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(y)
    if kind == "tf.data":
        tf = pytest.importorskip("tensorflow")
        return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch)
    if kind == "PyDataset":
        return Sequence(x, y, batch)
    if kind == "DataLoader":
        torch = pytest.importorskip("torch")
        data = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
        return torch.utils.data.DataLoader(data, batch_size=batch)
    return endless(x, y, batch)


KINDS = ["arrays", "tensors", "tf.data", "PyDataset", "DataLoader", "generator"]


@offline_only
@pytest.mark.parametrize("kind", KINDS)
def test_every_source_of_validation_data(recorder: Recorder, kind: str) -> None:
    recorder.start()
    x, y = pictures(8)
    data = source(kind, x, y)
    callback = WandbCallback(
        validation_data=data, validation_steps=2, input_type="image", log_evaluation=True, save_model=False
    )
    classifier().fit(x, y, epochs=3, callbacks=[callback], verbose=0)
    arrived = recorder.finish()
    shown = 8 if kind in ("arrays", "tensors") else 4  # a source yields one batch per epoch
    assert [value["count"] for value in arrived.column("examples")] == [shown] * 3
    (table,) = arrived.column("validation_predictions")
    assert table["nrows"] == 8
    (truth,) = arrived.artifacts_of("validation_dataset")
    assert len(truth.table("validation_data")["data"]) == 8
    assert recorder.warnings == []


@offline_only
@pytest.mark.parametrize("kind", KINDS)
def test_every_source_of_training_data(recorder: Recorder, kind: str) -> None:
    recorder.start()
    x, y = dense_data(12)
    data = source(kind, x, y, batch=12 if kind == "generator" else 5)
    callback = WandbCallback(log_gradients=True, training_data=data, save_model=False)
    model = dense_model()
    model.fit(x, y, epochs=2, callbacks=[callback], verbose=0)
    found = recorder.finish().column("gradients/hidden/kernel.gradient")[-1]
    expected = expected_gradients(model, x, y)["hidden/kernel"]
    assert found["bins"][0] == pytest.approx(expected.min(), rel=1e-3)
    assert found["bins"][-1] == pytest.approx(expected.max(), rel=1e-3)
    assert recorder.warnings == []


@offline_only
def test_a_generator_argument_stands_for_validation_data(recorder: Recorder) -> None:
    recorder.start()
    x, y = pictures(8)
    callback = WandbCallback(generator=endless(x, y, 3), input_type="image", save_model=False)
    classifier().fit(x, y, epochs=2, callbacks=[callback], verbose=0)
    assert [value["count"] for value in recorder.finish().column("examples")] == [3, 3]


@offline_only
def test_a_generator_that_ends_shows_its_last_batch_again(recorder: Recorder) -> None:
    recorder.start()
    x, y = pictures(8)
    callback = WandbCallback(generator=iter([(x[:2], y[:2])]), input_type="image", save_model=False)
    classifier().fit(x, y, epochs=2, callbacks=[callback], verbose=0)
    assert [value["count"] for value in recorder.finish().column("examples")] == [2, 2]


@offline_only
def test_without_validation_data_nothing_is_shown(recorder: Recorder) -> None:
    recorder.start()
    x, y = pictures(8)
    callback = WandbCallback(input_type="image", log_evaluation=True, save_model=False)
    classifier().fit(x, y, validation_data=(x, y), callbacks=[callback], verbose=0)
    arrived = recorder.finish()
    assert "examples" not in arrived.history[0]
    assert arrived.artifacts == []
    assert arrived.column("epoch") == [0]
    assert any("no images: pass `validation_data`" in warning for warning in recorder.warnings)


@offline_only
def test_an_endless_generator_needs_steps(recorder: Recorder) -> None:
    recorder.start()
    x, y = pictures(4)
    callback = WandbCallback(generator=endless(x, y, 2), log_evaluation=True, save_model=False)
    classifier().fit(x, y, callbacks=[callback], verbose=0)
    assert recorder.finish().artifacts == []
    assert any("a generator needs `validation_steps`" in warning for warning in recorder.warnings)


# --- images -------------------------------------------------------------------------------------------


def test_images_with_predicted_labels(recorder: Recorder) -> None:
    """The legacy callback: "'Sequential' object has no attribute 'stateful'"."""
    recorder.start()
    x, y = pictures(5)
    model = classifier()
    names = ["red", "green", "blue"]
    callback = WandbCallback(
        validation_data=(x, y), labels=names, input_type="image", output_type="label", save_model=False
    )
    model.fit(x, y, epochs=2, callbacks=[callback], verbose=0)
    predicted = model.predict(x, verbose=0).argmax(axis=1)
    arrived = recorder.finish()
    last = arrived.column("examples")[-1]
    assert last["count"] == 5
    assert last["captions"] == [names[label] for label in predicted]
    shown = image(arrived, last, 0)
    assert shown.shape == (6, 6)
    assert np.abs(shown / 255 - x[0, ..., 0]).max() < 0.01
    assert recorder.warnings == []


@offline_only
def test_binary_captions_are_each_examples_own(recorder: Recorder) -> None:
    """The legacy callback names every example after the first one's prediction."""
    recorder.start()
    x = np.concatenate([np.zeros((2, 6, 6, 1)), np.ones((2, 6, 6, 1))]).astype("float32")
    model = classifier(1, "sigmoid")
    model.get_layer("scores").set_weights([np.ones((36, 1)), np.array([-18.0])])
    callback = WandbCallback(validation_data=(x, np.zeros((4, 1))), labels=["off", "on"], input_type="image")
    callback.set_model(model)
    callback.on_epoch_end(0, {})
    (value,) = recorder.finish().column("examples")
    assert value["captions"] == ["off", "off", "on", "on"]


@offline_only
def test_captions_without_fitting_labels_are_the_numbers(recorder: Recorder) -> None:
    recorder.start()
    x, y = pictures(2)
    for classes, labels, expected in [(1, ["only"], float), (3, [], int), (3, ["a", "b"], str)]:
        callback = WandbCallback(validation_data=(x, y), labels=labels, input_type="image", save_model=False)
        callback.set_model(classifier(classes, "linear"))
        callback.on_epoch_end(0, {})
        captions = callback._make_images(x, y, np.arange(2 * classes).reshape(2, classes) / 1.0)
        assert all(expected(item._caption) is not None for item in captions)


def segmenter(classes: int) -> keras.Model:
    model = keras.Sequential([keras.Input((6, 6, 3)), layers.Conv2D(classes, 1, activation="softmax")])
    model.compile("sgd", "mse")
    return model


def test_segmentation_masks_in_class_colors(recorder: Recorder) -> None:
    recorder.start()
    x = np.random.default_rng(0).uniform(size=(3, 6, 6, 3)).astype("float32")
    truth = np.random.default_rng(1).integers(0, 5, size=(3, 6, 6))
    y = np.eye(5, dtype="float32")[truth]
    colors = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]
    callback = WandbCallback(
        validation_data=(x, y),
        input_type="image",
        output_type="segmentation_mask",
        class_colors=colors,
        save_model=False,
    )
    model = segmenter(5)
    model.fit(x, y, callbacks=[callback], verbose=0)
    arrived = recorder.finish()
    (value,) = arrived.column("examples")
    assert value["count"] == 9  # input, prediction and reference of each
    assert value["grouping"] == 3 if "grouping" in value else True
    palette = np.array(colors) * 255
    predicted = model.predict(x, verbose=0).argmax(axis=-1)
    for i in range(3):
        np.testing.assert_array_equal(image(arrived, value, 3 * i + 1), palette[predicted[i]])
        np.testing.assert_array_equal(image(arrived, value, 3 * i + 2), palette[truth[i]])
    assert recorder.warnings == []


@offline_only
def test_masks_of_class_numbers_get_the_same_colors(recorder: Recorder) -> None:
    recorder.start()
    x = np.random.default_rng(0).uniform(size=(2, 6, 6, 3)).astype("float32")
    truth = np.random.default_rng(1).integers(0, 5, size=(2, 6, 6))
    callback = WandbCallback(validation_data=(x, truth), input_type="auto", class_colors=None, save_model=False)
    model = segmenter(5)
    callback.set_model(model)
    assert (callback.input_type, callback.output_type) == ("image", "segmentation_mask")
    callback.on_epoch_end(0, {})
    arrived = recorder.finish()
    (value,) = arrived.column("examples")
    reference = image(arrived, value, 2)
    black = truth[0] == 0
    assert (reference[black] == 0).all()
    assert (reference[~black].max(axis=-1) == 255).all()


@offline_only
def test_images_from_labels(recorder: Recorder) -> None:
    recorder.start()
    x = np.eye(3, dtype="float32")
    y = np.random.default_rng(0).uniform(size=(3, 4, 4, 1)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), layers.Dense(16), layers.Reshape((4, 4, 1))])
    model.compile("sgd", "mse")
    callback = WandbCallback(
        validation_data=(x, y),
        labels=["a", "b", "c"],
        input_type="label",
        output_type="images",
        save_model=False,
    )
    model.fit(x, y, callbacks=[callback], verbose=0)
    (value,) = recorder.finish().column("examples")
    assert value["captions"] == ["a", "a", "b", "b", "c", "c"]


@offline_only
def test_outputs_alone(recorder: Recorder) -> None:
    recorder.start()
    x, y = np.eye(3, dtype="float32"), np.zeros((3, 4, 4, 1), dtype="float32")
    model = keras.Sequential([keras.Input((3,)), layers.Dense(16), layers.Reshape((4, 4, 1))])
    model.compile("sgd", "mse")
    callback = WandbCallback(validation_data=(x, y), output_type="image", save_model=False)
    model.fit(x, y, callbacks=[callback], verbose=0)
    (value,) = recorder.finish().column("examples")
    assert value["count"] == 6
    assert "captions" not in value or value["captions"] in (None, False)


@offline_only
@pytest.mark.parametrize(("asked", "rows", "shown"), [(36, 50, 36), (500, 150, 100), (2, 50, 2), (36, 7, 7)])
def test_the_number_of_predictions(recorder: Recorder, asked: int, rows: int, shown: int) -> None:
    recorder.start()
    callback = WandbCallback(validation_data=pictures(rows), predictions=asked, input_type="image", save_model=False)
    assert callback.predictions == min(asked, 100)
    callback.set_model(classifier())
    seed = np.random.get_state()[1].tolist()
    callback.on_epoch_end(0, {})
    assert np.random.get_state()[1].tolist() == seed
    (value,) = recorder.finish().column("examples")
    assert value["count"] == shown


@offline_only
@pytest.mark.parametrize(
    ("shape", "outputs", "expected"),
    [
        ((6, 6, 1), 3, ("image", "label")),
        ((6, 6), 3, ("image", "label")),
        ((6,), 3, ("label", "label")),
        ((6, 6, 7), 3, ("segmentation_mask", "label")),
        ((2, 6, 6, 1), 3, (None, None)),
    ],
)
def test_types_are_inferred(recorder: Recorder, shape: tuple[int, ...], outputs: int, expected: Any) -> None:
    recorder.start()
    callback = WandbCallback(input_type="auto", save_model=False)
    model = keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(outputs)])
    callback.set_model(model)
    assert (callback.input_type, callback.output_type) == expected


class Subclassed(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.dense = layers.Flatten(), layers.Dense(3, name="scores")

    def call(self, x: Any) -> Any:
        return self.dense(self.flatten(x))


@offline_only
def test_types_of_a_subclassed_model_are_inferred_from_the_data(recorder: Recorder) -> None:
    recorder.start()
    x, y = pictures(4)
    model = Subclassed()
    model.compile("sgd", "mse")
    callback = WandbCallback(validation_data=(x, y), data_type="auto", labels=["a", "b", "c"], monitor="loss")
    model.fit(x, y, callbacks=[callback], verbose=0)
    arrived = recorder.finish()
    (value,) = arrived.column("examples")
    assert set(value["captions"]) <= {"a", "b", "c"}
    assert len(arrived.artifacts_of("model")) == 1
    assert recorder.warnings == []


@offline_only
def test_a_fixed_batch_size_and_stateful_layers(recorder: Recorder) -> None:
    recorder.start()
    x = np.random.default_rng(0).uniform(size=(8, 5, 2)).astype("float32")
    model = keras.Sequential([keras.Input((5, 2), batch_size=4), layers.GRU(3, stateful=True), layers.Dense(2)])
    model.compile("sgd", "mse")
    callback = WandbCallback(
        validation_data=(x[:6], np.zeros((6, 2))), input_type="image", output_type="label", save_model=False
    )
    callback.set_model(model)
    state = model.layers[0].states[0]
    before = np.random.default_rng(1).uniform(size=(4, 3)).astype("float32")
    state.assign(before)
    callback.on_epoch_end(0, {})
    (value,) = recorder.finish().column("examples")
    assert value["count"] == 6
    np.testing.assert_array_equal(before, keras.ops.convert_to_numpy(state.value))


# --- evaluation tables --------------------------------------------------------------------------------


def prediction_table(arrived: Arrived, i: int = -1) -> dict[str, Any]:
    value = arrived.column("validation_predictions")[i]
    return dict(json.loads(arrived.file(value["path"])))


def test_evaluation_tables(recorder: Recorder) -> None:
    """Offline the legacy callback logs nothing: "Cannot use artifact when in offline mode."."""
    recorder.start()
    x, y = pictures(4)
    model = classifier()
    callback = WandbCallback(validation_data=(x, y), log_evaluation=True, labels=["a", "b", "c"], save_model=False)
    model.fit(x, y, epochs=2, callbacks=[callback], verbose=0)
    arrived = recorder.finish()

    (truth,) = arrived.artifacts_of("validation_dataset")
    assert (truth.name, truth.aliases, truth.used) == ("wb_validation_data", {"latest"}, True)
    data = truth.table("validation_data")
    assert data["columns"] == ["target", "input", "target:max_class", "input:image"]
    assert [row[0] for row in data["data"]] == y.tolist()
    assert [row[2] for row in data["data"]] == [0, 1, 2, 0]
    assert {row[3]["_type"] for row in data["data"]} == {"image-file"}

    assert len(arrived.column("validation_predictions")) == 1  # at the end of training
    (logged,) = arrived.artifacts_of("run_table")
    predictions = logged.table("validation_predictions")
    assert predictions["columns"] == ["output", "val_row", "output:max_class", "output:score"]
    scores = model.predict(x, verbose=0)
    np.testing.assert_allclose([row[0] for row in predictions["data"]], scores, rtol=1e-5)
    assert [row[1] for row in predictions["data"]] == [0, 1, 2, 3]
    assert [row[2] for row in predictions["data"]] == scores.argmax(axis=1).tolist()
    assert predictions["data"][0][3]["a"] == pytest.approx(float(scores[0, 0]))
    types = predictions["column_types"]["params"]["type_map"]
    linked = logged.files[types["val_row"]["params"]["table"]]
    assert (linked.artifact, linked.path) == (truth.id, "validation_data.table.json")
    assert recorder.warnings == []


@offline_only
@pytest.mark.parametrize(("frequency", "rows"), [(0, [None]), (1, [0, 1, 2]), (2, [0, 2]), (3, [0, None])])
def test_how_often_predictions_are_logged(recorder: Recorder, frequency: int, rows: list[Any]) -> None:
    recorder.start()
    x, y = pictures(4)
    callback = WandbCallback(
        validation_data=(x, y), log_evaluation=True, log_evaluation_frequency=frequency, save_model=False
    )
    classifier().fit(x, y, epochs=3, callbacks=[callback], verbose=0)
    arrived = recorder.finish()
    assert [row.get("epoch") for row in arrived.history if "validation_predictions" in row] == rows
    assert len(arrived.artifacts_of("validation_dataset")) == 1


@offline_only
@pytest.mark.parametrize("name", ["prediction_row_processor", "output_row_processor"])
def test_given_processors(recorder: Recorder, name: str) -> None:
    recorder.start()
    x, y = pictures(3)
    processors = {
        "validation_row_processor": lambda index, row: {"n": int(index), "img": wandb.Image(row["input"])},
        name: lambda index, row: {"total": float(np.sum(row["output"]))},
    }
    callback = WandbCallback(validation_data=(x, y), log_evaluation=True, save_model=False, **processors)
    classifier().fit(x, y, callbacks=[callback], verbose=0)
    arrived = recorder.finish()
    data = arrived.artifacts_of("validation_dataset")[0].table("validation_data")
    assert data["columns"] == ["target", "input", "n", "img"]
    assert [row[2] for row in data["data"]] == [0, 1, 2]
    predictions = arrived.artifacts_of("run_table")[0].table("validation_predictions")
    assert predictions["columns"] == ["output", "val_row", "total"]
    assert [row[2] for row in predictions["data"]] == pytest.approx([1.0] * 3)


@offline_only
def test_processors_are_not_inferred_unless_wanted(recorder: Recorder) -> None:
    recorder.start()
    x, y = pictures(3)
    callback = WandbCallback(
        validation_data=(x, y), log_evaluation=True, infer_missing_processors=False, save_model=False
    )
    classifier().fit(x, y, callbacks=[callback], verbose=0)
    arrived = recorder.finish()
    assert arrived.artifacts_of("validation_dataset")[0].table("validation_data")["columns"] == [
        "target",
        "input",
    ]
    columns = arrived.artifacts_of("run_table")[0].table("validation_predictions")["columns"]
    assert columns == ["output", "val_row"]


def test_given_indexes_replace_the_table(recorder: Recorder) -> None:
    run = recorder.start()
    x, y = pictures(3)
    table = wandb.Table(columns=["name"], data=[["x"], ["y"], ["z"]])
    artifact = wandb.Artifact("mine", type="dataset")
    artifact.add(table, "rows")
    run.log_artifact(artifact)
    callback = WandbCallback(
        validation_data=(x, y), log_evaluation=True, validation_indexes=table.get_index(), save_model=False
    )
    classifier().fit(x, y, callbacks=[callback], verbose=0)
    arrived = recorder.finish()
    assert arrived.artifacts_of("validation_dataset") == []
    (mine,) = arrived.artifacts_of("dataset")
    (logged,) = arrived.artifacts_of("run_table")
    predictions = logged.table("validation_predictions")
    linked = logged.files[predictions["column_types"]["params"]["type_map"]["val_row"]["params"]["table"]]
    assert (linked.artifact, linked.path) == (mine.id, "rows.table.json")
    assert recorder.warnings == []


@offline_only
def test_several_inputs_and_outputs(recorder: Recorder) -> None:
    recorder.start()
    left, right = keras.Input((4,), name="left"), keras.Input((12,), name="right")
    joined = layers.Concatenate()([left, right])
    model = keras.Model([left, right], [layers.Dense(1, name="up")(joined), layers.Dense(2, name="down")(joined)])
    model.compile("sgd", ["mse", "mse"])
    x = [np.ones((3, 4), "float32"), np.ones((3, 12), "float32")]
    y = [np.zeros((3, 1), "float32"), np.zeros((3, 2), "float32")]
    callback = WandbCallback(
        validation_data=(x, y),
        training_data=(x, y),
        log_gradients=True,
        log_evaluation=True,
        compute_flops=True,
        save_model=False,
    )
    model.fit(x, y, callbacks=[callback], verbose=0)
    arrived = recorder.finish()
    columns = arrived.artifacts_of("validation_dataset")[0].table("validation_data")["columns"]
    assert columns[:4] == ["up", "down", "left", "right"]
    assert "left:node" in columns
    assert "right:node" not in columns
    assert "right:argmax" in columns
    columns = arrived.artifacts_of("run_table")[0].table("validation_predictions")["columns"]
    assert columns[:3] == ["up", "down", "val_row"]
    assert "gradients/up/kernel.gradient" in arrived.history[0]
    assert arrived.summary["GFLOPs"] * 1e9 == pytest.approx(2 * 16 * 3, rel=0.2)
    assert recorder.warnings == []


@offline_only
def test_masks_are_drawn_over_their_input(recorder: Recorder) -> None:
    recorder.start()
    x = np.random.default_rng(0).uniform(size=(2, 6, 6, 3)).astype("float32")
    truth = np.random.default_rng(0).integers(0, 2, size=(2, 6, 6))
    callback = WandbCallback(validation_data=(x, truth), log_evaluation=True, labels=["no", "yes"], save_model=False)
    callback.set_model(segmenter(1))
    callback.on_train_begin()
    data = recorder.finish().artifacts_of("validation_dataset")[0].table("validation_data")
    cell = data["data"][0][data["columns"].index("target:image")]
    assert list(cell["masks"]) == ["masks"]


@offline_only
def test_a_processor_that_fails_ends_nothing(recorder: Recorder) -> None:
    recorder.start()
    x, y = pictures(3)

    def fail(index: int, row: Any) -> Any:
        raise KeyError("no such thing")

    callback = WandbCallback(
        validation_data=(x, y), log_evaluation=True, prediction_row_processor=fail, save_model=False
    )
    classifier().fit(x, y, epochs=2, callbacks=[callback], verbose=0)
    arrived = recorder.finish()
    assert arrived.column("epoch") == [0, 1]
    assert arrived.column("validation_predictions") == []
    assert any("the predictions are not logged: KeyError: 'no such thing'" in warning for warning in recorder.warnings)


# --- graph and FLOPs ----------------------------------------------------------------------------------


def graph(recorder: Recorder, model: keras.Model, shape: tuple[int, ...]) -> tuple[dict[str, Any], set[Any]]:
    recorder.start()
    model.compile("sgd", "mse")
    x = np.zeros((2, *shape), "float32")
    model.fit(x, np.zeros((2, *model(x).shape[1:])), callbacks=[WandbCallback(save_model=False)], verbose=0)
    arrived = recorder.finish()
    content = json.loads(arrived.file(arrived.summary["graph"]["path"]))
    assert content["format"] == "keras"
    return {node["id"]: node for node in content["nodes"]}, {tuple(edge) for edge in content["edges"]}


def test_the_graph_of_a_sequential_model(recorder: Recorder) -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="first"), layers.Dense(1, name="second")])
    nodes, edges = graph(recorder, model, (4,))
    assert [(n["name"], n["class_name"], n["num_parameters"]) for n in nodes.values()] == [
        ("first", "Dense", 15),
        ("second", "Dense", 4),
    ]
    assert nodes["first"]["output_shape"] == [None, 3]
    assert edges == {("first", "second")}


@offline_only
def test_the_graph_of_a_functional_model(recorder: Recorder) -> None:
    inputs = keras.Input((4,), name="in")
    shared = layers.Dense(4, name="shared")
    one = shared(inputs)
    two = shared(one)
    model = keras.Model(inputs, layers.Add(name="sum")([one, two]))
    keras.Model(inputs, shared(inputs))  # another model with the same layer adds nothing
    nodes, edges = graph(recorder, model, (4,))
    assert set(nodes) == {"in", "shared", "sum"}
    assert edges == {("in", "shared"), ("shared", "shared"), ("shared", "sum")}
    assert nodes["shared"]["num_parameters"] == 20


@offline_only
def test_the_graph_of_a_part_of_a_model(recorder: Recorder) -> None:
    inputs = keras.Input((4,), name="in")
    hidden = layers.Dense(4, name="before")(inputs)
    model = keras.Model(hidden, layers.Dense(1, name="after")(hidden))
    nodes, edges = graph(recorder, model, (4,))
    assert "after" in nodes
    assert ("in", "before") not in edges


@offline_only
def test_the_graph_of_functions_between_layers(recorder: Recorder) -> None:
    inputs = keras.Input((4,), name="in")
    model = keras.Model(inputs, layers.Dense(1, name="out")(keras.ops.square(inputs) + 1.0))
    nodes, edges = graph(recorder, model, (4,))
    assert {node["class_name"] for node in nodes.values()} == {"InputLayer", "Square", "Add", "Dense"}
    assert len(edges) == 3


@offline_only
def test_the_graph_of_nested_models(recorder: Recorder) -> None:
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(2, name="b")], name="inner")
    inputs = keras.Input((4,), name="in")
    model = keras.Model(inputs, layers.Dense(1, name="out")(inner(inputs)))
    nodes, edges = graph(recorder, model, (4,))
    assert set(nodes) == {"in", "inner", "inner/a", "inner/b", "out"}
    assert edges == {("in", "inner"), ("inner", "out"), ("inner", "inner/a"), ("inner/a", "inner/b")}


@offline_only
def test_the_graph_of_a_subclassed_model(recorder: Recorder) -> None:
    nodes, edges = graph(recorder, Subclassed(), (6, 6, 1))
    assert {node["class_name"] for node in nodes.values()} == {"Flatten", "Dense"}
    assert nodes["scores"]["num_parameters"] == 36 * 3 + 3
    assert edges == set()


@offline_only
def test_no_graph_unless_wanted(recorder: Recorder) -> None:
    recorder.start()
    drive(WandbCallback(save_graph=False, save_model=False), [1.0])
    assert "graph" not in recorder.finish().summary


def dense_network() -> tuple[keras.Model, int]:
    model = keras.Sequential([keras.Input((64,)), layers.Dense(128, activation="relu"), layers.Dense(10)])
    return model, 2 * (64 * 128 + 128 * 10)


def conv_network() -> tuple[keras.Model, int]:
    inputs = keras.Input((28, 28, 3))
    hidden = layers.Conv2D(16, 3, activation="relu")(inputs)
    hidden = layers.Flatten()(layers.Conv2D(8, 3, strides=2)(hidden))
    model = keras.Model(inputs, layers.Dense(10)(hidden))
    return model, 2 * (26 * 26 * 16 * 27 + 12 * 12 * 8 * 9 * 16 + 12 * 12 * 8 * 10)


@offline_only
@pytest.mark.parametrize("make", [dense_network, conv_network])
def test_flops_are_those_counted_by_hand(recorder: Recorder, make: Any) -> None:
    """The legacy callback: "Unable to compute FLOPs"."""
    recorder.start()
    model, by_hand = make()
    callback = WandbCallback(compute_flops=True, save_model=False)
    callback.set_model(model)
    callback.on_train_begin()
    assert callback.get_flops() * 1e9 == pytest.approx(by_hand, rel=0.05)
    assert recorder.finish().summary["GFLOPs"] == callback.get_flops()
    assert recorder.warnings == []


@offline_only
def test_flops_of_a_model_that_is_built_by_training(recorder: Recorder) -> None:
    recorder.start()
    model = keras.Sequential([layers.Dense(8), layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = dense_data()
    model.fit(x, y, callbacks=[WandbCallback(compute_flops=True, save_model=False)], verbose=0)
    assert recorder.finish().summary["GFLOPs"] * 1e9 == pytest.approx(2 * (4 * 8 + 8), rel=0.3)
    assert recorder.warnings == []


@offline_only
def test_flops_that_cannot_be_counted(recorder: Recorder) -> None:
    recorder.start()
    callback = WandbCallback()
    with pytest.raises(wandb.Error, match=r"self.model must be set"):
        callback.get_flops()
    callback.set_model(Subclassed())
    with pytest.raises(TypeError, match="Sequential and functional models"):
        callback.get_flops()
    callback.set_model(keras.Sequential([keras.Input((None, 3)), layers.Dense(2)]))
    with pytest.raises(InvalidInputError, match="fixed input shapes"):
        callback.get_flops()


# --- construction -------------------------------------------------------------------------------------

X = np.zeros((2, 2))


@offline_only
@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("monitor", None, "a name"),
        ("monitor", "", "a name"),
        ("mode", "best", "one of 'auto', 'min', 'max'"),
        ("mode", None, "one of 'auto', 'min', 'max'"),
        ("verbose", "yes", "an int of 0 or more"),
        ("save_weights_only", "no", "True or False"),
        ("log_weights", 1, "True or False"),
        ("log_gradients", "x", "True or False"),
        ("save_model", None, "True or False"),
        ("training_data", (X,), "(x, y)"),
        ("training_data", (X, X, X), "tuple of two"),
        ("validation_data", X[0, 0], "a tuple of arrays"),
        ("validation_data", "data", "a tuple of arrays"),
        ("validation_data", (X, X, X, X), "(x, y) or (x, y, sample_weight)"),
        ("labels", "ab", "a list"),
        ("labels", 3, "a list"),
        ("predictions", 0, "an int of 1 or more"),
        ("predictions", 3.5, "an int of 1 or more"),
        ("generator", 7, "a generator"),
        ("generator", (X, X), "a source of (x, y) batches"),
        ("input_type", "picture", "'segmentation_mask'"),
        ("output_type", "auto", "'segmentation_mask'"),
        ("data_type", "video", "'segmentation_mask'"),
        ("log_evaluation", "all", "True or False"),
        ("validation_steps", 0, "an int of 1 or more"),
        ("class_colors", [[0, 0, 255]], "0 to 1"),
        ("class_colors", [0, 0, 1], "0 to 1"),
        ("class_colors", "red", "0 to 1"),
        ("log_batch_frequency", 0, "an int of 1 or more"),
        ("log_batch_frequency", True, "an int of 1 or more"),
        ("log_best_prefix", 3, "a string or None"),
        ("save_graph", "yes", "True or False"),
        ("validation_indexes", 3, "a list"),
        ("validation_row_processor", 3, "a function of (index, row)"),
        ("prediction_row_processor", "f", "a function of (index, row)"),
        ("output_row_processor", "f", "a function of (index, row)"),
        ("infer_missing_processors", 0, "True or False"),
        ("log_evaluation_frequency", -1, "an int of 0 or more"),
        ("compute_flops", "yes", "True or False"),
    ],
)
def test_wrong_arguments_are_refused(recorder: Recorder, argument: str, value: Any, expected: str) -> None:
    recorder.start()
    with pytest.raises(InvalidInputError, match=re.escape(expected)):
        WandbCallback(**{argument: value})


@offline_only
def test_arguments_that_do_not_go_together(recorder: Recorder) -> None:
    recorder.start()
    with pytest.raises(InvalidInputError, match="`training_data` is needed for `log_gradients`"):
        WandbCallback(log_gradients=True)
    with pytest.raises(InvalidInputError, match="two names of one argument"):
        WandbCallback(input_type="image", data_type="label")
    with pytest.raises(TypeError, match="unexpected keyword argument 'save_best'"):
        WandbCallback(save_best=True)  # type: ignore[call-arg]


@offline_only
def test_the_defaults_and_the_order_are_the_documented_ones(recorder: Recorder) -> None:
    run = recorder.start()
    callback = WandbCallback("loss", 1, "max", True, False, False, False)
    assert (callback.monitor, callback.verbose, callback.save_weights_only, callback.save_model) == (
        "loss",
        1,
        True,
        False,
    )
    callback = WandbCallback()
    assert (callback.monitor, callback.predictions, callback.log_best_prefix) == ("val_loss", 36, "best_")
    assert (callback.save_model, callback.save_graph, callback.compute_flops) == (True, True, False)
    assert callback.filepath == str(Path(run.dir) / "model-best.keras")
    callback.set_params({"epochs": 3})
    assert callback.params == {"epochs": 3}


def test_without_a_run_construction_says_so(recorder: Recorder) -> None:
    with pytest.raises(wandb.Error, match=r"You must call `wandb.init\(\)` before WandbCallback\(\)"):
        WandbCallback()


@offline_only
def test_models_of_tf_keras_are_refused(recorder: Recorder) -> None:
    recorder.start()
    model = type("Model", (), {"__module__": "tf_keras.src.engine.training"})()
    with pytest.raises(InvalidInputError, match="TF_USE_LEGACY_KERAS"):
        WandbCallback().set_model(model)


@offline_only
def test_a_disabled_run_saves_nothing(recorder: Recorder) -> None:
    recorder.start(mode="disabled")
    x, y = pictures(3)
    callback = WandbCallback(
        monitor="loss", validation_data=(x, y), input_type="image", log_evaluation=True, log_weights=True
    )
    classifier().fit(x, y, callbacks=[callback], verbose=0)
    assert not Path(callback.filepath).exists()


def test_no_backend_but_the_chosen_one_is_imported() -> None:
    import subprocess
    import sys

    program = (
        "import sys, keras; before = set(sys.modules);"
        "import lamina.keras.callbacks.wandb_callback, lamina.keras.callbacks.eval_callback;"
        "import lamina.keras.callbacks.metrics_logger;"
        "print(*sorted({'tensorflow', 'jax', 'torch', 'wandb'} & (set(sys.modules) - before)));"
        "print('tensorflow' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["", str(BACKEND == "tensorflow")]


def test_without_wandb_construction_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    module = importlib.import_module("lamina.keras.callbacks.wandb_callback")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="WandbCallback needs wandb: pip install wandb"):
        module.WandbCallback()
