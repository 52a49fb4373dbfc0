"""Two small transformers in Flax NNX, whose sizes are those of their weights.

Attention reads the numbers of heads and of their dimensions off its kernels, and keeps
the scale of its scores as an attribute: a model of fewer heads, or of smaller ones, is
the same class with smaller weights, and computes the same function.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

glorot = nnx.initializers.glorot_uniform()


class Attention(nnx.Module):
    """Multi-head self-attention; rotary positions and a causal mask if asked for."""

    def __init__(
        self, width: int, heads: int, size: int, *, causal: bool, rngs: nnx.Rngs
    ):
        draw = lambda shape: nnx.Param(glorot(rngs.params(), shape))
        self.query = draw((width, heads, size))
        self.key = draw((width, heads, size))
        self.value = draw((width, heads, size))
        self.out = draw((heads, size, width))
        self.scale = 1 / math.sqrt(size)
        self.causal = causal

    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = (
            jnp.einsum("btd,dhe->bthe", x, p[...])
            for p in (self.query, self.key, self.value)
        )
        if self.causal:
            q, k = rotated(q), rotated(k)
        scores = self.scale * jnp.einsum("bthe,bshe->bhts", q, k)
        if self.causal:
            past = jnp.tril(jnp.ones(scores.shape[-2:], bool))
            scores = jnp.where(past, scores, -jnp.inf)
        weights = jax.nn.softmax(scores)
        return jnp.einsum("bhts,bshe,hed->btd", weights, v, self.out[...])


def rotated(x: jax.Array) -> jax.Array:
    """Turn every pair of head dimensions by an angle that grows with the position."""
    half = x.shape[-1] // 2
    rates = 1e4 ** (-jnp.arange(half) / half)
    angles = jnp.arange(x.shape[1])[:, None, None] * rates
    a, b = jnp.split(x, 2, axis=-1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


class MLP(nnx.Module):
    """Two dense layers."""

    def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs):
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(nnx.gelu(self.up(x), approximate=False))


class GatedMLP(nnx.Module):
    """SwiGLU: one dense layer gates the other, unit by unit."""

    def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs):
        self.gate = nnx.Linear(width, hidden, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(width, hidden, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(hidden, width, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(nnx.silu(self.gate(x)) * self.up(x))


class Block(nnx.Module):
    """Attention and an MLP, each normalized before and added after."""

    def __init__(
        self,
        width: int,
        heads: int,
        size: int,
        hidden: int,
        *,
        causal: bool,
        rngs: nnx.Rngs,
    ):
        norm, mlp = (nnx.RMSNorm, GatedMLP) if causal else (nnx.LayerNorm, MLP)
        self.norm1, self.norm2 = norm(width, rngs=rngs), norm(width, rngs=rngs)
        self.attention = Attention(width, heads, size, causal=causal, rngs=rngs)
        self.mlp = mlp(width, hidden, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nnx.Module):
    """Classifies 8x8 images by 16 patches of 2x2 pixels."""

    def __init__(
        self, width: int = 64, heads: int = 4, hidden: int = 128, *, rngs: nnx.Rngs
    ):
        self.patches = nnx.Conv(1, width, (2, 2), strides=2, padding="VALID", rngs=rngs)
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (16, width)))
        size = width // heads
        for i in range(2):
            block = Block(width, heads, size, hidden, causal=False, rngs=rngs)
            setattr(self, f"block{i}", block)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.patches(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1]) + self.positions[...]
        x = self.block1(self.block0(x))
        return self.head(self.norm(x).mean(axis=1))


class LanguageModel(nnx.Module):
    """Predicts the next of `vocabulary` characters; its embedding is also its head."""

    def __init__(
        self,
        vocabulary: int,
        width: int = 64,
        heads: int = 4,
        hidden: int = 256,
        *,
        rngs: nnx.Rngs,
    ):
        self.embedding = nnx.Embed(vocabulary, width, rngs=rngs)
        size = width // heads
        for i in range(2):
            block = Block(width, heads, size, hidden, causal=True, rngs=rngs)
            setattr(self, f"block{i}", block)
        self.norm = nnx.RMSNorm(width, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.block1(self.block0(self.embedding(tokens)))
        return self.embedding.attend(self.norm(x))
