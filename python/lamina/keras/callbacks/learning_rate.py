"""The learning rate in force, read without disturbing training."""

from typing import Any

import keras


def learning_rate(callback: keras.callbacks.Callback) -> float | None:
    """The rate of the optimizer of the callback's model; None where the model has none.

    Schedules are evaluated at the optimizer's own step count, which is what training uses.
    """
    optimizer = _optimizer(callback)
    if optimizer is None:
        return None
    rate = _rate_between_steps(optimizer, callback._model)
    if rate is None:
        rate = callback.model.optimizer.learning_rate
    # the backend's own tensor makes a float in half the time that an array takes
    return float(rate.value if isinstance(rate, keras.Variable) else rate)


def _optimizer(callback: keras.callbacks.Callback) -> Any:
    # callback.model would copy the whole training state back into the model on JAX
    model = callback._model if keras.backend.backend() == "jax" else callback.model
    return getattr(model, "optimizer", None)


def _rate_between_steps(optimizer: Any, model: Any) -> Any:
    """On JAX within an epoch: the rate from the state that training carries, without a sync of the model.

    None: not in that situation, or Keras keeps its state otherwise than we know.
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
