"""Units beside an axis along which entries are sorted, accumulated or picked."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rmda_jax import shrink
from tests._x64 import float64
from tests.shrink.interpret.test_updates import X, small_outputs
from tests.shrink.test_trace import normal


def grown(h):
    """Return what a loop makes of its carry."""
    body = lambda carry: (carry[0] + 1, carry[1] + jnp.tanh(jnp.roll(carry[1], 1, 0)))
    return lax.while_loop(lambda c: c[0] < 4, body, (0, h))[1]


ALONG = {
    "cumsum": jnp.cumsum,
    "cumprod": jnp.cumprod,
    "cummax": lax.cummax,
    "cummin": lax.cummin,
    "cumlogsumexp": lambda h, axis: lax.cumlogsumexp(h, axis) * h,
    "sort": jnp.sort,
    "top_k": lambda h, axis: lax.top_k(h.swapaxes(axis, 1), 4)[0].swapaxes(axis, 1),
}


BESIDE = {
    "accumulated": lambda h: sum(fn(h, axis=0) for fn in list(ALONG.values())[:-1]),
    "top_k": lambda h: ALONG["top_k"](h, 0) * lax.top_k(h.T, 4)[1].T,
    "while": grown,
}


@pytest.mark.parametrize("name", BESIDE)
def test_units_beside_the_axis_go(name):
    fn = lambda p, x: BESIDE[name](x @ p["v"]) @ p["o"]
    with float64():
        params = {
            n: jnp.asarray(x, float)
            for n, x in normal({"v": (6, 4), "o": (4, 3)}).items()
        }
        params["v"] = params["v"].at[:, 1].set(0)
        params["o"] = params["o"].at[2].set(0)
        small, small_fn = small_outputs(fn, params)
    np.testing.assert_array_equal(small["v"], np.delete(params["v"], [1, 2], 1))
    np.testing.assert_array_equal(small["o"], np.delete(params["o"], [1, 2], 0))
    assert "0 at full size" in str(small_fn)


@pytest.mark.parametrize("name", ALONG)
def test_units_along_the_axis_stay(name):
    fn = lambda p, x: ALONG[name](x @ p["v"], axis=1) @ p["o"]
    params = normal({"v": (6, 4), "o": (4, 3)})
    for leaf, axis in (("v", 1), ("o", 0)):
        (units,) = shrink.trace(fn, params, X).find(leaf, axis)
        assert units.frozen == {name}


def test_a_loop_whose_end_depends_on_all_units_keeps_them():
    def fn(p, x):
        go_on = lambda h: jnp.abs(h).max() < 3
        return lax.while_loop(go_on, lambda h: h * 1.5, x @ p["v"]) @ p["o"]

    params = normal({"v": (6, 4), "o": (4, 3)})
    (units,) = shrink.trace(fn, params, X).find("v", 1)
    assert units.frozen == {"reduce_max"}
    params["o"] = params["o"].at[2].set(0)
    plan = shrink.plan(fn, params, X, for_program=True)
    assert plan.widths["v"] == (6, 4)
    assert "not known to reduce_max" in str(plan)
