"""`WandbMetricsLogger`: the metrics of training in the history of the W&B run, with their own x axes."""

from operator import index
from typing import Any, Literal

import keras

from lamina.errors import InvalidInputError
from lamina.keras.callbacks.active_run import active_run, mark_feature
from lamina.keras.resume_state import is_replaying, step_of

#: Keras 3.10 passes hooks the first batch of an execution, later releases the last.
_TELLS_FIRST = tuple(map(int, keras.__version__.split(".")[:2])) < (3, 11)


class WandbMetricsLogger(keras.callbacks.Callback):  # type: ignore[misc]
    """Log the metrics of ``fit`` and the learning rate to the active W&B run.

    At the end of an epoch, each entry of ``logs`` is logged as ``epoch/<name>``, with ``epoch/epoch`` as its x axis.
    With ``log_freq="batch"`` or a number of batches, it is also logged as ``batch/<name>``, with ``batch/batch_step``
    as its x axis: the last training step that the values cover, counted from 0 over all epochs. W&B logs the system
    metrics (CPU, GPU, TPU) by itself.

    Args:
        log_freq: ``"epoch"``, ``"batch"``, or an int N to log the first batch of each epoch and every N-th after it.
            With ``steps_per_execution``, the execution that contains such a batch is logged.
        initial_global_step: the number of training steps before this ``fit`` (steps per epoch × ``initial_epoch``),
            where ``batch/batch_step`` continues. Leave it at 0 with ``resume=True`` of a checkpoint callback: the
            snapshot has the number.

    Raises:
        InvalidInputError: if an argument is wrong.
        wandb.Error: if `wandb.init` was not called.

    Examples:
        >>> import keras, numpy as np, wandb
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile(loss="mse")
        >>> x, y = np.zeros((8, 4)), np.zeros((8, 1))
        >>> from lamina.keras import WandbMetricsLogger
        >>> with wandb.init(project="digits") as run:
        ...     history = model.fit(x, y, verbose=0, callbacks=[WandbMetricsLogger(log_freq="batch")])
    """

    def __init__(self, log_freq: Literal["epoch", "batch"] | int = "epoch", initial_global_step: int = 0) -> None:
        super().__init__()
        self.log_freq = _batches_between(log_freq)
        self._ahead = 0
        self.logging_batch_wise = self.log_freq is not None
        self.global_step = _step(initial_global_step)
        self._step_given = self.global_step > 0
        self._steps_before_epoch = self.global_step
        self._steps_in_epoch = 0
        self._begins = False
        self._run_of_axes: str | None = None
        run = active_run(type(self).__name__)
        mark_feature(run, "keras_metrics_logger")
        self._define_axes(run)

    @property
    def async_safe(self) -> bool:
        """Whether Keras may start the next batch without waiting for this callback."""
        hooks = ("on_train_batch_end", "on_batch_end")
        untouched = all(getattr(type(self), hook) is getattr(WandbMetricsLogger, hook) for hook in hooks)
        return untouched and not self.logging_batch_wise

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        run = active_run(type(self).__name__)
        if run.id != self._run_of_axes:
            self._define_axes(run)
        if _TELLS_FIRST:  # here, because in a batch hook `model` would sync the state from JAX
            self._ahead = (getattr(self.model, "steps_per_execution", None) or 1) - 1
        self._close_epoch()
        self._begins = True

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """If a checkpoint callback has resumed from a snapshot, continue its step count."""
        begins, self._begins = self._begins, False
        if begins and not self._step_given and (step := step_of(self._model)) is not None:
            self.global_step = self._steps_before_epoch = step

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Log the metrics of the epoch."""
        self._log("epoch", logs, "epoch", epoch)
        if self.async_safe:  # batch hooks may run in any order
            self._steps_in_epoch = (self.params or {}).get("steps") or self._steps_in_epoch
        self._close_epoch()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Log the metrics of the batch, if it is due."""
        self.on_batch_end(batch, logs)

    def on_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """An alias of ``on_train_batch_end``."""
        if self.log_freq is None:
            self._steps_in_epoch = self._last_taken(batch) + 1
            return
        if batch < self._steps_in_epoch:
            self._close_epoch()
        previous = self._steps_in_epoch - 1
        batch = self._last_taken(batch)
        self._steps_in_epoch = batch + 1
        self.global_step = self._steps_before_epoch + self._steps_in_epoch
        if batch // self.log_freq > previous // self.log_freq:
            self._log("batch", logs, "batch_step", self.global_step - 1)

    def _last_taken(self, batch: int) -> int:
        """The last batch that was trained: Keras counts whole executions, which may exceed the epoch."""
        batch += self._ahead
        steps = (self.params or {}).get("steps")
        return batch if steps is None else min(batch, steps - 1)

    def _close_epoch(self) -> None:
        self._steps_before_epoch += self._steps_in_epoch
        self._steps_in_epoch = 0
        self.global_step = self._steps_before_epoch

    def _define_axes(self, run: Any) -> None:
        for group, axis in (("epoch", "epoch"), ("batch", "batch_step")):
            if group == "epoch" or self.logging_batch_wise:
                run.define_metric(f"{group}/{axis}")
                run.define_metric(f"{group}/*", step_metric=f"{group}/{axis}")
        self._run_of_axes = run.id

    def _log(self, group: str, logs: dict[str, Any] | None, axis: str, position: int) -> None:
        if is_replaying():
            return
        row = {f"{group}/{name}": value for name, value in (logs or {}).items()}
        row[f"{group}/{axis}"] = position
        rate = self._get_lr()
        if rate is not None:
            row[f"{group}/learning_rate"] = rate
        active_run(type(self).__name__).log(row)

    def _get_lr(self) -> float | None:
        try:
            return learning_rate(self)
        except Exception as error:  # an unreadable learning rate must not end the training
            import wandb

            wandb.termwarn(f"Unable to log the learning rate: {error}", repeat=False)
            return None


def _batches_between(log_freq: object) -> int | None:
    """The number of batches between two rows; None if only epochs are logged."""
    if log_freq in ("epoch", "batch"):
        return None if log_freq == "epoch" else 1
    count = _integer(log_freq)
    if count is None or count < 1:
        raise InvalidInputError(
            f'`log_freq` must be "epoch", "batch" or a positive number of batches. Received: {log_freq!r}'
        )
    return count


def _step(initial_global_step: object) -> int:
    step = _integer(initial_global_step)
    if step is None or step < 0:
        raise InvalidInputError(f"`initial_global_step` must be an int of 0 or more. Received: {initial_global_step!r}")
    return step


def _integer(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return index(value)
    except TypeError:
        return None


def learning_rate(callback: keras.callbacks.Callback) -> float | None:
    """The learning rate of the callback's model; None if it has no optimizer.

    A schedule is evaluated at the optimizer's own step count, as training does.
    """
    optimizer = _optimizer(callback)
    if optimizer is None:
        return None
    rate = _rate_between_steps(optimizer, callback._model)
    if rate is None:
        rate = callback.model.optimizer.learning_rate
    # float() of the backend's tensor takes half the time of float() of an array
    return float(rate.value if isinstance(rate, keras.Variable) else rate)


def _optimizer(callback: keras.callbacks.Callback) -> Any:
    # on JAX `callback.model` would copy the whole training state back into the model
    model = callback._model if keras.backend.backend() == "jax" else callback.model
    return getattr(model, "optimizer", None)


def _rate_between_steps(optimizer: Any, model: Any) -> Any:
    """On JAX, within an epoch: the learning rate from the training state, without a sync of the model.

    None outside of an epoch, or if Keras stores its state in another way.
    """
    state = getattr(model, "_jax_state", None)
    if not state or getattr(model, "_jax_state_synced", True):
        return None
    values = dict(zip(map(id, optimizer.variables), state.get("optimizer_variables") or (), strict=False))
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    rate = getattr(inner, "_learning_rate", None)
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        step = values.get(id(inner._iterations))
        return None if step is None else rate(step)
    return values.get(id(rate))
