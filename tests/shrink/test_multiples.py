"""Widths that fit the tiles of the hardware: `plan(..., multiple_of=...)`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmda_jax import shrink
from tests._x64 import float64

pytestmark = pytest.mark.costly

X = np.random.default_rng(1).normal(size=(5, 6))


def mlp(p, x):
    return jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"]


def attention(p, x):
    q, k, v = (jnp.einsum("td,dhe->the", x, p[name]) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("the,she->hts", q, k))
    return jnp.einsum("hts,she->the", weights, v).reshape(len(x), -1) @ p["o"]


def joined(p, x):
    h = jnp.concatenate([x @ p["a"], x @ p["b"]], axis=-1)
    return h @ p["c"]


def of_shapes(**shapes):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def layers():
    """5 of 20 units are read, and 11 of 30 behind them."""
    params = of_shapes(a=(6, 20), b=(20, 30), c=(30, 3))
    params["b"][5:] = params["c"][11:] = 0
    return params


def heads(n_kept, n_dims):
    """Of 8 heads with 6 dimensions these are read."""
    params = of_shapes(q=(6, 8, 6), k=(6, 8, 6), v=(6, 8, 6), o=(48, 6))
    by_head = params["o"].reshape(8, 6, 6)
    by_head[n_kept:] = by_head[:, n_dims:] = 0
    return params


def parts():
    params = of_shapes(a=(6, 12), b=(6, 20), c=(32, 3))
    params["c"][3:12] = params["c"][17:] = 0
    return params


@pytest.mark.parametrize(
    ("fn", "params", "multiple_of", "widths"),
    [
        (mlp, layers(), 1, {"a": (6, 5), "c": (11, 3)}),
        (mlp, layers(), 8, {"a": (6, 8), "c": (16, 3)}),
        # No multiple of 16 of 20 units is enough for 17: they stay whole.
        (mlp, layers(), 32, {"a": (6, 20), "c": (30, 3)}),
        (mlp, layers(), {"c": 8, "*": 1}, {"a": (6, 5), "c": (16, 3)}),
        # Two heads of four dimensions, and eight of three.
        (attention, heads(1, 4), {"o": 8}, {"o": (8, 6), "v": (6, 2, 4)}),
        (attention, heads(7, 3), {"o": 8}, {"o": (24, 6), "v": (6, 8, 3)}),
        (joined, parts(), {"c": 4}, {"a": (6, 4), "b": (6, 8), "c": (12, 3)}),
    ],
)
def test_widths_are_multiples_and_the_function_is_the_same(
    fn, params, multiple_of, widths
):
    with float64():
        params, x = jax.tree.map(jnp.asarray, params), jnp.asarray(X)
        options = {"for_program": True, "multiple_of": multiple_of}
        plan = shrink.plan(fn, params, x, **options)
        assert {name: plan.widths[name] for name in widths} == widths
        small = shrink.program(plan, fn, params, x)
        np.testing.assert_allclose(
            small(shrink.apply(plan, params), x), fn(params, x), rtol=0, atol=1e-12
        )


def test_what_stays_for_a_width_is_counted():
    plan = shrink.plan(mlp, layers(), X, multiple_of=8)
    assert plan.cuts[1].reasons == (
        "5 read by b",
        "3 kept for the width to be a multiple",
    )


@pytest.mark.parametrize(
    ("multiple_of", "error", "message"),
    [
        (0, ValueError, "`multiple_of` must be at least 1, got 0"),
        (1.5, TypeError, "`multiple_of` must be an integer, got 1.5"),
        ({"a": 8, "q/*": 8}, ValueError, "has the pattern 'q/*', which matches no"),
    ],
)
def test_bad_multiples(multiple_of, error, message):
    with pytest.raises(error) as raised:
        _ = shrink.plan(mlp, layers(), X, multiple_of=multiple_of)
    assert message in str(raised.value)
