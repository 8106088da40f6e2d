"""Gradients of the loss over given data, without any effect on training."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

Batch = tuple[Any, Any, Any]


class Gradients:
    """The gradient of a model's loss, averaged over all examples of the data.

    Layers run in training mode. What that changes (moving averages, seeds, metrics) is restored.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        backend = keras.backend.backend()
        make = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[backend]
        self._of_batch: Callable[[Batch], list[Any]] = make(model)

    def over(self, batches: Iterable[Batch]) -> list[tuple[Any, Any]]:
        """(trainable variable, gradient) pairs, without variables that the loss does not depend on."""
        variables = self._model.trainable_variables
        sums: list[Any] = [None] * len(variables)
        examples = 0
        with _state_kept(self._model):
            for batch in batches:
                size = len(keras.tree.flatten(batch[0])[0])
                examples += size
                for i, gradient in enumerate(self._of_batch(batch)):
                    if gradient is not None:
                        weighted = np.asarray(gradient, dtype="float32") * size
                        sums[i] = weighted if sums[i] is None else sums[i] + weighted
        pairs = zip(variables, sums, strict=True)
        return [(variable, total / examples) for variable, total in pairs if total is not None]


class _state_kept:  # noqa: N801 (a context manager, used as a function)
    """Restores the variables that a forward pass in training mode changes."""

    def __init__(self, model: Any) -> None:
        self._variables = [*model.non_trainable_variables, *model.metrics_variables]

    def __enter__(self) -> None:
        self._values = [keras.ops.convert_to_numpy(variable.value).copy() for variable in self._variables]

    def __exit__(self, *exception: object) -> None:
        for variable, value in zip(self._variables, self._values, strict=True):
            variable.assign(value)


def _tensorflow(model: Any) -> Callable[[Batch], list[Any]]:
    import tensorflow as tf

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def compute(x: Any, y: Any, weight: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = _loss(model, x, y, weight)
        found = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
        return [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in found]

    return lambda batch: [None if item is None else item.numpy() for item in compute(*batch)]


def _torch(model: Any) -> Callable[[Batch], list[Any]]:
    import torch

    def compute(batch: Batch) -> list[Any]:
        with torch.enable_grad():
            loss = _loss(model, *keras.tree.map_structure(_tensor, batch))
            values = [variable.value for variable in model.trainable_variables]
            found = torch.autograd.grad(loss, values, allow_unused=True)
        return [None if item is None else item.detach().float().cpu().numpy() for item in found]

    return compute


def _tensor(value: Any) -> Any:
    return None if value is None else keras.ops.convert_to_tensor(value)


def _loss(model: Any, x: Any, y: Any, weight: Any) -> Any:
    arguments = {"training": True} if model._call_has_training_arg else {}
    predicted = model(x, **arguments)
    return model._compute_loss(x=x, y=y, y_pred=predicted, sample_weight=weight, training=True)


def _jax(model: Any) -> Callable[[Batch], list[Any]]:
    import jax

    def unscaled(trainable: Any, other: Any, metrics: Any, optimizer: Any, batch: Batch) -> Any:
        x, y, weight = batch
        _, aux = model.compute_loss_and_updates(
            trainable, other, metrics, x, y, weight, training=True, optimizer_variables=optimizer
        )
        return aux[0]

    gradient = jax.jit(jax.grad(unscaled))

    def compute(batch: Batch) -> list[Any]:
        optimizer = model.optimizer.variables if model.optimizer is not None else []
        groups = (
            model.trainable_variables,
            model.non_trainable_variables,
            model.metrics_variables,
            optimizer,
        )
        found = gradient(*([variable.value for variable in group] for group in groups), batch)
        return [np.asarray(item) for item in found]

    return compute


def batches_of(source: Iterable[Any]) -> Iterator[Batch]:
    """Batches as ``fit`` reads them: (x, y) or (x, y, sample weights)."""
    for batch in source:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
        yield x, y, weight
