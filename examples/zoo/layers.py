"""Small models of the plain layers of Flax NNX, linen, Haiku and Equinox."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
from flax import linen, nnx

from examples.zoo.measure import Model, of_equinox, of_function, of_nnx

KEY = jax.random.key(0)
WIDTH, HIDDEN, HEADS = 8, 12, 2


def vectors(*shape: int) -> jax.Array:
    """Draw inputs."""
    return jax.random.normal(jax.random.key(1), shape)


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
        return self.head(self.rnn(x))


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


def haiku_attention(x: jax.Array, is_training: bool) -> jax.Array:
    """Compute a block of a transformer."""
    del is_training
    x = hk.Linear(WIDTH)(x)
    norm = lambda: hk.LayerNorm(-1, create_scale=True, create_offset=True)
    h = norm()(x)
    init = hk.initializers.VarianceScaling()
    x = x + hk.MultiHeadAttention(HEADS, WIDTH // HEADS, w_init=init)(h, h, h)
    x = x + hk.Linear(WIDTH)(jax.nn.gelu(hk.Linear(HIDDEN)(norm()(x))))
    return hk.Linear(3)(x)


def haiku_lstm(x: jax.Array, is_training: bool) -> jax.Array:
    """Compute a recurrent cell over a sequence."""
    del is_training
    core = hk.LSTM(WIDTH)
    out, _ = hk.dynamic_unroll(core, x, core.initial_state(x.shape[1]))
    return hk.Linear(3)(out)


def haiku_resnet(x: jax.Array, is_training: bool) -> jax.Array:
    """Compute Haiku's own residual network, at small widths."""
    net = hk.nets.ResNet(
        (1, 1, 1, 1), 3, bottleneck=False, channels_per_group=(8, 8, 16, 16)
    )
    return net(x, is_training)


class EqxAttention(eqx.Module):
    """A block of a transformer."""

    embed: eqx.nn.Linear
    norms: list[eqx.nn.LayerNorm]
    attention: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, key: jax.Array):
        keys = jax.random.split(key, 4)
        self.embed = eqx.nn.Linear(5, WIDTH, key=keys[0])
        self.norms = [eqx.nn.LayerNorm(WIDTH) for _ in range(2)]
        self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, key=keys[1])
        self.mlp = eqx.nn.MLP(WIDTH, WIDTH, HIDDEN, 1, key=keys[2])
        self.head = eqx.nn.Linear(WIDTH, 3, key=keys[3])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.vmap(self.embed)(x)
        h = jax.vmap(self.norms[0])(x)
        x = x + self.attention(h, h, h)
        x = x + jax.vmap(self.mlp)(jax.vmap(self.norms[1])(x))
        return jax.vmap(self.head)(x)


class EqxCNN(eqx.Module):
    """Convolutions under group normalization."""

    layers: eqx.nn.Sequential

    def __init__(self, key: jax.Array):
        keys = jax.random.split(key, 3)
        self.layers = eqx.nn.Sequential(
            [
                eqx.nn.Conv2d(3, WIDTH, 3, key=keys[0]),
                eqx.nn.GroupNorm(2, WIDTH),
                eqx.nn.Lambda(jax.nn.relu),
                eqx.nn.Conv2d(WIDTH, HIDDEN, 3, key=keys[1]),
                eqx.nn.Lambda(jax.nn.relu),
                eqx.nn.MaxPool2d(2, 2),
                eqx.nn.Lambda(jnp.ravel),
                eqx.nn.Linear(HIDDEN * 4, 3, key=keys[2]),
            ]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layers(x)


class EqxGRU(eqx.Module):
    """A recurrent cell over a sequence."""

    cell: eqx.nn.GRUCell
    head: eqx.nn.Linear

    def __init__(self, key: jax.Array):
        keys = jax.random.split(key)
        self.cell = eqx.nn.GRUCell(5, WIDTH, key=keys[0])
        self.head = eqx.nn.Linear(WIDTH, 3, key=keys[1])

    def __call__(self, x: jax.Array) -> jax.Array:
        step = lambda h, x: (self.cell(x, h),) * 2
        return jax.vmap(self.head)(jax.lax.scan(step, jnp.zeros(WIDTH), x)[1])


def nnx_model(make: Callable[..., nnx.Module], *shape: int) -> Model:
    """Return a module of NNX as a model."""
    return of_nnx(make(rngs=nnx.Rngs(0)), vectors(*shape))


def linen_model(module: linen.Module, *shape: int) -> Model:
    """Return a module of linen as a model."""
    x = vectors(*shape)
    variables = module.init(KEY, x)
    return of_function(module.apply, variables, x)


def haiku_model(forward: Callable[[jax.Array, bool], Any], *shape: int) -> Model:
    """Return a function of Haiku as a model; its statistics are among the params."""
    net, x = hk.without_apply_rng(hk.transform_with_state(forward)), vectors(*shape)
    params, state = net.init(KEY, x, True)
    fn = lambda p, x: net.apply(p["params"], p["state"], x, False)[0]
    return of_function(fn, {"params": params, "state": state}, x)


def equinox_model(make: Callable[[jax.Array], Any], *shape: int) -> Model:
    """Return a module of Equinox as a model."""
    return of_equinox(make(KEY), vectors(*shape))


LAYERS: dict[str, tuple[str, str, Callable[[], Model]]] = {
    "nnx_mlp": ("MLP", "NNX", lambda: nnx_model(NnxMLP, 4, 5)),
    "nnx_cnn": ("CNN", "NNX", lambda: nnx_model(NnxCNN, 2, 6, 6, 3)),
    "nnx_attention": ("transformer", "NNX", lambda: nnx_model(NnxAttention, 2, 4, 5)),
    "nnx_lstm": ("LSTM", "NNX", lambda: nnx_model(NnxLSTM, 2, 4, 5)),
    "linen_cnn": ("residual CNN", "linen", lambda: linen_model(LinenCNN(), 2, 6, 6, 3)),
    "linen_attention": (
        "transformer",
        "linen",
        lambda: linen_model(LinenAttention(), 2, 4, 5),
    ),
    "linen_gru": ("GRU", "linen", lambda: linen_model(LinenGRU(), 2, 4, 5)),
    "haiku_attention": (
        "transformer",
        "Haiku",
        lambda: haiku_model(haiku_attention, 2, 4, 5),
    ),
    "haiku_lstm": ("LSTM", "Haiku", lambda: haiku_model(haiku_lstm, 4, 2, 5)),
    "haiku_resnet": (
        "ResNet",
        "Haiku",
        lambda: haiku_model(haiku_resnet, 1, 32, 32, 3),
    ),
    "equinox_attention": (
        "transformer",
        "Equinox",
        lambda: equinox_model(EqxAttention, 4, 5),
    ),
    "equinox_cnn": ("CNN", "Equinox", lambda: equinox_model(EqxCNN, 3, 8, 8)),
    "equinox_gru": ("GRU", "Equinox", lambda: equinox_model(EqxGRU, 4, 5)),
}
"""By name: title, framework, and what makes the model."""
