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
Cache = tuple[jax.Array, jax.Array]  # keys and values


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
        q, k, v = self.projected(x)
        q, k = rotated(q, self.rope_base), rotated(k, self.rope_base)
        past = jnp.tril(jnp.ones((q.shape[-2], k.shape[-2]), bool))
        return self.attended(q, k, v, past)

    def step(
        self, x: jax.Array, cache: Cache, start: jax.Array
    ) -> tuple[jax.Array, Cache]:
        """Attend from tokens that begin at ``start`` to these and to those before.

        Args:
          x: Shape (batch, time, width).
          cache: Keys and values of (batch, groups, context, size), with those of the
            tokens before ``start`` in their places.
          start: How many tokens there are before; int32.

        Returns:
          What ``__call__`` returns for these tokens, and the cache with their keys and
          values, too.
        """
        q, k, v = self.projected(x)
        q, k = (rotated(heads, self.rope_base, start) for heads in (q, k))
        put = jax.lax.dynamic_update_slice_in_dim
        keys, values = (
            put(old, new, start, axis=-2)
            for old, new in zip(cache, (k, v), strict=True)
        )
        times = start + jnp.arange(x.shape[1])
        past = jnp.arange(keys.shape[-2]) <= times[:, None]
        mixed = self.attended(q, keys, values, past)
        return jnp.einsum("bgqte,gqed->btd", mixed, self.out[...]), (keys, values)

    def projected(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return queries (batch, groups, queries, time, size), keys and values."""
        q = jnp.einsum("btd,dgqe->bgqte", x, self.query[...])
        k = jnp.einsum("btd,dge->bgte", x, self.key[...])
        v = jnp.einsum("btd,dge->bgte", x, self.value[...])
        return q, k, v

    def attended(
        self, q: jax.Array, k: jax.Array, v: jax.Array, past: jax.Array
    ) -> jax.Array:
        """Return what queries read; ``past`` says which keys each of them may see."""
        scores = self.scale * jnp.einsum("bgqte,bgse->bgqts", q, k)
        weights = jax.nn.softmax(jnp.where(past, scores, -jnp.inf))
        return jnp.einsum("bgqts,bgse->bgqte", weights, v)


def rotated(x: jax.Array, base: float, start: jax.Array | int = 0) -> jax.Array:
    """Turn the dimensions i and i + size/2 of (..., time, size) together.

    The angle is (start + time) * base^(-2i/size).
    """
    half = x.shape[-1] // 2
    rates = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    times = start + jnp.arange(x.shape[-2], dtype=jnp.float32)
    angles = times[:, None] * rates
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

    def step(
        self, x: jax.Array, cache: Cache, start: jax.Array
    ) -> tuple[jax.Array, Cache]:
        """Return what ``__call__`` does for further tokens; see `Attention.step`."""
        attended, cache = self.attention.step(self.norm1(x), cache, start)
        x = x + attended
        return x + self.mlp(self.norm2(x)), cache


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

    def step(
        self, tokens: jax.Array, caches: list[Cache], start: jax.Array
    ) -> tuple[jax.Array, list[Cache]]:
        """Return the logits of the last of further tokens, and the caches with them.

        Args:
          tokens: Ids of shape (batch, time).
          caches: One of every layer, as `empty_caches` makes them; see
            `Attention.step`.
          start: How many tokens there are before; int32.
        """
        x, after = self.embedding[...][tokens], []
        for i in range(self.layers):
            x, cache = getattr(self, f"block{i}").step(x, caches[i], start)
            after.append(cache)
        return self.norm(x[:, -1]) @ self.embedding[...].T, after


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


def stepper(config: Config) -> Callable[..., tuple[jax.Array, list[Cache]]]:
    """Return `Llama.step` as a function of a dictionary and what it takes."""
    build, _ = builder(config)
    return lambda params, *inputs: build(params).step(*inputs)


def empty_caches(params: dict[str, Any], batch: int, context: int) -> list[Cache]:
    """Return caches with room for the keys and values of so many tokens."""
    caches = []
    for i in range(len(params) - 2):
        _, groups, size = params[f"block{i}"]["attention"]["key"].shape
        shape = (batch, groups, context, size)
        caches.append((jnp.zeros(shape), jnp.zeros(shape)))
    return caches
