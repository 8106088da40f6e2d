"""Counts the floating-point operations of one forward pass with the backend's own counter.

A multiply-add counts as two operations; the batch has one example; the mode is inference. TensorFlow's profiler and
XLA's cost analysis also count biases and activations, torch's counter only matrix products and convolutions. For dense
and convolutional layers they differ by a few percent. TensorFlow's profiler misses batched matrix products (attention).
"""

from typing import Any

import keras

from lamina.errors import InvalidInputError


def count_flops(model: Any) -> float:
    """The operations of a Sequential or functional model for one example."""
    inputs = _one_example(model)
    count = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[keras.backend.backend()]
    return count(model, inputs)


def _one_example(model: Any) -> Any:
    """A batch of one example of zeros, in the structure of the model's inputs."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"FLOPs can be counted for a keras.Model. Received: {model!r}")
    if not isinstance(model, keras.Sequential) and not hasattr(model, "_inputs_struct"):
        raise TypeError(
            "FLOPs can be counted for Sequential and functional models: others do not list their inputs. "
            f"Received: {type(model).__name__}"
        )
    if not model.built:
        raise InvalidInputError(f"FLOPs need the input shape: build {model.name!r} or train it first")
    structure = model.inputs if isinstance(model, keras.Sequential) else model._inputs_struct
    example = keras.tree.map_structure(_zeros, structure)
    return example[0] if isinstance(model, keras.Sequential) else example


def _zeros(tensor: Any) -> Any:
    shape = (1, *tensor.shape[1:])
    if None in shape:
        raise InvalidInputError(f"FLOPs need fixed input shapes. Received: {tensor.shape} of input {tensor.name!r}")
    return keras.ops.zeros(shape, dtype=tensor.dtype)


def _tensorflow(model: Any, inputs: Any) -> float:
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2_as_graph

    specs = tf.nest.map_structure(lambda value: tf.TensorSpec(value.shape, value.dtype), inputs)
    forward = tf.function(lambda values: model(values, training=False)).get_concrete_function(specs)
    frozen, _ = convert_variables_to_constants_v2_as_graph(forward)  # inlines functions that layers have compiled
    options = tf.compat.v1.profiler.ProfileOptionBuilder
    counted = tf.compat.v1.profiler.profile(
        graph=frozen.graph,
        cmd="scope",
        options=options(options.float_operation()).with_empty_output().build(),
    )
    return float(counted.total_float_ops)


def _jax(model: Any, inputs: Any) -> float:
    import jax

    def forward(trainable: Any, other: Any, values: Any) -> Any:
        return model.stateless_call(trainable, other, values, training=False)[0]

    lowered = jax.jit(forward).lower(
        [variable.value for variable in model.trainable_variables],
        [variable.value for variable in model.non_trainable_variables],
        inputs,
    )
    cost = lowered.cost_analysis()
    if isinstance(cost, list):  # jax before 0.4.31: one analysis per computation
        cost = cost[0]
    return float(cost["flops"])


def _torch(model: Any, inputs: Any) -> float:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(inputs, training=False)
    return float(counter.get_total_flops())
