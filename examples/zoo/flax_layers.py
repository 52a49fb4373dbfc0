"""Small models of the plain layers of Flax NNX and linen."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen, nnx

from examples.zoo.inputs import HEADS, HIDDEN, KEY, WIDTH, vectors
from examples.zoo.measure import Model, of_function, of_nnx


class NnxMLP(nnx.Module):
    """Dense layers, batch normalization and dropout."""

    def __init__(self, rngs: nnx.Rngs):
        self.up = nnx.Linear(5, HIDDEN, rngs=rngs)
        self.norm = nnx.BatchNorm(HIDDEN, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.down = nnx.Linear(HIDDEN, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(self.dropout(nnx.relu(self.norm(self.up(x)))))


class NnxCNN(nnx.Module):
    """Convolutions, also depthwise and transposed, under group normalization."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, WIDTH, (3, 3), rngs=rngs)
        self.norm = nnx.GroupNorm(WIDTH, num_groups=2, rngs=rngs)
        self.depthwise = nnx.Conv(
            WIDTH, WIDTH, (3, 3), feature_group_count=WIDTH, rngs=rngs
        )
        self.up = nnx.ConvTranspose(WIDTH, HIDDEN, (2, 2), strides=2, rngs=rngs)
        self.head = nnx.Linear(HIDDEN, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.stem(x)))
        x = nnx.relu(self.up(self.depthwise(x)))
        return self.head(x.mean(axis=(1, 2)))


class NnxAttention(nnx.Module):
    """A block of a transformer."""

    def __init__(self, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(WIDTH, use_fast_variance=False, rngs=rngs)
        self.embed = nnx.Linear(5, WIDTH, rngs=rngs)
        self.up = nnx.Linear(WIDTH, HIDDEN, rngs=rngs)
        self.down = nnx.Linear(HIDDEN, WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.embed(x)
        x = x + self.attention(self.norm1(x))
        x = x + self.down(nnx.gelu(self.up(self.norm2(x))))
        return self.head(x)


class NnxLSTM(nnx.Module):
    """A recurrent cell over a sequence."""

    def __init__(self, rngs: nnx.Rngs):
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(5, WIDTH, rngs=rngs))
        self.head = nnx.Linear(WIDTH, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        states: Any = self.rnn(x)  # a pair, if the last one is asked for
        return self.head(states)


class LinenCNN(linen.Module):
    """A residual network under batch normalization."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm = lambda x: linen.BatchNorm(use_running_average=True)(x)
        x = linen.relu(norm(linen.Conv(WIDTH, (3, 3))(x)))
        h = linen.relu(norm(linen.Conv(HIDDEN, (3, 3))(x)))
        x = linen.relu(x + norm(linen.Conv(WIDTH, (3, 3))(h)))
        x = linen.max_pool(x, (2, 2), (2, 2))
        return linen.Dense(3)(x.reshape(len(x), -1))


class LinenAttention(linen.Module):
    """A block of a transformer."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.Dense(WIDTH)(x)
        x = x + linen.MultiHeadDotProductAttention(HEADS)(linen.LayerNorm()(x))
        h = linen.gelu(linen.Dense(HIDDEN)(linen.RMSNorm()(x)))
        return linen.Dense(3)(x + linen.Dense(WIDTH)(h))


class LinenGRU(linen.Module):
    """A recurrent cell over a sequence."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.Dense(3)(linen.RNN(linen.GRUCell(WIDTH))(x))


def nnx_model(make: Callable[..., nnx.Module], *shape: int) -> Model:
    """Return a module of NNX as a model."""
    return of_nnx(make(rngs=nnx.Rngs(0)), vectors(*shape))


def linen_model(module: linen.Module, *shape: int) -> Model:
    """Return a module of linen as a model."""
    x = vectors(*shape)
    variables = module.init(KEY, x)
    return of_function(module.apply, variables, x)


MODELS: dict[str, Callable[[], Model]] = {
    "nnx_mlp": lambda: nnx_model(NnxMLP, 4, 5),
    "nnx_cnn": lambda: nnx_model(NnxCNN, 2, 6, 6, 3),
    "nnx_attention": lambda: nnx_model(NnxAttention, 2, 4, 5),
    "nnx_lstm": lambda: nnx_model(NnxLSTM, 2, 4, 5),
    "linen_cnn": lambda: linen_model(LinenCNN(), 2, 6, 6, 3),
    "linen_attention": lambda: linen_model(LinenAttention(), 2, 4, 5),
    "linen_gru": lambda: linen_model(LinenGRU(), 2, 4, 5),
}
