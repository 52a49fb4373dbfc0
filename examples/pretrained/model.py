"""A Llama in Flax NNX: RMSNorm, rotary positions, grouped queries, SwiGLU.

All sizes are read off the weights, but for those of `Config` that no weight tells. So a
model of fewer heads, or of fewer gated units, is the same class with smaller weights.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

initial = nnx.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class Config:
    """The sizes of a Llama, in its usual terms."""

    vocabulary: int
    width: int  # of the residual stream
    layers: int
    groups: int  # heads of keys and of values
    queries: int  # heads of queries in each group
    size: int  # dimensions of a head
    hidden: int  # gated units of a layer
    rope_base: float
    epsilon: float  # of RMSNorm
    context: int  # tokens that it was trained on at once


class Attention(nnx.Module):
    """Causal attention: the queries of a group share its keys and values."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c, draw = config, lambda *shape: nnx.Param(initial(rngs.params(), shape))
        self.query = draw(c.width, c.groups, c.queries, c.size)
        self.key = draw(c.width, c.groups, c.size)
        self.value = draw(c.width, c.groups, c.size)
        self.out = draw(c.groups, c.queries, c.size, c.width)
        self.rope_base = c.rope_base
        self.scale = 1 / math.sqrt(c.size)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.einsum("bgqte,gqed->btd", self.heads(x), self.out[...])

    def heads(self, x: jax.Array) -> jax.Array:
        """Return what `out` multiplies: (batch, groups, queries, time, size)."""
        q = jnp.einsum("btd,dgqe->bgqte", x, self.query[...])
        k = jnp.einsum("btd,dge->bgte", x, self.key[...])
        v = jnp.einsum("btd,dge->bgte", x, self.value[...])
        q, k = rotated(q, self.rope_base), rotated(k, self.rope_base)
        scores = self.scale * jnp.einsum("bgqte,bgse->bgqts", q, k)
        past = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        weights = jax.nn.softmax(jnp.where(past, scores, -jnp.inf))
        return jnp.einsum("bgqts,bgse->bgqte", weights, v)


def rotated(x: jax.Array, base: float) -> jax.Array:
    """Turn the dimensions i and i + size/2 of (..., time, size) together.

    The angle is time * base^(-2i/size).
    """
    half = x.shape[-1] // 2
    rates = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = jnp.arange(x.shape[-2], dtype=jnp.float32)[:, None] * rates
    a, b = jnp.split(x, 2, axis=-1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


class GatedMLP(nnx.Module):
    """SwiGLU: every unit of `up` is multiplied by its gate."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c, draw = config, lambda *shape: nnx.Param(initial(rngs.params(), shape))
        self.gate = draw(c.width, c.hidden)
        self.up = draw(c.width, c.hidden)
        self.down = draw(c.hidden, c.width)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.units(x) @ self.down[...]

    def units(self, x: jax.Array) -> jax.Array:
        """Return what `down` multiplies: (batch, time, hidden)."""
        return nnx.silu(x @ self.gate[...]) * (x @ self.up[...])


class Block(nnx.Module):
    """Attention and a gated MLP, each normalized before and added after."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        norm = lambda: nnx.RMSNorm(config.width, epsilon=config.epsilon, rngs=rngs)
        self.norm1, self.norm2 = norm(), norm()
        self.attention = Attention(config, rngs=rngs)
        self.mlp = GatedMLP(config, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Llama(nnx.Module):
    """From token ids (batch, time) to logits (batch, time, vocabulary).

    The embedding is also the head.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        c = config
        self.embedding = nnx.Param(initial(rngs.params(), (c.vocabulary, c.width)))
        for i in range(c.layers):
            setattr(self, f"block{i}", Block(c, rngs=rngs))
        self.layers = c.layers
        self.norm = nnx.RMSNorm(c.width, epsilon=c.epsilon, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embedding[...][tokens]
        for i in range(self.layers):
            x = getattr(self, f"block{i}")(x)
        return self.norm(x) @ self.embedding[...].T


Fn = Callable[[Any, jax.Array], jax.Array]


def builder(config: Config) -> tuple[Callable[[Any], Llama], Any]:
    """Return what makes the model of a dictionary, and that dictionary as shapes."""
    model = nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))
    graph, state, rest = nnx.split(model, nnx.Param, ...)
    build = lambda params: nnx.merge(graph, nnx.State(params), rest)
    return build, nnx.to_pure_dict(state)


def function(config: Config) -> tuple[Fn, Any]:
    """Return the model as a function of a dictionary, and that dictionary as shapes."""
    build, shapes = builder(config)
    return lambda params, tokens: build(params)(tokens), shapes
