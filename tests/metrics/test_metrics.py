"""The metrics, against counts by hand, and inside jit and scan."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj
from rmda_jax import metrics

SPEC = rj.RegularizerMap([("*/kernel", rj.group_lasso(group_axes=-2))])


def params_with_zeros():
    """Input channel 1 of 3 is zero, and 1 more of the 6 kernels; 2 of 4 neurons."""
    conv = jnp.ones((2, 2, 3, 2)).at[:, :, 1].set(0).at[:, :, 0, 1].set(0)
    dense = jnp.ones((4, 5)).at[:2].set(0).at[3, 3].set(0)
    return {"conv": {"kernel": conv}, "fc": {"kernel": dense, "bias": jnp.zeros(5)}}


def test_sparsity_counts_entries():
    params = params_with_zeros()
    np.testing.assert_allclose(metrics.sparsity(params), (12 + 11 + 5) / 49, rtol=1e-6)
    expected = (12 + 11) / 44
    np.testing.assert_allclose(metrics.sparsity(params, SPEC), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        ("unweighted", (1 + 2) / (3 + 4)),
        ("size", (8 + 10) / (24 + 20)),
        ("kernel", (3 + 2) / (6 + 4)),
    ],
)
def test_group_sparsity_in_three_definitions(weighting, expected):
    actual = metrics.group_sparsity(params_with_zeros(), SPEC, weighting=weighting)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.not_daily
def test_group_totals_are_those_of_the_authors_networks():
    """LeNet-large: 1,321 groups, 2,320 by the authors' count; LeNet-small 611, 706."""
    shapes = {
        "large": [(5, 5, 1, 20), (5, 5, 20, 50), (800, 500), (500, 10)],
        "small": [(5, 5, 1, 6), (5, 5, 6, 16), (400, 120), (120, 84), (84, 10)],
    }
    totals = {"large": (1321, 2320), "small": (611, 706)}
    for size, kernels in shapes.items():
        # One group less than all is zero, so that the fraction tells the total.
        tree = [{"kernel": jnp.zeros(shape)} for shape in kernels]
        tree[-1]["kernel"] = tree[-1]["kernel"].at[0].set(1)
        for weighting, total in zip(
            ("unweighted", "kernel"), totals[size], strict=True
        ):
            sparsity = metrics.group_sparsity(tree, SPEC, weighting=weighting)
            assert round(1 / (1 - float(sparsity))) == total


def test_entries_beyond_float32_integers_are_counted_exactly():
    x = jnp.zeros((2**12, 2**12 + 1), jnp.bfloat16).at[0, 0].set(1)
    assert metrics.sparsity(x) == np.float32(1 - 1 / x.size)


def test_rank_is_counted_on_the_shrunk_singular_values():
    u, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (6, 4)))
    v, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (5, 4)))
    x = jnp.stack([(u * s) @ v.T for s in jnp.asarray([[9, 5, 2, 1], [3, 2, 1, 1.0]])])
    np.testing.assert_array_equal(
        metrics.rank(rj.nuclear_norm().prox_support(x, 2.5)), [2, 1]
    )
    shrunk = rj.nuclear_norm().prox(x, 2.5)
    np.testing.assert_array_equal(
        metrics.rank(rj.nuclear_norm().support(shrunk)), [2, 1]
    )


def test_support_distance_and_stability_in_a_scan():
    history = jnp.asarray([[1, 1, 1], [1, 0, 1], [1, 1, 0], [1, 1, 0], [1, 1, 0]], bool)

    def step(carry, current):
        since, index, previous = carry
        since = metrics.update_stable_since(previous, current, since, index)
        return (since, index + 1, current), metrics.support_distance(previous, current)

    start = (jnp.int32(0), jnp.int32(0), history[0])
    (since, _, _), distances = jax.jit(lambda h: jax.lax.scan(step, start, h))(history)
    assert since == 2
    np.testing.assert_array_equal(distances, [0, 1, 2, 0, 0])
    tree = {"a": history, "b": jnp.ones((5, 2), bool), "c": None}
    assert jax.jit(metrics.stable_since)(tree) == 2
    assert metrics.stable_since(history[2:]) == 0
    assert metrics.stable_since(history.at[4, 0].set(False)) == 4


def lasso_problem():
    """A quadratic with a known solution: rows of W* = prox(target)."""
    target = jnp.asarray([[3.0, 4.0], [0.3, 0.4], [-2.0, 0.0], [0.0, 0.1]])
    return target, rj.group_lasso(0, weighted=False), 1.0


def solve(n_steps):
    target, regularizer, strength = lasso_problem()
    tx = rj.rmda(0.5, regularizer, strength, averaging=1.0)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(params - target, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = jnp.ones_like(target)
    (params, state), _ = jax.lax.scan(step, (params, tx.init(params)), length=n_steps)
    return params, state


def test_stationarity_vanishes_at_the_solution_and_only_there():
    target, regularizer, strength = lasso_problem()
    solution = regularizer.prox(target, strength)
    distances = []
    for n_steps in (3, 30, 300, 3000):
        params, state = solve(n_steps)
        distances.append(float(metrics.stationarity(state, regularizer)))
    # The averaged gradient forgets the start like 1/t (measured: 7, 9, 10 times).
    for sooner, later in itertools.pairwise(distances):
        assert later < sooner / 5
    np.testing.assert_allclose(params, solution, atol=1e-3)


def test_margin_is_that_of_the_tightest_zero_group():
    _, regularizer, strength = lasso_problem()
    _, state = solve(3000)
    # At the solution the zero rows' gradients are -target: norms 0.5 and 0.1.
    margin = metrics.margin(state, regularizer)
    np.testing.assert_allclose(margin, 1 - 0.5 / strength, atol=1e-3)


def test_margin_is_infinite_without_zero_groups():
    tx = rj.rmda(0.1, rj.l1(), 0.0)
    params = jnp.ones(3)
    _, state = tx.update(params, tx.init(params), params)
    assert metrics.margin(state, rj.l1()) == jnp.inf


def test_structured_support_is_the_support_of_the_structured_iterate():
    _, state = solve(10)
    _, regularizer, _ = lasso_problem()
    structured = rj.structured_params(state, regularizer)
    expected = regularizer.support(structured)
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(rj.structured_support(state, regularizer), expected)


def test_metrics_run_under_jit():
    _, state = solve(10)
    _, regularizer, _ = lasso_problem()

    @jax.jit
    def measure(state):
        structured = rj.structured_params(state, regularizer)
        return (
            metrics.sparsity(structured),
            metrics.group_sparsity(structured, regularizer, weighting="size"),
            metrics.rank(rj.structured_support(state, regularizer)),
            metrics.stationarity(state, regularizer),
            metrics.margin(state, regularizer),
        )

    sparsity, groups, alive, distance, margin = measure(state)
    assert (float(groups), int(alive)) == (0.5, 2)
    assert sparsity == 4 / 8
    np.testing.assert_allclose(distance, metrics.stationarity(state, regularizer))
    assert 0 < margin < 1
