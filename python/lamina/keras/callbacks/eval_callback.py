"""`WandbEvalCallback`: a base class for callbacks that log predictions as W&B Tables."""

import abc
import inspect
from collections.abc import Callable
from typing import Any

import keras

from lamina.errors import InvalidInputError
from lamina.keras.callbacks.active_run import active_run, mark_feature
from lamina.keras.media.table_artifact import DataTable, add_table, use_table
from lamina.keras.resume_state import is_replaying


class WandbEvalCallback(keras.callbacks.Callback, abc.ABC):  # type: ignore[misc]
    """Base class for callbacks that log a model's predictions as W&B Tables.

    Implement ``add_ground_truth``, which is called once at the start of training, to fill ``self.data_table``.
    Implement ``add_model_predictions``, which is called after each epoch, to fill ``self.pred_table``. The ground
    truth is stored once: take its cells from ``self.data_table_ref``, and the predictions refer to them.

    Both methods may omit ``logs``, and the second may be named ``add_model_prediction``. To log at other times,
    override ``on_train_begin``, ``on_epoch_end`` or ``on_train_batch_end``.

    Args:
        data_table_columns: names of the columns of ``data_table``, each once.
        pred_table_columns: names of the columns of ``pred_table``, each once.

    Raises:
        InvalidInputError: if the columns are not a list of different names.
        wandb.Error: if `wandb.init` was not called.

    Examples:
        >>> import keras, numpy as np, wandb
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile(loss="mse")
        >>> x, y = np.zeros((8, 4)), np.zeros((8, 1))
        >>> from lamina.keras import WandbEvalCallback
        >>> class Predictions(WandbEvalCallback):
        ...     def __init__(self, x, y):
        ...         super().__init__(["idx", "input", "label"], ["epoch", "idx", "input", "label", "pred"])
        ...         self.x, self.y = x, y
        ...
        ...     def add_ground_truth(self, logs=None):
        ...         for idx, (input, label) in enumerate(zip(self.x, self.y)):
        ...             self.data_table.add_data(idx, str(input), float(label[0]))
        ...
        ...     def add_model_predictions(self, epoch, logs=None):
        ...         predicted = self.model.predict(self.x, verbose=0)
        ...         for idx in self.data_table_ref.get_index():
        ...             self.pred_table.add_data(epoch, *self.data_table_ref[idx], float(predicted[idx][0]))
        >>> with wandb.init(project="digits") as run:
        ...     history = model.fit(x, y, verbose=0, callbacks=[Predictions(x, y)])
    """

    data_table: Any
    pred_table: Any
    data_table_ref: DataTable

    def __init__(self, data_table_columns: list[str], pred_table_columns: list[str]) -> None:
        super().__init__()
        self.data_table_columns = _columns("data_table_columns", data_table_columns)
        self.pred_table_columns = _columns("pred_table_columns", pred_table_columns)
        run = active_run(type(self).__name__)
        mark_feature(run, "keras_wandb_eval_callback")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # wandb's documentation uses both names; a class may define either
        if "add_model_prediction" in cls.__dict__ and "add_model_predictions" not in cls.__dict__:
            cls.add_model_predictions = _plural  # type: ignore[method-assign]

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Log the ground truth."""
        self.init_data_table(column_names=self.data_table_columns)
        _call(self.add_ground_truth, logs)
        self.log_data_table()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Log the predictions of this epoch's model."""
        if is_replaying():
            return
        self.init_pred_table(column_names=self.pred_table_columns)
        _call(self.add_model_predictions, epoch, logs)
        self.log_pred_table()

    @abc.abstractmethod
    def add_ground_truth(self, logs: dict[str, Any] | None = None) -> None:
        """Fill ``self.data_table``: one ``add_data`` per example."""
        raise NotImplementedError(f"{type(self).__name__}.add_ground_truth")

    @abc.abstractmethod
    def add_model_predictions(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Fill ``self.pred_table``: one ``add_data`` per prediction."""
        raise NotImplementedError(f"{type(self).__name__}.add_model_predictions")

    def add_model_prediction(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Another name of ``add_model_predictions``, from wandb's documentation."""
        _call(self.add_model_predictions, epoch, logs)

    def init_data_table(self, column_names: list[str]) -> None:
        """Start an empty ``self.data_table``."""
        import wandb

        self.data_table = wandb.Table(columns=list(column_names), allow_mixed_types=True)

    def init_pred_table(self, column_names: list[str]) -> None:
        """Start an empty ``self.pred_table``."""
        import wandb

        self.pred_table = wandb.Table(columns=list(column_names))

    def log_data_table(self, name: str = "val", type: str = "dataset", table_name: str = "val_data") -> None:
        """Log ``self.data_table`` as an artifact that the run uses, and set ``self.data_table_ref``."""
        import wandb

        run = active_run(self.__class__.__name__)
        artifact = wandb.Artifact(name, type=type)
        self.data_table_ref = use_table(run, artifact, self.data_table, table_name)

    def log_pred_table(
        self, type: str = "evaluation", table_name: str = "eval_data", aliases: list[str] | None = None
    ) -> None:
        """Log ``self.pred_table`` as the next version of the artifact ``run_<id>_pred``."""
        import wandb

        run = active_run(self.__class__.__name__)
        if run.disabled:
            return
        from lamina.wandb.description import name_of_run

        artifact = wandb.Artifact(name_of_run(run, "pred"), type=type)
        add_table(artifact, self.pred_table, table_name, getattr(self, "data_table_ref", None))
        run.log_artifact(artifact, aliases=aliases or ["latest"])


def _plural(self: WandbEvalCallback, epoch: int, logs: dict[str, Any] | None = None) -> None:
    _call(self.add_model_prediction, epoch, logs)


def _call(method: Callable[..., None], *arguments: Any) -> None:
    """Call with as many arguments as the method takes: wandb's examples omit ``logs``."""
    signature = inspect.signature(method)
    for count in range(len(arguments), 0, -1):
        try:
            signature.bind(*arguments[:count])
        except TypeError:
            continue
        return method(*arguments[:count])
    return method()


def _columns(argument: str, value: object) -> list[str]:
    if not isinstance(value, list | tuple) or not all(type(name) in (str, int) for name in value):
        raise InvalidInputError(f"`{argument}` must be a list of column names. Received: {value!r}")
    if len(set(value)) < len(value):
        raise InvalidInputError(f"`{argument}` must name each column once. Received: {value!r}")
    return list(value)
