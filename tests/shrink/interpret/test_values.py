"""Partial values against what is computed from several inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rmda_jax.shrink.interpret._values import ValueInterpreter, unknown
from tests.shrink.test_trace import normal

pytestmark = pytest.mark.costly


def ramp(*shape):
    """Return known numbers, with zeros among them."""
    return jnp.maximum(jnp.arange(float(np.prod(shape))) - 3, 0).reshape(shape)


# Function of what is known and what is not, and how many entries of it are known.
KNOWN = {
    "sums": (lambda k, x: k + 0 * x, 12),
    "products": (lambda k, x: k * x, 4),
    "quotients": (lambda k, x: k / (2 + x**2), 4),
    "contraction": (lambda k, x: k @ x.T, 3),
    "contraction of both": (lambda k, x: jnp.concatenate([k, x]) @ ramp(4, 2), 6),
    "choice": (lambda k, x: jnp.where(k > 2, k, x), 6),
    "choice by the input": (lambda k, x: jnp.where(x > 0, k, k[:1]), 4),
    "columns": (lambda k, x: jnp.concatenate([k, x], 1)[:, 2:6].T.reshape(2, 6), 6),
    "pieces": (lambda k, x: jnp.split(jnp.concatenate([k, x]), [2, 4])[0], 8),
    "reductions": (lambda k, x: jnp.stack([k, x]).sum(2), 3),
    "products along": (lambda k, x: jnp.concatenate([k, x]).cumsum(1), 12),
    "sorting": (lambda k, x: jnp.stack([jnp.sort(k), jnp.sort(x)]), 12),
    "sorting lines": (lambda k, x: jnp.sort(jnp.concatenate([k, x])), 12),
    "sorting by known keys": (lambda k, x: jnp.stack(lax.sort((k, x))), 12),
    "sorting by others": (lambda k, x: jnp.stack(lax.sort((x, k))), 0),
    "order of lines": (lambda k, x: jnp.argsort(jnp.concatenate([k, x])), 12),
    "largest of lines": (
        lambda k, x: jnp.stack(lax.top_k(jnp.concatenate([k, x]), 2)),
        12,
    ),
    "place that is known": (lambda k, x: jnp.concatenate([k, x])[jnp.array([2, 3])], 4),
    "place that is not": (lambda k, x: k[x[:, 0].astype(int) % 3], 0),
    "rows of a table": (
        lambda k, x: k.at[:, 2].set(5.0)[(x[:, 0] > 0).astype(int)],
        3,
    ),
    "row that is sliced": (
        lambda k, x: lax.dynamic_slice(
            k.at[:, 2].set(5.0), ((x[0, 0] > 0).astype(int), 0), (1, 4)
        ),
        1,
    ),
    "slice that is written": (
        lambda k, x: lax.dynamic_update_slice(k, x[:2, :3], (1, 1)),
        6,
    ),
    "slice written somewhere": (
        lambda k, x: lax.dynamic_update_slice(
            k, jnp.zeros((1, 4)) * x[:1], ((x[0, 0] > 0).astype(int), 0)
        ),
        4,
    ),
    "rows that are written": (lambda k, x: k.at[jnp.array([2, 0])].set(x[:2]), 4),
    "rows written twice": (lambda k, x: k.at[jnp.array([2, 2])].set(x[:2] * 0), 8),
    "rows that are out of bounds": (lambda k, x: k.at[jnp.array([5])].set(x[:1]), 12),
    "rows of clipped places": (
        lambda k, x: k.at[jnp.array([5])].set(x[:1], mode="clip"),
        8,
    ),
    "rows that are added": (lambda k, x: k.at[jnp.array([2, 2])].add(x[:2] * k[:2]), 8),
    "zeros added somewhere": (
        lambda k, x: k.at[(x[:, 0] > 0).astype(int)].add(x * (k[2] > 0) * 0),
        12,
    ),
    "columns added somewhere": (
        lambda k, x: k.at[(x[:, 0] > 0).astype(int)].add(x * jnp.array([0, 1, 0, 1])),
        6,
    ),
    "products somewhere": (
        lambda k, x: k.at[(x[:, 0] > 0).astype(int)].multiply(x),
        4,
    ),
    "maxima somewhere": (
        lambda k, x: k.at[(x[:, 0] > 0).astype(int)].max(0 * x),
        12,
    ),
    "minima somewhere": (
        lambda k, x: k.at[(x[:, 0] > 0).astype(int)].min(0 * x),
        4,
    ),
    "rows of a function": (
        lambda k, x: k.at[(x[:, 0] > 0).astype(int)].apply(jnp.sin),
        0,
    ),
    "rows of many": (
        lambda k, x: jax.vmap(lambda a, i, b: a.at[i].add(b))(
            k, (x > 0).astype(int), x * jnp.array([[0.0], [1], [0]])
        ),
        8,
    ),
    "border": (lambda k, x: jnp.pad(x, 1), 18),
    "pooling": (
        lambda k, x: lax.reduce_window(
            jnp.stack([k, x]), 0.0, lax.add, (1, 2, 2), (1, 1, 1), "VALID"
        ),
        6,
    ),
    "not finite": (lambda k, x: jnp.log(k), 8),
    "integers": (lambda k, x: k.astype(int) + jnp.arange(4), 12),
    "bits": (
        lambda k, x: lax.bitcast_convert_type(jnp.concatenate([k, x]), jnp.int32),
        12,
    ),
    "bits of pieces": (lambda k, x: lax.bitcast_convert_type(k * x, jnp.int16), 0),
    "loop": (lambda k, x: lax.fori_loop(0, 3, lambda i, h: h * x, k), 4),
    "loop that ends": (
        lambda k, x: lax.while_loop(
            lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * k), (0, k)
        )[1],
        5,
    ),
    "scan": (lambda k, x: lax.scan(lambda c, r: (c * r, c + 1), k[0], x)[1], 12),
    "branch": (lambda k, x: lax.cond(x.sum() > 0, lambda: k, lambda: 2 * k), 4),
    "call": (lambda k, x: jax.checkpoint(jax.nn.relu)(k) * jax.jit(jnp.tanh)(x), 4),
    "transform": (lambda k, x: jnp.fft.fft(k).real, 12),
}


@pytest.mark.parametrize("case", KNOWN)
def test_what_is_known_is_what_is_computed(case):
    fn, count = KNOWN[case]
    k, x = ramp(3, 4), normal({"x": (3, 4)})["x"]
    closed = jax.make_jaxpr(lambda x: fn(k, x))(x)
    (found,) = ValueInterpreter().eval_closed_jaxpr(closed, [unknown(x.shape, x.dtype)])
    assert (~found.unknown_mask).sum() == count
    for seed in range(1, 4):
        out = np.asarray(fn(k, normal({"x": (3, 4)}, seed)["x"]))
        np.testing.assert_allclose(
            found.value[~found.unknown_mask], out[~found.unknown_mask], rtol=1e-6
        )
