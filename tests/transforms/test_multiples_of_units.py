"""A budget in multiples of units: what `plan(multiple_of=...)` then removes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj
from rmda_jax.transforms._multiples_of_units import strengths_of_sets
from tests._daily import product
from tests.transforms.test_budget import (
    METHODS,
    drawn_mlp,
    mlp,
    mlp_flops,
    n_weights,
    supports,
)

# Groups of 8 and of 16 units.
GROUPS = rj.RegularizerMap([("*/kernel", rj.group_lasso(group_axes=-2))])


def as_few(alive, multiple_of):
    """Return what is kept of two sets, the units that survive the most first."""
    return [min(-(-n // multiple_of) * multiple_of, n_all) for n, n_all in alive]


@pytest.mark.parametrize(
    "method", ["rmda", pytest.param("ramda", marks=pytest.mark.long)]
)
def test_every_set_keeps_a_multiple_and_no_more_than_was_asked(method):
    found = supports(method, GROUPS, rj.budget(n_groups=14, multiple_of=4))
    sets = found[:, :8].sum(axis=1), found[:, 8:].sum(axis=1)
    assert all((n % 4 == 0).all() for n in sets)
    # The next four units would be two too many.
    assert (sum(sets) == 12).all()


def test_a_multiple_that_is_no_divisor_leaves_sets_whole():
    found = supports("rmda", GROUPS, rj.budget(n_groups=23, multiple_of=5))
    assert {*found[:, :8].sum(axis=1)} <= {5, 8}
    assert {*found[:, 8:].sum(axis=1)} <= {5, 10, 15, 16}


def test_floors_are_rounded_up():
    budget = rj.budget(n_groups=1, at_least=3, multiple_of=4)
    found = supports("rmda", GROUPS, budget)
    assert (found[:, :8].sum(axis=1) == 4).all()
    assert (found[:, 8:].sum(axis=1) == 4).all()


def test_each_rule_keeps_its_share_in_multiples():
    budget = rj.budget(groups=0.6, per_rule=True, multiple_of=4)
    found = supports("rmda", GROUPS, budget)
    assert (found[:, :8].sum(axis=1) == 4).all()
    assert (found[:, 8:].sum(axis=1) == 8).all()


def test_weights_are_counted_in_multiples():
    found = supports("rmda", GROUPS, rj.budget(weights=0.55, multiple_of=4))
    conv, head = found[:, :8].sum(axis=1), found[:, 8:].sum(axis=1)
    sizes = 48 * conv + 8 * head
    assert (sizes <= 0.55 * (48 * 8 + 8 * 16)).all()
    assert not (conv % 4).any()
    assert not (head % 4).any()
    assert (conv == 4).all()


@pytest.mark.parametrize("multiple_of", [1, 2, 3, 8])
def test_strengths_keep_what_a_search_over_all_strengths_does(multiple_of):
    rng = np.random.default_rng(0)
    sets = [rng.exponential(size=n) for n in (9, 16)]
    cost = np.array([3.0, 1.0])
    budget, best = 0.6 * cost @ [9, 16], None
    for strength in np.sort(np.concatenate([[0.0], *sets])):
        counts = as_few([(np.sum(x > strength), x.size) for x in sets], multiple_of)
        if cost @ counts <= budget:
            best = counts
            break
    arrays = [jnp.asarray(x, jnp.float32) for x in sets]
    spent = lambda alive: (jnp.stack(alive) @ jnp.asarray(cost, jnp.float32))[None]
    found, _ = jax.jit(
        lambda *sets: strengths_of_sets(
            multiple_of, sets, np.zeros(2, int), jnp.full(1, budget), spent
        )
    )(*arrays)
    kept = [int(jnp.sum(x > s)) for x, s in zip(arrays, found, strict=True)]
    assert kept == best


@product(
    lambda kind, kept: (kind, kept) == ("flops", 0.55),
    kind=["weights", "flops"],
    kept=[0.55, 0.2, 0.9],
)
def test_plan_with_this_multiple_removes_what_was_budgeted(kind, kept):
    params, x, grads = drawn_mlp()
    rules = rj.shrink.group_rules(mlp, params, x)
    costs = rj.shrink.costs(mlp, params, x, regularizer=rules)
    assert costs.group_of_rules.tolist() == [0, 1]
    budget = rj.budget(**{kind: kept}, costs=costs, multiple_of=8)
    tx = rj.proxsgd(0.1, rules, budget)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    pruned = optax.apply_updates(params, updates)
    plan = rj.shrink.plan(mlp, pruned, x, multiple_of=8)
    assert plan.widths == rj.shrink.plan(mlp, pruned, x).widths
    a, b = (plan.widths[f"{name}/bias"][0] for name in "ab")
    assert a in (8, 16, 24, 32, 40)
    assert b in (8, 16, 24, 30)
    small = rj.shrink.apply(plan, pruned)
    size = mlp_flops if kind == "flops" else n_weights
    # At most what was asked, and less by at most eight units of the first layer.
    assert kept - 8 * 90 / n_weights(params) <= size(small) / size(params) <= kept


def test_a_rule_for_several_groups_of_units_is_refused():
    shapes = {"a/kernel": (5, 4), "b/kernel": (4, 6), "c/kernel": (6, 3)}
    params = {"a": {}, "b": {}, "c": {}}
    for name, shape in shapes.items():
        params[name[0]]["kernel"] = jnp.ones(shape)
    fn = lambda p, x: (
        jax.nn.relu(jax.nn.relu(x @ p["a"]["kernel"]) @ p["b"]["kernel"])
        @ p["c"]["kernel"]
    )
    tie = rj.tied_group_lasso((0, 0), groups=(range(4), range(4, 10)))
    rules = rj.RegularizerMap([(("b/kernel", "c/kernel"), tie)])
    costs = rj.shrink.costs(fn, params, jnp.ones((2, 5)), regularizer=rules)
    budget = rj.budget(flops=0.5, costs=costs, multiple_of=2)
    with pytest.raises(ValueError, match="`multiple_of` of a budget needs a rule for"):
        METHODS["rmda"](regularizer=rules, strength=budget).init(params)


def test_a_rule_for_several_sets_is_refused():
    tie = rj.tied_group_lasso((0, 0), groups=(range(4), range(10)))
    rules = rj.RegularizerMap([(("a", "b"), tie)])
    params = {"a": jnp.ones((4, 5)), "b": jnp.ones((10, 3))}
    tx = METHODS["rmda"](
        regularizer=rules, strength=rj.budget(groups=0.5, multiple_of=2)
    )
    with pytest.raises(ValueError, match="`multiple_of` needs a rule for every set"):
        tx.init(params)
    with pytest.raises(ValueError, match="`multiple_of` must be at least 1, got 0"):
        rj.budget(groups=0.5, multiple_of=0)
