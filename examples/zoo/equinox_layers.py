"""Small models of the plain layers of Equinox."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from examples.zoo.inputs import HEADS, HIDDEN, KEY, WIDTH, vectors
from examples.zoo.measure import Model, of_equinox


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
        def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            h = self.cell(x, h)
            return h, h

        _, states = jax.lax.scan(step, jnp.zeros(WIDTH), x)
        return jax.vmap(self.head)(states)


def equinox_model(make: Callable[[jax.Array], Any], *shape: int) -> Model:
    """Return a module of Equinox as a model."""
    return of_equinox(make(KEY), vectors(*shape))


MODELS: dict[str, Callable[[], Model]] = {
    "equinox_attention": lambda: equinox_model(EqxAttention, 4, 5),
    "equinox_cnn": lambda: equinox_model(EqxCNN, 3, 8, 8),
    "equinox_gru": lambda: equinox_model(EqxGRU, 4, 5),
}
