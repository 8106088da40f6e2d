"""Evaluation tables: the validation data once, then the model's predictions for each row."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from lamina.errors import InvalidInputError
from lamina.keras.media.predictions import inputs_of, outputs_of, predict
from lamina.keras.media.processors import Labels, Processor, infer_processor
from lamina.keras.media.table_artifact import DataTable, remember, use_table
from lamina.keras.media.validation_data import count

TABLE = "wb_validation_data"
PREDICTIONS = "validation_predictions"


class Evaluation:
    """Logs the validation data when created, unless ``indexes`` refer to a table that has it."""

    def __init__(
        self,
        run: Any,
        model: Any,
        x: Any,
        y: Any,
        *,
        indexes: Sequence[Any] | None,
        validation_processor: Processor | None,
        prediction_processor: Processor | None,
        infer: bool,
        labels: Sequence[Any],
    ) -> None:
        self._x = x
        self._inputs = _columns(x, "input", [tensor.name for tensor in inputs_of(model)])
        self._labels = Labels(list(labels)) if len(labels) else None
        self._processor = prediction_processor
        self._infer = infer
        self._source: DataTable | None = None
        if indexes is None:
            self._source = self._log_data(run, model, y, validation_processor)
            indexes = self._source.get_index()
        if len(indexes) != count(x):
            raise InvalidInputError(
                f"`validation_indexes` must have one index per example: {count(x)}. Received: {len(indexes)}"
            )
        self._indexes = list(indexes)

    def _log_data(self, run: Any, model: Any, y: Any, processor: Processor | None) -> DataTable:
        import wandb

        if y is None:
            raise InvalidInputError("evaluation tables need targets. Received: validation data without y")
        columns = _columns(y, "target", _output_names(model)) | self._inputs
        table = _table(columns)
        if processor is None and self._infer:
            processor = infer_processor(columns, self._labels, self._base())
        if processor is not None:
            table.add_computed_columns(processor)
        artifact = wandb.Artifact(TABLE, type="validation_dataset")
        return use_table(run, artifact, table, "validation_data")

    def table(self, model: Any) -> Any:
        """A table of the model's predictions, each with the row of its example."""
        columns = _columns(predict(model, self._x), "output", _output_names(model))
        table = _table(columns)
        table.add_column("val_row", self._indexes)
        processor = self._processor
        if processor is None and self._infer:
            processor = infer_processor(columns, self._labels, self._base())
        if processor is not None:
            table.add_computed_columns(processor)
        if self._source is not None:
            remember(self._source)
        return table

    def _base(self) -> Any:
        """A function that returns the picture under a mask: the input, if there is exactly one."""
        if len(self._inputs) != 1:
            return None
        (values,) = self._inputs.values()
        return lambda index: values[index]


def _output_names(model: Any) -> list[str]:
    names = getattr(model, "output_names", None)
    return list(names) if names else [tensor.name for tensor in outputs_of(model)]


def _columns(data: Any, single: str, names: list[str]) -> dict[str, Any]:
    """Arrays by column name: ``single`` for one array, the model's names for several."""
    if isinstance(data, dict):
        return dict(data)
    arrays = keras.tree.flatten(data)
    if len(arrays) == 1:
        return {single: arrays[0]}
    if len(names) != len(arrays):
        names = [f"{single}_{i}" for i in range(len(arrays))]
    return dict(zip(names, arrays, strict=True))


def _table(columns: dict[str, Any]) -> Any:
    import wandb

    table = wandb.Table(columns=[], data=[])
    for name, values in columns.items():
        array = np.asarray(values)
        table.add_column(name, array.tolist() if array.ndim == 1 else array)
    return table
