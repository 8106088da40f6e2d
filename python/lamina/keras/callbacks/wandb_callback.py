"""`WandbCallback`: metrics, best model, histograms, images, tables, graph and FLOPs."""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lamina.errors import InvalidInputError
from lamina.keras import arguments
from lamina.keras.callbacks.active_run import active_run, mark_feature
from lamina.keras.media import best_model
from lamina.keras.media.evaluation import PREDICTIONS, Evaluation
from lamina.keras.media.flops import count_flops
from lamina.keras.media.gradients import Gradients, batches_of
from lamina.keras.media.graph import model_graph
from lamina.keras.media.histograms import histograms, variable_name, weight_histograms
from lamina.keras.media.prediction_images import KINDS, PICTURES, PredictionImages, guess_kind
from lamina.keras.media.predictions import inputs_of, outputs_of, predict
from lamina.keras.media.validation_data import (
    Batches,
    check_source,
    concatenate,
    count,
    examples,
    is_arrays,
    slices,
    take,
)
from lamina.keras.resume_state import is_replaying
from lamina.keras.saving.filepath import check_model
from lamina.keras.schedule.direction import direction, named_direction, scalar, scalars

MOST_PREDICTIONS = 100


class WandbCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Log ``fit`` to the active W&B run::

        model.fit(x, y, validation_data=(x_val, y_val), callbacks=[WandbCallback()])

    Each epoch is a row of the history, with ``epoch`` and all metrics under their own names. The summary gets the
    best value of ``monitor`` as ``best_<monitor>``, and ``best_epoch``. The model of that epoch is saved as
    ``model-best.keras`` (or ``.weights.h5``) in the run's directory and logged as the artifact ``model-<run name>``.

    Args:
        monitor: the metric that decides which model is best.
        verbose: 1 prints when the metric has improved.
        mode: ``"min"``, ``"max"``, or ``"auto"`` to ask the metric, or to guess from its name.
        save_weights_only: save the weights instead of the model.
        log_weights: log histograms of the weights as ``parameters/<layer>.weights`` and ``.bias``.
        log_gradients: log histograms of the gradients of the loss over ``training_data`` as
            ``gradients/<variable>.gradient``.
        save_model: save and log the best model.
        training_data: (x, y), or a source of such batches, for ``log_gradients``. Of a generator, one batch is
            used per epoch; anything else is read whole.
        validation_data: (x, y), or a source of such batches, for images and evaluation tables.
        labels: names of the classes; for a single output ``["label for false", "label for true"]``.
        predictions: the number of examples shown as images per epoch, at most 100.
        generator: a source of (x, y) batches, one per epoch, instead of ``validation_data``.
        input_type: the kind of the inputs: ``"image"``, ``"images"``, ``"segmentation_mask"``, ``"label"``, or
            ``"auto"`` to guess from their shape. ``data_type`` is its old name.
        output_type: the kind of the outputs. None guesses from their shape if the inputs have a kind.
        log_evaluation: log the validation data as a table, and its predictions at the end of training.
        validation_steps: the number of batches of a generator that make up the validation data.
        class_colors: one (red, green, blue) per class, each from 0 to 1, for segmentation masks.
        log_batch_frequency: also log the metrics of every N-th batch.
        log_best_prefix: replaces ``best_`` in the summary; None logs no best value.
        save_graph: log the model's layers and connections to the summary as ``graph``.
        validation_indexes: rows of your own table, one per example, that the predictions refer to. The validation
            data is not logged then.
        validation_row_processor: a function of (index, row) that returns more columns for the validation data. The
            row has ``input`` and ``target``, or the names of the model's inputs and outputs.
        prediction_row_processor: the same for the predictions, which have ``output``. ``output_row_processor`` is
            another name of it.
        infer_missing_processors: guess processors that are not given from shapes and labels.
        log_evaluation_frequency: also log the predictions every N epochs; 0 logs them only at the end.
        compute_flops: log the operations of one forward pass to the summary as ``GFLOPs``; see ``get_flops``.

    Raises:
        InvalidInputError: if an argument is wrong.
        wandb.Error: if `wandb.init` was not called.

    Examples:
        >>> import keras, numpy as np, wandb
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile(loss="mse")
        >>> x, y = np.zeros((8, 4)), np.zeros((8, 1))
        >>> from lamina.keras import WandbCallback
        >>> with wandb.init(project="digits") as run:
        ...     history = model.fit(x, y, verbose=0, callbacks=[WandbCallback(monitor="loss", save_model=False)])
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        verbose: int = 0,
        mode: str = "auto",
        save_weights_only: bool = False,
        log_weights: bool = False,
        log_gradients: bool = False,
        save_model: bool = True,
        training_data: Any = None,
        validation_data: Any = None,
        labels: list[Any] | None = None,
        predictions: int = 36,
        generator: Any = None,
        input_type: str | None = None,
        output_type: str | None = None,
        log_evaluation: bool = False,
        validation_steps: int | None = None,
        class_colors: Any = None,
        log_batch_frequency: int | None = None,
        log_best_prefix: str | None = "best_",
        save_graph: bool = True,
        validation_indexes: list[Any] | None = None,
        validation_row_processor: Callable[..., Any] | None = None,
        prediction_row_processor: Callable[..., Any] | None = None,
        infer_missing_processors: bool = True,
        log_evaluation_frequency: int = 0,
        compute_flops: bool = False,
        *,
        data_type: str | None = None,
        output_row_processor: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__()
        self.monitor = arguments.text("monitor", monitor)
        self.mode = arguments.choice("mode", mode, ("auto", "min", "max"))
        self.verbose = arguments.integer("verbose", int(verbose) if isinstance(verbose, bool) else verbose, 0)
        self.save_weights_only = arguments.flag("save_weights_only", save_weights_only)
        self.save_model = arguments.flag("save_model", save_model)
        self.save_model_as_artifact = True
        self.save_graph = arguments.flag("save_graph", save_graph)
        self.compute_flops = arguments.flag("compute_flops", compute_flops)
        self.log_weights = arguments.flag("log_weights", log_weights)
        self.log_gradients = arguments.flag("log_gradients", log_gradients)
        self.log_evaluation = arguments.flag("log_evaluation", log_evaluation)
        self.log_batch_frequency = arguments.optional_integer("log_batch_frequency", log_batch_frequency, 1)
        if log_best_prefix is not None and not isinstance(log_best_prefix, str):
            raise arguments.refuse("log_best_prefix", "a string or None", log_best_prefix)
        self.log_best_prefix = log_best_prefix
        self._take_training_data(training_data)
        self._take_validation_data(validation_data, generator, validation_steps)
        self.labels = arguments.listing("labels", labels)
        self.predictions = min(arguments.integer("predictions", predictions, 1), MOST_PREDICTIONS)
        self.class_colors = arguments.colors("class_colors", class_colors)
        input_type = _one_of("input_type", input_type, "data_type", data_type)
        self.input_type = arguments.choice("input_type", input_type, (None, "auto", *KINDS))
        self.output_type = arguments.choice("output_type", output_type, (None, *KINDS))
        self._validation_indexes = None
        if validation_indexes is not None:
            self._validation_indexes = arguments.listing("validation_indexes", validation_indexes)
        self._validation_row_processor = arguments.processor("validation_row_processor", validation_row_processor)
        self._prediction_row_processor = arguments.processor(
            "prediction_row_processor",
            _one_of(
                "prediction_row_processor",
                prediction_row_processor,
                "output_row_processor",
                output_row_processor,
            ),
        )
        self._infer_missing_processors = arguments.flag("infer_missing_processors", infer_missing_processors)
        self._log_evaluation_frequency = arguments.integer("log_evaluation_frequency", log_evaluation_frequency, 0)
        self._sample = np.random.default_rng(0)  # of our own: examples must not change the user's random numbers
        self._images: PredictionImages | None = None
        self._evaluation: Evaluation | None = None
        self._gradients: Gradients | None = None
        self._model_trained_since_last_eval = False
        self._described = False
        self._steps_in_epoch = 0
        run = active_run(type(self).__name__)
        mark_feature(run, "keras")
        suffix = "weights.h5" if self.save_weights_only else "keras"
        self.filepath = str(Path(run.dir) / f"model-best.{suffix}")
        self.current: float | None = None
        auto = self.mode == "auto"
        self._set_direction(named_direction(self.monitor) if auto else self.mode)
        self._direction_known = not auto
        self._take_previous_best(run)

    def _take_training_data(self, data: Any) -> None:
        self.training_data = data
        self._training_batches: Batches | None = None
        if data is None:
            if self.log_gradients:
                raise InvalidInputError("`training_data` is needed for `log_gradients`. Received: None")
            return
        check_source("training_data", data)
        if is_arrays(data) and len(data) != 2:
            raise InvalidInputError(f"`training_data` must be a tuple of two, (x, y). Received: {len(data)}")
        if not is_arrays(data):
            self._training_batches = Batches(data)

    def _take_validation_data(self, data: Any, generator: Any, steps: Any) -> None:
        self.validation_steps = arguments.optional_integer("validation_steps", steps, 1)
        self.validation_data = None
        if data is not None:
            check_source("validation_data", data)
            if is_arrays(data):
                self.validation_data = data
            else:
                generator = data if generator is None else generator
        if generator is not None:
            check_source("generator", generator)
            if is_arrays(generator):
                raise arguments.refuse("generator", "a source of (x, y) batches", type(generator).__name__)
        self.generator = generator
        self._batches = None if generator is None else Batches(generator)

    def _set_direction(self, direction: str) -> None:
        self.monitor_op = operator.gt if direction == "max" else operator.lt
        self.best = -inf if direction == "max" else inf

    def _take_previous_best(self, run: Any) -> None:
        """Continue a resumed run with its best value."""
        previous = run.summary.get(f"{self.log_best_prefix}{self.monitor}") if self.log_best_prefix else None
        if isinstance(previous, int | float):
            self.best = float(previous)

    # --- what Keras calls -------------------------------------------------------------------------

    @property
    def async_safe(self) -> bool:
        """Whether Keras may start the next batch without waiting for this callback."""
        hooks = ("on_train_batch_end", "on_batch_end", "on_test_batch_end", "on_predict_batch_end")
        untouched = all(getattr(type(self), hook, None) is getattr(WandbCallback, hook, None) for hook in hooks)
        return untouched and self.log_batch_frequency is None

    def set_params(self, params: Any) -> None:
        """Take the parameters of ``fit``."""
        self.params = params

    def set_model(self, model: Any) -> None:
        """Take the model; guess the kinds of inputs and outputs if it has shapes."""
        check_model(model, type(self).__name__)
        if model is not self._model:
            self._gradients = None
            self._described = False
        super().set_model(model)
        inputs, outputs = inputs_of(model), outputs_of(model)
        if self.input_type == "auto" and len(inputs) == 1:
            self.input_type = guess_kind(inputs[0].shape, risky=True)
        if self.input_type not in (None, "auto") and self.output_type is None and len(outputs) == 1:
            self.output_type = guess_kind(outputs[0].shape)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Log the graph, the FLOPs and the validation data."""
        self._steps_in_epoch = 0
        if self.model.built:
            self._describe()
        if self.log_evaluation:
            with _warning("the validation data is not logged"):
                self._begin_evaluation()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Log the metrics of the batch, if it is due."""
        self.on_batch_end(batch, logs)

    def on_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """An alias of ``on_train_batch_end``."""
        if self.log_batch_frequency is None:
            return
        previous = self._steps_in_epoch - 1 if batch >= self._steps_in_epoch else -1
        self._steps_in_epoch = batch + 1
        # one execution may cover several batches
        if batch // self.log_batch_frequency > previous // self.log_batch_frequency:
            self._run().log(dict(logs or {}))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Log a row to the history; save the model if it is the best so far."""
        self._steps_in_epoch = 0
        self._model_trained_since_last_eval = True
        logs = logs or {}
        if not self._described:
            self._describe()
        if not is_replaying():
            self._run().log(self._row(epoch) | {"epoch": epoch} | logs)
        self._keep_best(epoch, logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Log the predictions of the trained model, unless the last epoch has logged them."""
        if self._model_trained_since_last_eval and (row := self._evaluate()):
            self._run().log(row)

    # --- parts ------------------------------------------------------------------------------------

    def _row(self, epoch: int) -> dict[str, Any]:
        """What the row of an epoch has besides its metrics."""
        row: dict[str, Any] = {}
        if self.log_weights:
            with _warning("the weights are not logged"):
                row |= weight_histograms(self.model)
        if self.log_gradients:
            with _warning("the gradients are not logged"):
                row |= self._gradient_histograms()
        with _warning("the predictions are not shown"):
            row |= self._examples()
        if self._log_evaluation_frequency and epoch % self._log_evaluation_frequency == 0:
            row |= self._evaluate()
        return row

    def _run(self) -> Any:
        return active_run(type(self).__name__)

    def _describe(self) -> None:
        """Log once what needs a built model."""
        self._described = True
        if self.save_graph:
            with _warning("the graph is not logged"):
                self._run().summary["graph"] = model_graph(self.model)
        if self.compute_flops:
            with _warning("FLOPs are not computed"):
                self._run().summary["GFLOPs"] = self.get_flops()

    def get_flops(self) -> float:
        """GFLOPs of one forward pass in inference, for one example; a multiply-add counts as two operations.

        Works for Sequential and functional models, with TensorFlow's profiler, XLA's cost analysis or torch's
        counter. The legacy callback counted a multiply-add as one operation, which halves the number.

        Raises:
            wandb.Error: if the callback has no model yet.
        """
        if self._model is None:
            import wandb

            raise wandb.Error("self.model must be set before using this method.")
        return count_flops(self.model) / 1e9

    def _gradient_histograms(self) -> dict[str, Any]:
        if self._gradients is None:
            self._gradients = Gradients(self.model)
        if self._training_batches is None:
            batches = slices(self.training_data)
        elif self._training_batches.once:
            batches = iter([self._training_batches.next()])
        else:
            batches = (examples(batch) for batch in self._training_batches.all())
        pairs = self._gradients.over(batches_of(batches))
        named = [(f"gradients/{variable_name(self.model, variable)}.gradient", value) for variable, value in pairs]
        return histograms(named)

    def _examples(self) -> dict[str, Any]:
        """Images of some examples, if the inputs or outputs are pictures."""
        if not ({self.input_type, self.output_type} & {"auto", *PICTURES}):
            return {}
        if self._batches is not None:
            self.validation_data = self._batches.next()
        if self.validation_data is None:
            _warn("no images: pass `validation_data` or `generator` to the callback")
            return {}
        x, y = examples(self.validation_data)
        total = count(x)
        if total > self.predictions:
            chosen = self._sample.choice(total, self.predictions, replace=False)
            x, y = take(x, chosen), None if y is None else take(y, chosen)
        images = self._make_images(x, y, predict(self.model, x))
        return {"examples": images} if images else {}

    def _make_images(self, *data: Any) -> list[Any]:
        """Images of (x, y, predictions); of several inputs, targets or outputs, the first."""
        shown: list[Any] = [None if part is None else keras.tree.flatten(part)[0] for part in data]
        if self._images is None:
            if self.input_type == "auto":  # the model has no shapes
                self.input_type = guess_kind(shown[0].shape, risky=True)
            if self.output_type is None and self.input_type is not None:
                self.output_type = guess_kind(shown[2].shape)
            self._images = PredictionImages(self.input_type, self.output_type, self.labels, self.class_colors)
        return self._images.make(*shown)

    def _begin_evaluation(self) -> None:
        data = self.validation_data
        if data is None and self._batches is not None:
            if self.validation_steps is None and not self._batches.finite:
                _warn("no evaluation tables: a generator needs `validation_steps`")
                return
            data = concatenate(self._batches.all(self.validation_steps))
        if data is None:
            _warn("no evaluation tables: pass `validation_data` or `generator` to the callback")
            return
        x, y = examples(data)
        self._evaluation = Evaluation(
            self._run(),
            self.model,
            x,
            y,
            indexes=self._validation_indexes,
            validation_processor=self._validation_row_processor,
            prediction_processor=self._prediction_row_processor,
            infer=self._infer_missing_processors,
            labels=self.labels,
        )

    def _evaluate(self) -> dict[str, Any]:
        if self._evaluation is None:
            return {}
        with _warning("the predictions are not logged"):
            table = self._evaluation.table(self.model)
            self._model_trained_since_last_eval = False
            return {PREDICTIONS: table}
        return {}

    def _keep_best(self, epoch: int, logs: dict[str, Any]) -> None:
        self._ask_the_metric()
        self.current = scalar(logs.get(self.monitor))
        if self.current is None:
            if self.save_model:
                _warn(f"no best model: `{self.monitor}` is not among {', '.join(logs) or 'no metrics'}")
            return
        if not self.monitor_op(self.current, self.best):
            return
        run = self._run()
        if self.log_best_prefix:
            run.summary[f"{self.log_best_prefix}{self.monitor}"] = self.current
            run.summary[f"{self.log_best_prefix}epoch"] = epoch
        if self.verbose:
            self._tell(epoch)
        if self.save_model:
            self._save(run, epoch, logs)
        self.best = self.current

    def _ask_the_metric(self) -> None:
        """With ``mode="auto"``, ask the metric which way is better; it knows only after its first use."""
        if self._direction_known:
            return
        self._direction_known = True
        best = self.best
        self._set_direction(direction(self.model, self.monitor))
        if best not in (inf, -inf):
            self.best = best

    def _tell(self, epoch: int) -> None:
        import wandb

        saving = f", saving model to {self.filepath}" if self.save_model else ""
        wandb.termlog(f"Epoch {epoch:05d}: {self.monitor} improved from {self.best:.5f} to {self.current:.5f}{saving}")

    def _save(self, run: Any, epoch: int, logs: dict[str, Any]) -> None:
        if run.disabled:
            return
        path = Path(self.filepath)
        best_model.save(self.model, path, self.save_weights_only)
        if self.save_model_as_artifact:
            metadata = best_model.metadata(epoch, self.monitor, self.current, scalars(logs))
            best_model.log(run, path, epoch, metadata)


def _one_of(name: str, value: Any, other_name: str, other: Any) -> Any:
    """The value of an argument that has two names."""
    if value is not None and other is not None and value != other:
        raise InvalidInputError(f"`{name}` and `{other_name}` are two names of one argument: pass one")
    return other if value is None else value


@contextmanager
def _warning(consequence: str) -> Iterator[None]:
    """Turn an error into a warning that names its consequence: a failed chart must not end the training."""
    try:
        yield
    except Exception as error:
        _warn(f"{consequence}: {type(error).__name__}: {error}")


def _warn(message: str) -> None:
    import wandb

    wandb.termwarn(f"WandbCallback: {message}", repeat=False)
