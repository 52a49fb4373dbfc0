"""What a run says of itself: against counts by hand, as text, under every transform."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj
from rmda_jax import metrics
from tests._daily import these

GROUPS = rj.group_lasso(0, weighted=False)
RULES = rj.RegularizerMap([("*/kernel", GROUPS)])
# By strength 1 at step 1, two rows of the first kernel stay, and none of the second.
PARAMS = {
    "first": {
        "kernel": np.array([[3.0, 0], [0, 0.5], [2, 2]], np.float32),
        "bias": np.zeros(2, np.float32),
    },
    "second": {"kernel": np.array([[0.1, 0.2]], np.float32)},
}
# One program in place of many small ones.
summary = jax.jit(metrics.summary, static_argnums=1)
WITHOUT_ITERATE = [rj.proxsgd, rj.proxgen, rj.proxssi, rj.proxsgd_adaptive]


def one_step(tx, params=PARAMS, n_steps=1):
    """Return the params and the state after steps with gradients of zero."""
    state, still = tx.init(params), jax.tree.map(jnp.zeros_like, params)
    update = jax.jit(tx.update)
    for _ in range(n_steps):
        updates, state = update(still, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_counts_are_those_of_the_structured_iterate():
    params, state = one_step(rj.rmda(1.0, RULES, 1.0, averaging=0.5))
    found = summary(state, RULES, params)
    np.testing.assert_allclose(found.units, 2 / 4, rtol=1e-6)
    np.testing.assert_allclose(found.weights, 3 / 8, rtol=1e-6)
    assert (found.n_alive, found.n_units, found.dead) == (2, 4, 1)
    assert (found.strength, found.updates, found.stage_updates) == (1, 1, 1)
    assert found.margin == metrics.margin(state, RULES)
    assert found.structured == 0  # half of the way to zero
    integers = {"n_alive", "n_units", "updates", "stage_updates", "dead"}
    for name, number in found._asdict().items():
        kind = "int32" if name in integers else "float32"
        assert (number.shape, number.dtype) == ((), kind)


def test_params_are_structured_once_they_have_the_zeros_of_the_iterate():
    exact, state = one_step(rj.rmda(1.0, RULES, 1.0, averaging=1.0))
    assert summary(state, RULES, exact).structured == 1
    # One of the two units that are zero in the iterate.
    exact["second"]["kernel"] = jnp.ones((1, 2))
    np.testing.assert_allclose(summary(state, RULES, exact).structured, 0.5)
    assert jnp.isnan(summary(state, RULES).structured)


def test_params_are_structured_if_nothing_is_zero():
    params, state = one_step(rj.rmda(1.0, RULES, 0.0, averaging=0.5))
    found = summary(state, RULES, params)
    assert (found.units, found.structured, found.dead) == (1, 1, 0)


@pytest.mark.parametrize("make", these([rj.rmda], [rj.rmda, rj.ramda]))
def test_stages_are_counted(make):
    tx = make(1e-3, RULES, 0.1, averaging=1.0, restart_steps=[3])
    found = summary(one_step(tx, n_steps=5)[1], RULES)
    assert (found.updates, found.stage_updates) == (5, 2)


# A metric is of no matter here: at night with one, too.
@pytest.mark.parametrize("make", these([rj.proxsgd], WITHOUT_ITERATE))
def test_states_without_an_iterate_are_summed_up_by_the_params(make):
    params, state = one_step(make(0.1, RULES, 0.5), n_steps=3)
    found = summary(state, RULES, params)
    n_alive = sum(x.sum() for x in jax.tree.leaves(RULES.support(params)))
    assert (found.n_alive, found.n_units) == (n_alive, 4)
    assert found.strength == 0.5
    assert (found.updates, found.stage_updates) == (3, 3)
    assert jnp.isnan(found.margin)
    assert found.structured == 1
    with pytest.raises(
        ValueError, match=r"`params` must be passed .* got None\. It is"
    ):
        summary(state, RULES)


def test_rigl_is_summed_up_by_the_params():
    params = {"kernel": jnp.arange(1.0, 17.0).reshape(4, 4)}
    tx = rj.rigl(optax.sgd(0.1), 0.75, end_step=200)
    params, state = one_step(tx, params)
    found = summary(state, rj.l1(), params)
    assert (found.units, found.weights, found.updates) == (0.25, 0.25, 1)
    assert jnp.isnan(found.strength)
    assert jnp.isnan(found.margin)


def test_the_strength_is_the_largest_that_a_budget_sets():
    tx = rj.rmda(1.0, RULES, rj.budget(groups=0.5, per_rule=True), averaging=1.0)
    _, state = one_step(tx)
    found = summary(state, RULES)
    assert found.strength == max(jax.tree.leaves(state.strength))
    assert found.strength > state.strength["second"]["kernel"]
    assert found.dead == 0  # `at_least` is 1


def test_biases_of_zero_are_not_dead():
    rules = rj.RegularizerMap([("*", rj.l1())])
    _, state = one_step(rj.rmda(1.0, rules, 0.01))
    assert summary(state, rules).dead == 0
    assert summary(one_step(rj.rmda(1.0, rules, 9.0))[1], rules).dead == 2


def test_a_tie_is_counted_once():
    tie = rj.RegularizerMap([(("a", "b"), rj.tied_group_lasso([-1, -2]))])
    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2)).at[0].set(5.0)}
    _, state = one_step(rj.rmda(1.0, tie, 1e3), params)
    found = summary(state, tie, params)
    assert (found.n_units, found.n_alive, found.dead) == (4, 0, 1)


def test_ranks_are_those_of_the_prox():
    kernel = jnp.diag(jnp.array([9.0, 5.0, 2.0, 1.0]))
    _, state = one_step(rj.rmda(1.0, rj.nuclear_norm(), 2.5), {"kernel": kernel})
    found = summary(state, rj.nuclear_norm())
    assert (found.n_alive, found.n_units) == (2, 4)


def test_levels_have_no_margin():
    binary = rj.regularizers.binary()
    _, state = one_step(rj.rmda(1.0, binary, 0.1), {"w": jnp.ones(3)})
    assert jnp.isnan(summary(state, binary).margin)


def test_leaves_of_another_optimizer_count_by_the_params():
    labels = {"first": "dual", "second": "plain"}
    tx = optax.partition(
        {
            "dual": rj.rmda(1.0, RULES, 1.0, averaging=0.5),
            "plain": rj.proxsgd(1.0, RULES, 0.1),
        },
        labels,
    )
    params, state = one_step(tx)
    alone = summary(state, RULES)
    assert (alone.n_units, alone.n_alive, alone.dead) == (3, 2, 0)
    whole = summary(state, RULES, params)
    assert (whole.n_units, whole.n_alive) == (4, 3)
    assert whole.strength == 1
    # One zero unit, in the iterate of the first part; the params are half way to it.
    assert whole.structured == 0


@pytest.mark.not_daily
def test_summary_runs_under_jit_vmap_and_scan():
    tx = rj.rmda(0.1, RULES, rj.budget(groups=0.5), averaging=0.1)

    def run(scale):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(params, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), summary(state, RULES, params)

        params = jax.tree.map(lambda x: scale * x, PARAMS)
        return jax.lax.scan(step, (params, tx.init(params)), length=4)

    (params, state), history = jax.jit(jax.vmap(run))(jnp.array([1.0, 2.0]))
    assert history.units.shape == (2, 4)
    np.testing.assert_array_equal(history.updates, [[1, 2, 3, 4]] * 2)
    last = jax.tree.map(lambda x: x[0], (state, params))
    again = summary(last[0], RULES, last[1])
    for a, b in zip(again, history, strict=True):
        np.testing.assert_allclose(a, b[0, -1], rtol=1e-5)
    message = r"Summary of shape \(2, 4\): print one, jax.tree.map\(.*, summary\)"
    assert re.fullmatch(message, str(history))
    assert not re.match("Summary", str(again))


def test_text_is_a_line():
    params, state = one_step(rj.rmda(1.0, RULES, 1.0, averaging=0.5))
    line = str(summary(state, RULES, params))
    assert line == (
        "units 50.0% (2 of 4), weights 37.5%, strength 1, margin 1, "
        "rules with all units zero: 1, params not structured yet"
    )
    assert line.startswith(str(summary(state, RULES)))
    params, state = one_step(rj.proxsgd(1.0, RULES, 0.3))
    line = str(summary(state, RULES, params))
    assert line == (
        "units 75.0% (3 of 4), weights 50.0%, strength 0.3, "
        "rules with all units zero: 1"
    )


def test_text_of_tracers_says_where_to_print():
    _, state = one_step(rj.rmda(1.0, RULES, 1.0))
    texts = []

    @jax.jit
    def measure(state):
        found = summary(state, RULES)
        texts.append(str(found))
        return found

    _ = measure(state)
    assert texts == ["Summary under tracing: return it from jit, and print it there"]


def test_what_is_no_state_is_refused():
    with pytest.raises(TypeError, match=r"no state of a transformation of rmda_jax"):
        summary(optax.sgd(0.1).init(PARAMS), RULES, PARAMS)
    _, state = one_step(rj.rmda(1.0, RULES, 1.0))
    nothing = rj.RegularizerMap([("*", None)])
    with pytest.raises(ValueError, match="no units to count: no leaf is regularized"):
        summary(state, nothing)
