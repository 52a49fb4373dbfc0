"""Latency as a cost: the algebra, by a timer that knows what a program takes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj
from rmda_jax import shrink
from rmda_jax.shrink._arithmetic import entries
from rmda_jax.shrink._latency import N_FITTED, _fitted
from rmda_jax.shrink._lengths import Lengths, value_at
from rmda_jax.shrink._rule_units import generic_values
from rmda_jax.shrink._trace import traced
from tests.shrink.test_trace import BY_NAME, IDS, normal

pytestmark = pytest.mark.costly

X = jnp.asarray(np.random.default_rng(1).normal(size=(5, 7)), jnp.float32)
SHAPES = {"a": (7, 40), "b": (40, 30), "c": (30, 3)}
PARAMS = {name: jnp.ones(shape, jnp.float32) for name, shape in SHAPES.items()}


def mlp(p, x):
    return jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"]


RULES = shrink.group_rules(mlp, PARAMS, X)


def timed(seconds, **options):
    """Return the costs where ``seconds`` are those of some widths of `mlp`."""
    timer = lambda calls: np.array([[seconds(call.counts)] for call in calls])
    return shrink.latency(mlp, PARAMS, X, regularizer=RULES, timer=timer, **options)


def mlp_flops(counts):
    """Two for each weight and sample; a maximum for each hidden unit and sample."""
    a, b = counts
    return 5 * (2 * (7 * a + a * b + 3 * b) + a + b)


def linear(counts):
    return 1e-5 + 3e-9 * mlp_flops(counts)


def test_what_the_model_can_say_is_found():
    costs = timed(linear)
    assert [units.size for units in costs.units] == [40, 30]
    assert costs.latency_error < 1e-9
    assert costs.total("latency") == pytest.approx(linear((40, 30)), rel=1e-9)
    for counts in ((40, 30), (1, 30), (13, 7)):
        expected = linear(counts) / linear((40, 30))
        found = jax.jit(lambda n: costs.share("latency", n))(jnp.array(counts))
        assert float(found) == pytest.approx(expected, rel=1e-6)
    assert costs.least_share("latency") == pytest.approx(
        linear((1, 1)) / linear((40, 30)), rel=1e-6
    )
    assert "off by at most 0% at 3 widths that were not fitted" in str(costs)


def test_the_stated_error_is_that_at_widths_that_were_not_fitted():
    numbers = iter(range(100))

    def seconds(counts):
        return linear(counts) * (1 if next(numbers) < N_FITTED else 2)

    costs = timed(seconds)
    assert [x.fitted for x in costs.timings] == [True] * 6 + [False] * 3
    assert costs.latency_error == pytest.approx(0.5)
    assert "off by at most 50%" in str(costs)
    assert np.isnan(shrink.costs(mlp, PARAMS, X, regularizer=RULES).latency_error)


def test_a_program_that_is_timed_has_the_widths():
    values = [jnp.asarray(x) for x in generic_values(jax.tree.leaves(PARAMS))]

    def seconds(call):
        a, b = call.counts
        if (a, b) == (20, 15):
            small = {"a": values[0][:, :a], "b": values[1][:a, :b], "c": values[2][:b]}
            np.testing.assert_allclose(call()[0], mlp(small, X), rtol=1e-5)
        return linear(call.counts)

    timer = lambda calls: np.array([[seconds(call)] for call in calls])
    costs = shrink.latency(mlp, PARAMS, X, regularizer=RULES, timer=timer)
    assert costs.timings[1].counts == (20, 15)


def test_no_weight_is_negative():
    features = np.array([[1.0, 8.0], [1.0, 4.0], [1.0, 2.0]])
    # Less work takes longer: no multiple of it says so, and a constant comes nearest.
    weights = _fitted(features, np.array([1.0, 2.0, 4.0]))
    assert weights[1] == 0
    assert weights[0] == pytest.approx((1 + 1 / 2 + 1 / 4) / (1 + 1 / 4 + 1 / 16))
    np.testing.assert_allclose(_fitted(features, features @ [2, 3]), [2, 3])


def test_a_scan_reads_its_entries_as_often_as_it_runs():
    def looped(p, x, unroll):
        step = lambda h, w: (jnp.tanh(h @ w), None)
        if unroll:
            for w in p:
                x, _ = step(x, w)
            return x
        return jax.lax.scan(step, x, p)[0]

    params, x = jnp.ones((4, 6, 6)), jnp.ones((2, 6))
    found = []
    for unroll in (True, False):
        trace = traced(lambda p, x, u=unroll: looped(p, x, u), params, x)
        found.append(value_at(entries(trace.axes, Lengths({})), np.zeros(0)))
    slices = 4 * (4 * 36 + 36 + 36 + 36)  # of the unrolled loop: a slice and a reshape
    assert found == [found[1] + slices, 4 * (12 + 36 + 12 + 12 + 12)]


@pytest.mark.not_daily
@pytest.mark.parametrize("kept", [0.6, pytest.param(0.3, marks=pytest.mark.long)])
def test_a_budget_of_latency_ends_at_what_was_asked(kept):
    rng = np.random.default_rng(0)
    draw = lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    costs = timed(linear)
    tx = rj.proxsgd(0.1, RULES, rj.budget(latency=kept, costs=costs))
    params, grads = ({k: draw(v) for k, v in SHAPES.items()} for _ in range(2))
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    plan = shrink.plan(mlp, optax.apply_updates(params, updates), X)
    small = costs.counts_of(plan.cuts)
    # By half a unit of the second layer, at the most.
    one = linear((40, 30)) - linear((40, 29))
    assert linear(small) == pytest.approx(kept * linear((40, 30)), abs=one / 2)


def test_latencies_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"`kind` must be .*measured by `shrink.lat"):
        rj.budget(latency=0.5, costs=shrink.costs(mlp, PARAMS, X, regularizer=RULES))
    with pytest.raises(ValueError, match=r"needs `costs`, got None.*shrink.latency"):
        rj.budget(latency=0.5)
    constant = timed(lambda counts: 1e-3)
    with pytest.raises(ValueError, match=r"`latency` must be at least 1, got 0.5: so"):
        rj.budget(latency=0.5, costs=constant)
    with pytest.raises(ValueError, match="`timer` must return positive seconds, got"):
        timed(lambda counts: 0.0)
    shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
    with pytest.raises(TypeError, match=r"`inputs` must be arrays, .* Pass a batch"):
        _ = shrink.latency(mlp, PARAMS, shape, regularizer=RULES)


def test_a_timer_makes_every_call_in_every_round():
    made, now = [], [0.0]

    def call(i):
        made.append(i)
        now[0] += 10.0**i

    calls = [lambda i=i: call(i) for i in range(2)]
    seconds = shrink.by_turns(3, clock=lambda: now[0])(calls)
    np.testing.assert_array_equal(seconds, [[1.0] * 3, [10.0] * 3])
    assert made == [0, 0, 1, 1] * 3
    assert (shrink.by_turns(1)(calls) > 0).all()
    with pytest.raises(ValueError, match="`repeats` must be positive, got 0"):
        _ = shrink.by_turns(0)


@pytest.mark.long
@pytest.mark.parametrize("name", IDS)
def test_every_model_runs_at_half_its_widths(name):
    fn, shapes, x, _ = BY_NAME[name]
    params = normal(shapes)
    rules = shrink.group_rules(fn, params, x)
    if not rules.rules:
        pytest.skip("its units have no rule")

    def timer(calls):
        found = jax.block_until_ready(calls[1]())
        assert [y.shape for y in found] == shapes_of(jax.eval_shape(fn, params, x))
        return np.array([[1.0 + sum(call.counts)] for call in calls])

    costs = shrink.latency(fn, params, x, regularizer=rules, timer=timer)
    assert costs.total("latency") > 0


def shapes_of(tree):
    return [x.shape for x in jax.tree.leaves(tree)]
