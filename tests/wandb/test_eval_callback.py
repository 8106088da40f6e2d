"""WandbEvalCallback: the artifacts and tables that arrive, their references, and what is left on disk."""

import copy
import importlib
import pickle
from typing import Any

import keras
import numpy as np
import pytest
import wandb

from lamina.errors import InvalidInputError
from lamina.keras import WandbEvalCallback
from recorded_run import Recorder

pytestmark = [pytest.mark.keras, pytest.mark.wandb, pytest.mark.backend]
BACKEND = keras.backend.backend()

ROWS = 5
DATA_COLUMNS = ["idx", "image", "label"]
PRED_COLUMNS = ["epoch", "idx", "image", "label", "pred"]


def make_model() -> keras.Model:
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def examples() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.uniform(0, 255, size=(ROWS, 4, 4, 1)).astype("float32"), np.arange(ROWS) % 3


def argmax(predictions: Any) -> Any:
    """As in the documentation: computed by the backend, so the result has the backend's type."""
    if BACKEND == "tensorflow":
        return importlib.import_module("tensorflow").argmax(predictions, axis=-1)
    return keras.ops.argmax(predictions, axis=-1)


class Documented(WandbEvalCallback):
    """The documented example, with ``data_table_ref.data[idx][n]``."""

    def __init__(self, validation_data: Any, data_table_columns: list[str], pred_table_columns: list[str]) -> None:
        super().__init__(data_table_columns, pred_table_columns)
        self.x = validation_data[0]
        self.y = validation_data[1]

    def add_ground_truth(self, logs: Any = None) -> None:
        for idx, (image, label) in enumerate(zip(self.x, self.y, strict=True)):
            self.data_table.add_data(idx, wandb.Image(image), label)

    def add_model_predictions(self, epoch: int, logs: Any = None) -> None:
        preds = argmax(self.model.predict(self.x, verbose=0))
        table_idxs = self.data_table_ref.get_index()
        for idx in table_idxs:
            pred = preds[idx]
            self.pred_table.add_data(
                epoch,
                self.data_table_ref.data[idx][0],
                self.data_table_ref.data[idx][1],
                self.data_table_ref.data[idx][2],
                pred,
            )


class Indexed(Documented):
    """The other documented way: ``data_table_ref[idx][n]``, no ``logs``, the singular name."""

    def add_ground_truth(self) -> None:  # type: ignore[override]
        super().add_ground_truth()

    def add_model_prediction(self, epoch: int) -> None:  # type: ignore[override]
        preds = np.argmax(self.model.predict(self.x, verbose=0), axis=-1)
        for idx in self.data_table_ref.get_index():
            row = self.data_table_ref[idx]
            self.pred_table.add_data(epoch, row[0], row[1], row[2], preds[idx])


def fit(callback: keras.callbacks.Callback, epochs: int = 2) -> keras.Model:
    x, y = examples()
    model = make_model()
    model.fit(x, y, epochs=epochs, callbacks=[callback], verbose=0)
    return model


@pytest.mark.parametrize("kind", [Documented, Indexed])
def test_the_documented_example_logs_both_tables(recorder: Recorder, kind: type[Documented]) -> None:
    """Offline the stock callback ends training: "Cannot use artifact when in offline mode."."""
    run = recorder.start(config={"hyper": "parameter"})
    model = fit(kind(examples(), DATA_COLUMNS, PRED_COLUMNS))
    arrived = recorder.finish()

    (truth,) = arrived.artifacts_of("dataset")
    assert (truth.name, truth.aliases, truth.used) == ("val", {"latest"}, True)
    ground = truth.table("val_data")
    assert ground["columns"] == DATA_COLUMNS
    assert [(row[0], row[2]) for row in ground["data"]] == [(i, i % 3) for i in range(ROWS)]
    assert {row[1]["_type"] for row in ground["data"]} == {"image-file"}
    images = {row[1]["path"] for row in ground["data"]}
    assert images == {path for path in truth.files if path.startswith("media/images/")}
    assert len(images) == ROWS
    assert all((truth.files[path].content or b"").startswith(b"\x89PNG") for path in images)

    predictions = arrived.artifacts_of("evaluation")
    assert [a.name for a in predictions] == [f"run_{run.id}_pred"] * 2
    assert [a.aliases for a in predictions] == [set(), {"latest"}]
    for epoch, artifact in enumerate(predictions):
        rows = artifact.table("eval_data")
        assert rows["columns"] == PRED_COLUMNS
        assert [row[:2] + row[3:4] for row in rows["data"]] == [[epoch, i, i % 3] for i in range(ROWS)]
        # the images are references to the ground truth, not stored again
        assert {row[2]["path"] for row in rows["data"]} == images
        files = [artifact.files[path] for path in images]
        assert {(file.content, file.artifact) for file in files} == {(None, truth.id)}
        assert {file.path for file in files} == images
    final = model.predict(examples()[0], verbose=0).argmax(axis=-1)
    assert [row[4] for row in predictions[-1].table("eval_data")["data"]] == final.tolist()
    assert "keras_wandb_eval_callback" in arrived.features


def test_staged_files_are_those_that_a_sync_needs(recorder: Recorder) -> None:
    """The stock callback leaks a staged file per epoch, and one more."""
    recorder.start()
    fit(Documented(examples(), DATA_COLUMNS, PRED_COLUMNS), epochs=3)
    arrived = recorder.finish()
    stored = [file for artifact in arrived.artifacts for file in artifact.files.values() if file.content]
    assert len(stored) == ROWS + 1 + 3
    assert len(recorder.staged()) == (len(stored) if recorder.mode == "offline" else 0)


class Rows(WandbEvalCallback):
    """Row numbers of the ground truth in the predictions, instead of its cells."""

    def add_ground_truth(self, logs: Any = None) -> None:
        for i in range(ROWS):
            self.data_table.add_data(i, f"row {i}")

    def add_model_predictions(self, epoch: int, logs: Any = None) -> None:
        for i in self.data_table_ref.get_index():
            self.pred_table.add_data(i, (logs or {})["loss"])


def test_row_numbers_link_the_tables(recorder: Recorder) -> None:
    recorder.start()
    fit(Rows(["idx", "text"], ["row", "loss"]), epochs=1)
    arrived = recorder.finish()
    (truth,) = arrived.artifacts_of("dataset")
    (artifact,) = arrived.artifacts_of("evaluation")
    columns = artifact.table("eval_data")["column_types"]["params"]["type_map"]
    assert columns["row"]["wb_type"] == "foreignIndex"
    linked = artifact.files[columns["row"]["params"]["table"]]
    assert (linked.artifact, linked.path) == (truth.id, "val_data.table.json")


def test_the_ground_truth_stays_known_over_many_epochs(recorder: Recorder) -> None:
    """wandb forgets artifacts after a hundred others; then references to them fail."""
    recorder.start()
    callback = Rows(["idx", "text"], ["row", "loss"])
    callback.set_model(make_model())
    callback.on_train_begin()
    for epoch in range(120):
        callback.on_epoch_end(epoch, {"loss": float(epoch)})
    assert len(recorder.finish().artifacts_of("evaluation")) == 120


def test_names_types_and_aliases_can_be_chosen(recorder: Recorder) -> None:
    recorder.start()

    class Named(Rows):
        def on_train_begin(self, logs: Any = None) -> None:
            self.init_data_table(column_names=["a", "b"])
            self.add_ground_truth(logs)
            self.log_data_table(name="truth", type="images", table_name="rows")

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None: ...

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.init_pred_table(column_names=["c", "d"])
            self.add_model_predictions(batch, logs)
            self.log_pred_table(type="predictions", table_name="guesses", aliases=["latest", f"batch_{batch}"])

    fit(Named([], []), epochs=1)
    truth, prediction = recorder.finish().artifacts
    assert (truth.name, truth.type, truth.used) == ("truth", "images", True)
    assert truth.table("rows")["columns"] == ["a", "b"]
    assert (prediction.type, prediction.aliases) == ("predictions", {"latest", "batch_0"})
    assert prediction.table("guesses")["columns"] == ["c", "d"]


def test_both_names_of_the_method_can_be_called(recorder: Recorder) -> None:
    recorder.start()
    calls = []

    class Singular(Rows):
        def add_model_prediction(self, epoch: int, logs: Any = None) -> None:
            calls.append(("singular", epoch, logs))

    class Plural(Rows):
        def add_model_predictions(self, epoch: int, logs: Any = None) -> None:
            calls.append(("plural", epoch, logs))

    for kind in (Singular, Plural):
        callback = kind(["a"], ["b"])
        callback.add_model_prediction(1, {})
        callback.add_model_predictions(2, {})
    assert calls == [("singular", 1, {}), ("singular", 2, {}), ("plural", 1, {}), ("plural", 2, {})]


def test_an_error_in_a_users_method_is_theirs(recorder: Recorder) -> None:
    recorder.start()

    class Broken(Rows):
        def add_ground_truth(self, logs: Any = None) -> None:
            raise TypeError("missing 1 required positional argument")

    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        fit(Broken(["a"], ["b"]))


def test_the_base_class_is_abstract(recorder: Recorder) -> None:
    recorder.start()
    with pytest.raises(TypeError, match="abstract"):
        WandbEvalCallback(["a"], ["b"])  # type: ignore[abstract]


def test_a_disabled_run_trains_without_logging(recorder: Recorder) -> None:
    recorder.start(mode="disabled")
    callback = Documented(examples(), DATA_COLUMNS, PRED_COLUMNS)
    fit(callback)
    assert len(callback.data_table_ref) == ROWS
    assert recorder.staged() == set()


def test_the_reference_can_be_copied(recorder: Recorder) -> None:
    recorder.start()
    callback = Rows(["idx", "text"], ["row", "loss"])
    callback.set_model(make_model())
    callback.on_train_begin()
    reference = callback.data_table_ref
    assert copy.copy(reference)[1] == reference[1] == [1, "row 1"]
    assert [row[0] for row in reference] == list(range(ROWS))
    with pytest.raises(AttributeError):
        reference.no_such_thing  # noqa: B018
    assert pickle.loads(pickle.dumps(Rows(["a"], ["b"]))).pred_table_columns == ["b"]


@pytest.mark.parametrize("columns", ["idx", None, 3, [1.5], [None], ["a", "a"], {"a": 1}])
def test_wrong_columns_are_refused(recorder: Recorder, columns: Any) -> None:
    recorder.start()
    with pytest.raises(InvalidInputError, match="`data_table_columns` must"):
        Rows(columns, ["a"])
    with pytest.raises(InvalidInputError, match="`pred_table_columns` must"):
        Rows(["a"], columns)


def test_without_a_run_construction_says_so(recorder: Recorder) -> None:
    with pytest.raises(wandb.Error, match=r"You must call `wandb.init\(\)` before Rows\(\)"):
        Rows(["a"], ["b"])
