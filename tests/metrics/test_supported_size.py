"""Which size do the data support? On gaps by hand, and where the truth is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj
from examples.identification.methods import AVERAGING, milestones
from examples.identification.problem import N_EXAMPLES, NOISE, make_problem
from rmda_jax import metrics

GROUPS = rj.group_lasso(0, weighted=False)
SEEDS, STEPS, BATCH, RATE = 4, 1500, 16, 0.1


def at(rows, strength, regularizer=GROUPS):
    """Return what is found where the centre has rows of these norms, at step 1."""
    tx = rj.rmda(1.0, regularizer, strength)

    @jax.jit
    def find(params):
        _, state = tx.update(jnp.zeros_like(params), tx.init(params), params)
        return metrics.supported_size(state, regularizer)

    return find(jnp.asarray(rows)[:, None])


def test_gaps_are_those_by_hand():
    found = at([0.5, 9.0, 1.2, 5.0, 1.1, 1.3, 1.05, 0.8], 1.0)
    assert (found.kept, found.supported) == (6, 2)
    np.testing.assert_allclose(
        found.multiples, [9, 5, 1.3, 1.2, 1.1, 1.05, 0.8, 0.5], rtol=1e-6
    )
    np.testing.assert_allclose(found.edge_gap, 1.05 / 0.8, rtol=1e-6)
    gap = (5 - 1) / (1.3 - 1)
    np.testing.assert_allclose(found.gap, gap, rtol=1e-5)
    np.testing.assert_allclose(found.chance, 6 * gap**-4, rtol=1e-4)


def test_text_is_a_sentence():
    assert str(at([9.0, 5.0, 1.3, 1.2, 1.1, 1.05, 0.8], 1.0)) == (
        "6 units are kept, the data support 2: the gap between unit 2 and the next is "
        "13.3, the gap at the edge, 6 to 7, is 1.31"
    )
    assert str(at([4.0, 3.0, 2.0, 0.5], 1.0)) == (
        "3 units are kept, nothing says that fewer would do: the gap at the edge, 3 to "
        "4, is 4"
    )


@pytest.mark.parametrize(
    ("rows", "strength"),
    [
        ([9.0, 8.0, 7.0, 1.001, 0.5], 1.0),  # one unit may lie anywhere
        ([5.0, 4.0, 3.0, 2.0, 0.9], 1.0),  # evenly above the strength
        ([9.0, 8.0, 7.0, *[3.5] * 9], 1.0),  # below the least that counts
        ([9.0, 8.0, 0.1, 0.1, 0.1, 0.1, 0.1], 0.0),  # no strength, no distance from it
    ],
)
def test_what_is_no_gap_is_none(rows, strength):
    found = at(rows, strength)
    assert found.supported == found.kept == sum(x > strength for x in rows)


def test_edges_of_nothing_are_infinite():
    for rows, kept in (([3.0, 2.0], 2), ([0.3, 0.2], 0), ([3.0], 1)):
        found = at(rows, 1.0)
        assert (found.kept, found.supported, found.edge_gap) == (kept, kept, jnp.inf)


def test_nan_is_not_judged():
    found = at([9.0, 8.0, 1.03, 1.02, 1.01, jnp.nan], 1.0)
    assert found.supported == found.kept == 5
    assert jnp.isnan(found.edge_gap)
    assert jnp.isnan(found.chance)


@pytest.mark.not_daily
def test_leaves_are_judged_by_the_strengths_of_their_rules():
    rules = rj.RegularizerMap([("a", GROUPS), ("b", GROUPS, 10.0)])
    params = {"a": jnp.array([[4.0], [0.5]]), "b": jnp.array([[30.0], [2.0]])}
    for make in (rj.rmda, rj.ramda):
        tx = make(1.0, rules, 0.5)
        _, state = jax.jit(tx.update)(params, tx.init(params), params)
        multiples = metrics.supported_size(state, rules).multiples
        critical = []
        centre, step, metric = state.prox_arguments()
        for name, factor in (("a", 1), ("b", 10)):
            d = None if metric is None else metric[name]
            step_size = 0.5 * factor * step
            critical += [GROUPS.critical_strengths(centre[name], step_size, d)]
        expected = np.sort(np.concatenate(critical))[::-1]
        np.testing.assert_allclose(multiples, expected, rtol=1e-5)
        alive = jax.tree.leaves(rj.structured_support(state, rules))
        assert (multiples > 1).sum() == sum(x.sum() for x in alive)


def test_what_has_no_units_is_refused():
    with pytest.raises(NotImplementedError, match="has no critical strengths"):
        at([1.0, 2.0], 1.0, rj.regularizers.binary())
    with pytest.raises(ValueError, match="no units to count: no leaf is regularized"):
        at([1.0, 2.0], 1.0, rj.RegularizerMap([("*", None)]))


def trained(n_groups, seed):
    """Return what is found after a run that asks for so many of the 40 units."""
    problem = make_problem()
    inputs, targets = (
        jnp.asarray(x, jnp.float32) for x in (problem.inputs, problem.targets)
    )
    recipe = rj.stages(RATE, milestones(STEPS), averaging=AVERAGING)
    budget = rj.budget(n_groups=n_groups)
    tx = rj.rmda(regularizer=GROUPS, strength=budget, **recipe)

    def step(carry, key):
        params, state = carry
        rows, noise = jax.random.split(key)
        i = jax.random.randint(rows, (BATCH,), 0, N_EXAMPLES)
        x = inputs[i] + NOISE * jax.random.normal(noise, (BATCH, inputs.shape[1]))
        updates, state = tx.update(
            x.T @ (x @ params - targets[i]) / BATCH, state, params
        )
        return (optax.apply_updates(params, updates), state), None

    params = jnp.zeros_like(problem.optimum, jnp.float32)
    keys = jax.random.split(jax.random.key(seed), STEPS)
    (_, state), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
    return metrics.supported_size(state, GROUPS)


@pytest.mark.not_daily
def test_the_true_size_is_found_where_more_was_asked_for():
    over_seeds = jax.vmap(trained, (None, 0))
    asked = jnp.array([8.0, 12.0])
    found = jax.jit(jax.vmap(over_seeds, (0, None)))(asked, jnp.arange(SEEDS))
    np.testing.assert_array_equal(found.kept, [[8] * SEEDS, [12] * SEEDS])
    np.testing.assert_array_equal(found.supported, np.full((2, SEEDS), 8))
