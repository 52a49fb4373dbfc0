"""The operations of a function, against XLA's count and against a count by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import rmda_jax as rj
from rmda_jax import shrink
from tests.shrink.test_costs import draw_alive, made, with_zeros
from tests.shrink.test_trace import BY_NAME, X, normal

pytestmark = pytest.mark.costly


def compiled_flops(fn, *args):
    found = jax.jit(fn).lower(*args).compile().cost_analysis()
    return (found[0] if isinstance(found, list) else found)["flops"]


def total_flops(fn, params, x):
    """Count the FLOPs of any function, with a unit that can go beside it."""
    both = lambda p, x: (fn(p["of"], x), (jnp.ones((1, 1)) @ p["a"]) @ p["c"])
    unit = {"a": jnp.ones((1, 2)), "c": jnp.ones((2, 1))}
    spec = rj.RegularizerMap([("c", rj.group_lasso(0))])
    costs = shrink.costs(both, {"of": params, **unit}, x, regularizer=spec)
    return costs.total("flops") - 2 * 2 - 2 * 2


BIG = {
    "mlp": ({"a": (64, 256), "b": (256,), "c": (256, 32)}, (32, 64)),
    "flattened": (
        {"conv": (5, 5, 3, 32), "bias": (32,), "dense": (2048, 9)},
        (8, 16, 16, 3),
    ),
    "depthwise": (
        {
            "expand": (1, 1, 32, 64),
            "depthwise": (3, 3, 1, 64),
            "project": (1, 1, 64, 32),
        },
        (4, 16, 16, 32),
    ),
    "attention": (
        {"q": (64, 4, 16), "k": (64, 4, 16), "v": (64, 4, 16), "out": (4, 16, 64)},
        (2, 32, 64),
    ),
}


@pytest.mark.parametrize("name", BIG)
def test_flops_are_those_of_the_compiler(name):
    fn, (shapes, of_x) = BY_NAME[name].fn, BIG[name]
    params, x = normal(shapes), jnp.ones(of_x)
    costs, rules = made(fn, params, x)
    alive = draw_alive(costs, rules, params, np.random.default_rng(0))
    pruned = with_zeros(rules, params, alive)
    small = shrink.apply(shrink.plan(fn, pruned, x), pruned)
    found = costs.total("flops"), costs.flops(costs.alive(alive)).item()
    expected = [compiled_flops(fn, p, x) for p in (params, small)]
    np.testing.assert_allclose(found, expected, rtol=0.02)


def test_a_product_with_the_matrices_of_experts_is_what_each_row_needs():
    fn = lambda p, x: lax.ragged_dot(x, p, jnp.array([1, 4]))
    assert total_flops(fn, jnp.ones((2, 4, 6)), jnp.ones((5, 4))) == 2 * 5 * 4 * 6


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "SAME"},
        {"padding": "VALID"},
        {"padding": "SAME", "window_strides": (2, 3)},
        {"padding": [(2, 1), (0, 3)], "rhs_dilation": (2, 1)},
        {"padding": [(2, 2), (3, 3)], "lhs_dilation": (2, 3)},
        {"padding": "SAME", "feature_group_count": 2},
    ],
)
def test_flops_of_convolutions_leave_out_padding(options):
    x, groups = jnp.ones((2, 9, 11, 4)), options.get("feature_group_count", 1)
    kernel = jnp.ones((3, 5, 4 // groups, 6))

    def fn(kernel, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        settings = {"window_strides": (1, 1), "dimension_numbers": numbers} | options
        return lax.conv_general_dilated(x, kernel, **settings)

    assert total_flops(fn, kernel, x) == compiled_flops(fn, kernel, x)


W = jnp.full((4, 4), 0.5)


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (lambda w, x: x @ w, 2 * 3 * 4 * 4),
        (lambda w, x: jnp.einsum("ij,kj->ik", x, w), 96),
        (lambda w, x: jnp.maximum(x, 1) - x, 2 * 3 * 4),
        (lambda w, x: jnp.exp(x), 0),
        (lambda w, x: x**5, 3 * 3 * 4),
        (lambda w, x: x.sum(), 3 * 4),
        (lambda w, x: x.T.reshape(2, 6), 0),
        (lambda w, x: lax.scan(lambda h, _: (h @ w, None), x, None, 7)[0], 7 * 96),
        (
            lambda w, x: lax.scan(
                lambda h, _: (
                    lax.scan(lambda h, _: (h @ w, None), h, None, 3)[0],
                    None,
                ),
                x,
                None,
                7,
            )[0],
            21 * 96,
        ),
        (lambda w, x: jax.jit(jnp.dot)(jax.jit(jnp.dot)(x, w), w), 2 * 96),
        (
            lambda w, x: lax.cond(
                jnp.array(True), lambda x: x @ w @ w, lambda x: x + 1, x
            ),
            2 * 96,
        ),
        (lambda w, x: jax.checkpoint(jnp.dot)(x, w), 96),
    ],
)
def test_flops_by_hand(fn, expected):
    assert total_flops(fn, W, X) == expected


def test_flops_of_a_while_loop_count_once():
    body = lambda w, x: lax.while_loop(lambda h: h[0, 0] < 5, lambda h: h @ w, x)
    # And the comparison.
    assert total_flops(body, W, X) == 96 + 1
