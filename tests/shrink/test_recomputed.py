"""Values that follow at removed places: units under norms that subtract the mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rmda_jax import shrink
from rmda_jax.shrink._trace import traced
from tests._x64 import float64
from tests.shrink.test_program import check, drawn, normal

pytestmark = pytest.mark.costly

DEAD = np.array([1, 4])  # units, of six


@pytest.fixture(autouse=True)
def _float64():
    with float64():
        yield


def zeros(params, **places):
    """Set to zero the entries at some positions along an axis, leaf by leaf."""
    params = {name: np.array(x) for name, x in params.items()}
    for name, (axis, positions) in places.items():
        np.moveaxis(params[name], axis, 0)[positions] = 0
    return jax.tree.map(jnp.asarray, params)


def by_variance(x):
    mean, variance = (f(x, -1, keepdims=True) for f in (jnp.mean, jnp.var))
    return (x - mean) * lax.rsqrt(variance + 1e-6)


def by_squares(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)


def by_deviations(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / (jnp.abs(centred).mean(-1, keepdims=True) + 1e-6)


NORMS = [by_variance, by_squares, by_deviations]
STREAM = {"in": (4, 6), "gain": (6,), "up": (6, 5), "down": (5, 6), "out": (6, 3)}


def stream(normalized):
    def fn(p, x):
        h = x @ p["in"]
        h = h + jax.nn.relu(normalized(h) * p["gain"] @ p["up"]) @ p["down"]
        return normalized(h) @ p["out"]

    return fn


@pytest.mark.parametrize("normalized", NORMS)
def test_the_width_of_a_stream_goes_under_a_norm_that_subtracts_the_mean(normalized):
    params = zeros(
        drawn(STREAM), **{"in": (1, DEAD)}, down=(1, DEAD), up=(0, DEAD), out=(0, DEAD)
    )
    fn, x = stream(normalized), normal(7, 4)
    small_fn, small = check(fn, params, x, other=x[:2])
    assert small["down"].shape == (5, 4)
    # The sums of squares run at full size, and none else does.
    assert {x.primitive for x in small_fn.report() if x.whole} == {"reduce_sum"}


def test_a_unit_that_is_not_known_before_the_mean_stays():
    params = zeros(drawn(STREAM), down=(1, DEAD), up=(0, DEAD), out=(0, DEAD))
    plan = shrink.plan(stream(by_variance), params, normal(7, 4), for_program=True)
    assert plan.widths == plan.shapes
    assert "not known to reduce_sum" in str(plan)


def test_what_is_subtracted_may_not_differ_from_unit_to_unit():
    def fn(p, x):
        centred = x @ p["in"] - x @ p["other"]
        return (centred**2).sum(-1, keepdims=True) * p["out"]

    params = drawn({"in": (4, 6), "other": (4, 6), "out": (3,)})
    params = zeros(params, **{"in": (1, DEAD)})
    plan = shrink.plan(fn, params, normal(7, 4), for_program=True)
    assert plan.widths == plan.shapes


def test_channels_go_within_the_groups_of_a_normalization():
    def fn(p, x):
        h = (x @ p["in"]).reshape(len(x), 2, 3)
        h = by_variance(h).reshape(len(x), 6)
        return jax.nn.relu(h) @ p["out"]

    params = drawn({"in": (4, 6), "out": (6, 3)})
    params = zeros(params, **{"in": (1, DEAD)}, out=(0, DEAD))
    _, small = check(fn, params, normal(7, 4), other=normal(2, 4))
    assert small["in"].shape == (4, 4)


def test_a_norm_in_a_loop_is_computed_anew_in_the_loop():
    def fn(p, x):
        def layer(h, up_and_down):
            up, down = up_and_down
            return h + jnp.tanh(by_squares(h) @ up) @ down, None

        h, _ = lax.scan(layer, x @ p["in"], (p["up"], p["down"]))
        return h @ p["out"]

    shapes = {"in": (4, 6), "up": (2, 6, 5), "down": (2, 5, 6), "out": (6, 3)}
    params = zeros(
        drawn(shapes), **{"in": (1, DEAD)}, up=(1, DEAD), down=(2, DEAD), out=(0, DEAD)
    )
    _, small = check(fn, params, normal(7, 4), other=normal(2, 4))
    assert small["up"].shape == (2, 4, 5)


def test_a_norm_after_another_and_constants_before_it():
    # The removed units are one constant, which the bias of the layer before gives.
    def fn(p, x):
        h = jnp.tanh(x @ p["in"] + p["bias"])
        return by_squares(h) @ p["out"]

    params = drawn({"in": (4, 6), "bias": (6,), "out": (6, 3)})
    params = zeros(params, **{"in": (1, DEAD)}, out=(0, DEAD))
    small_fn, small = check(fn, params, normal(7, 4), other=normal(2, 4))
    assert small["in"].shape == (4, 4)
    assert not any(x.fixed for x in small_fn.report())


# Experts: (batch, experts, hidden), each with a weight of the router.
EXPERTS = {"router": (4, 6), "up": (6, 4, 5), "down": (6, 5, 3)}


def outputs(p, x):
    hidden = jax.nn.relu(jnp.einsum("bd,edh->beh", x, p["up"]))
    return jnp.einsum("beh,eho->beo", hidden, p["down"])


def all_experts(p, x):
    return jnp.einsum("be,beo->bo", jax.nn.softmax(x @ p["router"]), outputs(p, x))


def best_experts(p, x):
    found, which = lax.top_k(x @ p["router"], 2)
    chosen = jnp.take_along_axis(outputs(p, x), which[:, :, None], axis=1)
    return (jax.nn.softmax(found)[:, :, None] * chosen).sum(1)


def test_experts_go_whose_logits_and_outputs_are_zero():
    params = zeros(drawn(EXPERTS), router=(1, DEAD), down=(0, DEAD))
    small_fn, small = check(all_experts, params, normal(7, 4), other=normal(2, 4))
    assert small["router"].shape == (4, 4)
    assert {x.primitive for x in small_fn.report() if x.whole} == {
        "reduce_max",
        "reduce_sum",
    }


def test_an_expert_that_the_softmax_shares_with_others_stays():
    # Its probability is taken from the others', though it puts out zeros.
    params = zeros(drawn(EXPERTS), down=(0, DEAD))
    plan = shrink.plan(all_experts, params, normal(7, 4), for_program=True)
    assert plan.widths == plan.shapes
    assert "not known to reduce_max" in str(plan)


def test_the_router_keeps_its_columns_where_the_best_experts_are_taken():
    params = zeros(drawn(EXPERTS), down=(0, DEAD))
    _, small = check(best_experts, params, normal(7, 4), other=normal(2, 4))
    assert small["router"].shape == (4, 6)
    assert small["up"].shape == (4, 4, 5)


def test_units_inside_of_experts_go():
    params = zeros(drawn(EXPERTS), down=(1, [1]))
    _, small = check(all_experts, params, normal(7, 4))
    assert small["up"].shape == (6, 4, 4)


def test_the_equations_are_found_and_no_others():
    params = drawn(STREAM)
    fn = lambda p, x: by_squares(x @ p["in"]) @ p["out"]
    found = traced(fn, params, normal(7, 4), for_program=True)
    (anew,) = found.axes.recomputed.values()
    names = [found.axes.eqns[path].eqn.primitive.name for path in anew.eqns]
    assert names == ["sub", "integer_pow"]
    assert [number for _, number in anew.reads] == [0]
