"""Small models of each kind that Keras saves differently; ``ZOO[kind]()`` builds one.

``SKIP`` has the kinds that this backend cannot make, and why.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

ZOO: dict[str, Callable[[], keras.Model]] = {}
SKIP: dict[str, str] = {}

_BACKEND = keras.backend.backend()
_register = keras.saving.register_keras_serializable(package="zoo")


def _kind(build: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
    ZOO[build.__name__] = build
    return build


def batch(model: keras.Model, rows: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets for training the model; the same at every call."""
    rng = np.random.default_rng(7)

    def like(tensor: Any) -> np.ndarray:
        shape = (rows, *tensor.shape[1:])
        if "int" in tensor.dtype:
            return rng.integers(0, 5, shape).astype(tensor.dtype)
        return rng.normal(size=shape).astype("float32")

    return like(model.inputs[0]), like(model.outputs[0])


def _trained(model: keras.Model, optimizer: Any, steps: int = 1) -> keras.Model:
    model.compile(optimizer, "mse", run_eagerly=True)
    for _ in range(steps):
        model.train_on_batch(*batch(model))
    return model


def _dense(dtype: str | None = None) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu", dtype=dtype),
            layers.Dense(16, dtype=dtype),
            layers.Dense(3, dtype=dtype),
        ]
    )


@_kind
def sequential() -> keras.Model:
    return _dense()


@_kind
def functional() -> keras.Model:
    inputs = keras.Input((6,))
    left, right = layers.Dense(5)(inputs), layers.Dense(5, activation="tanh")(inputs)
    return keras.Model(inputs, layers.Dense(2)(layers.Concatenate()([left, right])))


@_kind
def shared_layer() -> keras.Model:
    inputs = keras.Input((6,))
    shared = layers.Dense(6)
    return keras.Model(inputs, shared(shared(inputs)))


@_register
class Containers(keras.Model):
    """Layers in lists, in dicts, in lists of lists, and twice."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.blocks = [layers.Dense(6), [layers.Dense(6), (layers.Dense(6),)], layers.Dense(6)]
        self.heads = {"b": layers.Dense(6), "a": [layers.Dense(6)]}
        self.again = self.blocks[0]

    def call(self, x: Any) -> Any:
        x = self.blocks[1][1][0](self.blocks[1][0](self.blocks[0](x)))
        return self.heads["a"][0](self.heads["b"](self.blocks[2](x)))


@_kind
def subclassed() -> keras.Model:
    model = Containers()
    model(np.zeros((1, 6), "float32"))
    return model


@_kind
def nested() -> keras.Model:
    inputs = keras.Input((6,))
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(4), _functional_of(4)])
    return keras.Model(inputs, layers.Dense(2)(inner(inputs)))


def _functional_of(width: int) -> keras.Model:
    inputs = keras.Input((width,))
    return keras.Model(inputs, layers.Dense(width)(inputs))


@_kind
def compiled_only() -> keras.Model:
    model = _dense()
    model.compile("adam", "mse")
    return model


@_kind
def adam() -> keras.Model:
    return _trained(_dense(), "adam")


@_kind
def sgd_momentum() -> keras.Model:
    return _trained(_dense(), keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True))


@_kind
def adamw_ema() -> keras.Model:
    return _trained(_dense(), keras.optimizers.AdamW(0.01, use_ema=True, ema_overwrite_frequency=2), steps=2)


@_kind
def scheduled_nadam() -> keras.Model:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    return _trained(_dense(), keras.optimizers.Nadam(schedule))


@_register
class Duel(keras.Model):
    """Two optimizers, neither of them called ``optimizer``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.maker, self.critic = layers.Dense(6), layers.Dense(1)
        self.maker_optimizer, self.critic_optimizer = keras.optimizers.Adam(), keras.optimizers.RMSprop()

    def call(self, x: Any) -> Any:
        return self.critic(self.maker(x))


@_kind
def two_optimizers() -> keras.Model:
    model = Duel()
    model(np.zeros((1, 6), "float32"))
    model.maker_optimizer.build(model.maker.trainable_variables)
    model.critic_optimizer.build(model.critic.trainable_variables)
    return model


def _adapted() -> keras.Model:
    model = keras.Sequential(
        [keras.Input((5,), dtype="int32"), layers.Embedding(11, 6), layers.Flatten(), layers.Dense(6)]
    )
    for layer in (model.layers[0], model.layers[2]):
        layer.enable_lora(2)
        for variable in layer.trainable_variables:  # factors of zero would make the merge invisible
            variable.assign(np.random.default_rng(3).normal(size=variable.shape))
    return model


@_kind
def lora() -> keras.Model:
    return _adapted()


@_kind
def lora_adam() -> keras.Model:
    return _trained(_adapted(), "adam")


def _quantized(mode: str) -> keras.Model:
    model = keras.Sequential(
        [keras.Input((5,), dtype="int32"), layers.Embedding(11, 8), layers.Dense(16), layers.Dense(7)]
    )
    model.quantize(mode)
    return model


@_kind
def int8() -> keras.Model:
    return _quantized("int8")


@_kind
def int4() -> keras.Model:
    return _quantized("int4")


@_kind
def float8() -> keras.Model:
    model = _dense()
    model.quantize("float8")
    return model


@_kind
def mixed_bfloat16() -> keras.Model:
    return _trained(_dense("mixed_bfloat16"), "adam")


@_kind
def bfloat16() -> keras.Model:
    return _dense("bfloat16")


@_kind
def bfloat16_adam() -> keras.Model:
    return _trained(_dense("bfloat16"), "adam")


@_kind
def float16() -> keras.Model:
    return _dense("float16")


@_kind
def float64() -> keras.Model:
    return _dense("float64")


@_kind
def mixed_float16_adam() -> keras.Model:
    return _trained(_dense("mixed_float16"), keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()))


@_kind
def layers_150() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), *(layers.Dense(4) for _ in range(150))])


@_kind
def large() -> keras.Model:
    """Tensors larger than HDF5's buffers and larger than lamina's chunks."""
    return keras.Sequential([keras.Input((300,)), layers.Dense(1100), layers.Dense(7), layers.Dense(40)])


@_kind
def attention_lstm() -> keras.Model:
    inputs = keras.Input((5, 6))
    x = layers.MultiHeadAttention(2, 3)(inputs, inputs)
    x = layers.Bidirectional(layers.LSTM(4))(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(2)(x))


@_kind
def convolutions() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3),
            layers.DepthwiseConv2D(3),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2),
        ]
    )


@_kind
def batchnorm_dropout() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(2),
        ]
    )
    return _trained(model, "adam")


@_kind
def long_name() -> keras.Model:
    """A name that is too long for an HDF5 object header."""
    return keras.Sequential([keras.Input((6,)), layers.Dense(3, name="x" * 70_000), layers.Dense(2)])


@_register
class Worded(keras.Model):
    """A preprocessing layer that is saved but not called, because strings need TensorFlow."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.words = layers.TextVectorization(vocabulary=None, output_sequence_length=4)
        self.out = layers.Dense(3)

    def call(self, x: Any) -> Any:
        return self.out(x)


@_kind
def text_vectorization() -> keras.Model:
    model = Worded()
    model.words.adapt(["to be or not to be", "that is the question"])
    model(np.zeros((1, 6), "float32"))
    return model


@_register
class Weighted(keras.Model):
    """The only preprocessing layer with a weight in the file."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lookup = layers.StringLookup(output_mode="tf_idf")
        self.out = layers.Dense(3)

    def call(self, x: Any) -> Any:
        return self.out(x)


@_kind
def string_lookup_tf_idf() -> keras.Model:
    model = Weighted()
    model.lookup.adapt([["a", "b", "c"], ["a", "b", "z"]])
    model(np.zeros((1, 6), "float32"))
    return model


@_register
class Odd(layers.Layer):
    """Weights of unusual dtypes and shapes."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(), name="scale")
        self.empty = self.add_weight(shape=(0, 3), name="empty")
        self.mask = self.add_weight(shape=(5,), dtype="bool", initializer="zeros", trainable=False, name="mask")
        for dtype in ("int8", "uint8", "int16", "int32", "int64", "float16", "float64"):
            self.add_weight(shape=(3,), dtype=dtype, initializer="zeros", trainable=False, name=dtype)
        self.deep = self.add_weight(shape=(1, 2, 1, 3, 1, 2), name="deep")

    def call(self, x: Any) -> Any:
        return x * self.scale


@_kind
def odd_weights() -> keras.Model:
    return keras.Sequential([keras.Input((6,)), layers.Dense(3), Odd()])


@_register
class OwnStore(layers.Layer):
    """Saves values that are not variables, under its own keys."""

    def build(self, shape: Any) -> None:
        self.steps = 3
        self.w = self.add_weight(shape=(shape[-1], 4), name="w")

    def call(self, x: Any) -> Any:
        return x @ self.w

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        store["steps"] = self.steps
        store["rate"] = 0.5
        store["list"] = [1.0, 2.0, 3.0]
        store["sub/transposed"] = np.arange(12, dtype=">f4").reshape(3, 4).T
        store["flags"] = np.array([True, False])

    def load_own_variables(self, store: Any) -> None:
        self.steps = int(store["steps"][()])
        self.w.assign(store["0"])


@_kind
def own_store() -> keras.Model:
    return keras.Sequential([keras.Input((6,)), OwnStore(), layers.Dense(2)])


@_kind
def torch_module() -> keras.Model:
    import torch

    return keras.Sequential([keras.Input((6,)), layers.TorchModuleWrapper(torch.nn.Linear(6, 4)), layers.Dense(2)])


if importlib.util.find_spec("tensorflow") is None:
    SKIP["text_vectorization"] = "needs TensorFlow"
    SKIP["string_lookup_tf_idf"] = "needs TensorFlow"
if _BACKEND != "torch":
    SKIP["torch_module"] = "needs the torch backend"
try:
    layers.Dense(2, dtype=keras.dtype_policies.get("int4_from_float32"))
except ValueError:
    SKIP["int4"] = f"Keras {keras.__version__} has no int4"
