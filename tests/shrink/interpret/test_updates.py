"""Units of arrays that are written: caches, sums over segments, rows that are set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rmda_jax import shrink
from tests._x64 import float64
from tests.shrink.test_trace import normal

pytestmark = pytest.mark.costly

X = np.random.default_rng(0).normal(size=(5, 6))  # of NumPy: float64 where enabled
FROM, TO = np.array([[0, 1, 2, 0], [1, 2, 0, 2]], np.int32)  # edges of a graph


def cache(p, x):
    """Return the outputs of heads whose values go through a cache."""
    v = jnp.einsum("td,dke->tke", x, p["v"])
    rows = lax.dynamic_update_slice(jnp.zeros((8, *v.shape[1:])), v, (2, 0, 0))
    return jnp.einsum("ske,ked->sd", rows, p["o"])


def decoded(p, x):
    """Return the outputs of a loop that writes one row of a cache after the other."""

    def step(rows, i):
        row = lax.dynamic_slice_in_dim(x, i, 1) @ p["v"]
        rows = lax.dynamic_update_slice(rows, row, (i, 0))
        return rows, rows.sum(0) @ p["o"]

    start = jnp.zeros((len(x), p["v"].shape[1]))
    return lax.scan(step, start, jnp.arange(len(x)))[1]


def rows_set(p, x):
    v = x @ p["v"]
    return jnp.zeros((8, v.shape[1])).at[:5].set(v) @ p["o"]


def graph(p, x):
    """Return sums, means and extrema of the messages that nodes receive."""
    h = jax.nn.relu(x @ p["v"])
    sums, degrees = (
        jax.ops.segment_sum(y, TO, len(h)) for y in (h[FROM], jnp.ones((4, 1)))
    )
    most = jnp.zeros_like(h).at[TO].max(h[FROM])
    least = jnp.zeros_like(h).at[TO].min(-h[FROM])
    return (sums + sums / degrees.clip(1) + most - least) @ p["o"]


def table_gradient(p, x):
    """Return what one step of descent makes of an embedding that is a product."""
    rows = jnp.argsort(x[:, 0])
    loss = lambda table: jnp.sum(jnp.sin(table[rows]) ** 2)
    table = x @ p["v"]
    return (table - jax.grad(loss)(table)) @ p["o"]


def rows_of_each(p, x):
    """Return rows set at places of their own in every unit, and in none."""
    h, places = x @ p["v"], jnp.argsort(x[:2], axis=1)[:, 0]
    put = jax.vmap(lambda column: column.at[places].set(2 * column[:2]), 1, 1)
    scaled = h.at[TO[:2]].multiply(jnp.ones((2, h.shape[1])) * x[:2, :1])
    empty = jnp.zeros(h.shape)
    return (put(h) + empty.at[TO[:3]].set(scaled[:3])) @ p["o"]


FREE = {
    "cache": (cache, {"v": (6, 2, 4), "o": (2, 4, 3)}, [4, 2]),
    "decoded": (decoded, {"v": (6, 4), "o": (4, 3)}, [4]),
    "rows set": (rows_set, {"v": (6, 4), "o": (4, 3)}, [4]),
    "graph": (graph, {"v": (6, 4), "o": (4, 3)}, [4]),
    "gradient": (table_gradient, {"v": (6, 4), "o": (4, 3)}, [4]),
    "batch": (rows_of_each, {"v": (6, 4), "o": (4, 3)}, [4]),
}


@pytest.mark.parametrize("name", FREE)
def test_units_pass_through_what_is_written(name):
    fn, shapes, sizes = FREE[name]
    params = normal(shapes)
    assert [u.size for u in shrink.trace(fn, params, X).free] == sizes


def small_outputs(fn, params):
    """Return the small params, and the program after comparing its outputs."""
    plan = shrink.plan(fn, params, X, for_program=True)
    small, small_fn = shrink.apply(plan, params), shrink.program(plan, fn, params, X)
    wanted = jax.jit(fn)(params, X)
    error = np.abs(small_fn(small, X) - wanted).max()
    assert error <= 1e-12 * np.abs(wanted).max()
    return small, small_fn


@pytest.mark.parametrize("name", FREE)
def test_units_that_are_zero_or_that_nothing_reads_go(name):
    fn, shapes, _ = FREE[name]
    with float64():
        params = {n: jnp.asarray(x, float) for n, x in normal(shapes).items()}
        params["v"] = params["v"].at[..., 1].set(0)
        params["o"] = params["o"].at[..., 2, :].set(0)
        small, small_fn = small_outputs(fn, params)
    for leaf, axis in (("v", -1), ("o", -2)):
        kept = np.delete(params[leaf], [1, 2], axis)
        np.testing.assert_array_equal(small[leaf], kept)
    assert "0 at full size" in str(small_fn)


FROZEN = {
    "along units": (lambda h, x: h.at[:, 1].set(x[:, 0]), "scatter"),
    "some units": (lambda h, x: h.at[:, :2].add(x[:, :2]), "scatter-add"),
    "units of a slice": (
        lambda h, x: lax.dynamic_update_slice(h, x[:, :2], (0, 1)),
        "dynamic_update_slice",
    ),
    "places": (
        lambda h, x: jnp.zeros(9).at[jnp.arange(4)].add(h[0])[:1] + h,
        "scatter-add",
    ),
    "a cache that is an input": (
        lambda h, x: lax.dynamic_update_slice(x[:, :4], h[:2], (0, 0)),
        "an input",
    ),
    "rows of an input": (lambda h, x: x[:, :4].at[TO].add(h[FROM]), "an input"),
}


@pytest.mark.parametrize("name", FROZEN)
def test_units_that_are_mixed_by_what_is_written_stay(name):
    between, reason = FROZEN[name]
    fn = lambda p, x: between(x @ p["v"], x) @ p["o"]
    params = normal({"v": (6, 4), "o": (4, 3)})
    for units in shrink.trace(fn, params, X).find("v", 1):
        assert reason in units.frozen


def test_a_cache_that_is_an_input_says_so():
    def fn(p, x, rows):
        rows = lax.dynamic_update_slice(rows, x @ p["v"], (2, 0))
        return rows @ p["o"], rows

    params, rows = normal({"v": (6, 4), "o": (4, 3)}), jnp.zeros((8, 4))
    (units,) = shrink.trace(fn, params, X, rows).find("v", 1)
    assert units.frozen == {"an input", "an output"}


def test_units_along_which_a_cache_is_written_go_if_their_values_are_known():
    def fn(p, x):
        h = jnp.tanh(x @ p["v"])
        return (h.at[:, :2].add(x[:, :2]) * 2).at[:, 1].set(x[:, 0]) @ p["o"]

    with float64():
        params = normal({"v": (6, 4), "o": (4, 3)})
        params = {n: jnp.asarray(x, float) for n, x in params.items()}
        params["v"] = params["v"].at[:, 2:].set(0)
        small, small_fn = small_outputs(fn, params)
    assert small["v"].shape == (6, 2)
    assert "scatter-add at test_updates.py" in str(small_fn)
