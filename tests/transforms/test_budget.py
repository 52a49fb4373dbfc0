"""A budget is kept: at every step, by every method, on every kind of unit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj
from rmda_jax import testing
from rmda_jax.transforms._order_statistic import between, least_within
from tests._daily import only, product, these
from tests.transforms._table import GROUPS, gradients, start

pytestmark = pytest.mark.costly

METHODS = {
    "rmda": functools.partial(rj.rmda, 0.1, averaging=0.5),
    "ramda": functools.partial(rj.ramda, 0.1, averaging=0.5),
    "proxsgd": functools.partial(rj.proxsgd, 0.1),
    "proxgen": functools.partial(rj.proxgen, 0.1),
    "proxssi": functools.partial(rj.proxssi, 0.1),
    "proxsgd_adaptive": functools.partial(rj.proxsgd_adaptive, 1.0),
}
SPARSE_AT_ONCE = ("rmda", "ramda", "proxsgd", "proxgen", "proxssi")
# Every law is a test of its own; RMDA's stand for all, for budgets know no method. At
# night, too, those that compile the same step in another way.
SLOW = (testing.check_scan, testing.check_batches, testing.check_donation)
BEGUN = (testing.check_init,)  # the anchor begins at the params
LAWS = only(
    lambda law: law not in SLOW,
    [law for law in testing.UPDATE_LAWS if law not in BEGUN],
)
TRIAL = testing.Trial(
    functools.partial(
        METHODS["rmda"], regularizer=GROUPS, strength=rj.budget(n_groups=7)
    ),
    start(),
    gradients(),
    GROUPS,
    10.0,
)
TIED = rj.RegularizerMap(
    [(("conv/kernel", "head/kernel"), rj.tied_group_lasso((-1, -1)))]
)
UNITS = {
    "groups": GROUPS,
    "groups, unweighted": rj.RegularizerMap(
        [("*/kernel", rj.group_lasso(group_axes=-2, weighted=False), 0.5)]
    ),
    "MCP": rj.RegularizerMap([("*/kernel", rj.group_mcp(-2, lam=0.5, gamma=2.0))]),
    "counts": rj.RegularizerMap([("*/kernel", rj.regularizers.group_l0(-2))]),
    "sparse groups": rj.RegularizerMap([("*/kernel", rj.sparse_group_lasso(-2))]),
    "ties": TIED,
    "entries": rj.RegularizerMap([("head/kernel", rj.l1())]),
    "groups and entries": rj.RegularizerMap(
        [("conv/kernel", rj.group_lasso(-2)), ("head/*", rj.l1())]
    ),
}


def supports(method, regularizer, budget, steps=8):
    """Return, for every step, which units are alive, as one vector."""
    tx = METHODS[method](regularizer=regularizer, strength=budget)
    params = start()

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        if method in ("rmda", "ramda"):
            found = rj.structured_support(state, regularizer)
        else:
            found = regularizer.support(params)
        alive = [x.ravel() for x in jax.tree.leaves(found)]
        return params, state, jnp.concatenate(alive)

    state, found = tx.init(params), []
    for grads in gradients(steps):
        params, state, alive = step(params, state, grads)
        found.append(np.asarray(alive))
    return np.stack(found)


# By default one method without and one with a metric, and units of every geometry.
OF_METHODS = only(
    lambda method, units: method in ("rmda", "ramda"),
    [(method, "groups") for method in SPARSE_AT_ONCE],
)
OF_UNITS = only(
    lambda method, units: (
        units in ("MCP", "sparse groups", "ties", "groups and entries")
    ),
    [("rmda", units) for units in UNITS if units != "groups"],
)
IN_A_METRIC = [
    pytest.param("ramda", units, marks=pytest.mark.long)
    for units in ("MCP", "sparse groups", "ties", "entries")
]


@pytest.mark.parametrize(("method", "units"), OF_METHODS + OF_UNITS + IN_A_METRIC)
def test_so_many_units_are_kept_at_every_step(method, units):
    found = supports(method, UNITS[units], rj.budget(n_groups=5))
    assert found.sum(axis=1).tolist() == [5] * len(found)


@pytest.mark.parametrize("kept", these((1 / 3, 1.0), [0.1, 1 / 3, 0.77, 1.0]))
def test_a_share_is_rounded_to_a_number_of_units(kept):
    found = supports("rmda", GROUPS, rj.budget(groups=kept))
    assert set(found.sum(axis=1)) == {round(kept * found.shape[1])}


def test_nothing_is_removed_where_all_is_kept():
    budget = METHODS["rmda"](regularizer=GROUPS, strength=rj.budget(groups=1.0))
    without = METHODS["rmda"](regularizer=GROUPS, strength=0.0)
    params, grads = start(), gradients(1)[0]
    found = [
        jax.jit(tx.update)(grads, tx.init(params), params)[0]
        for tx in (budget, without)
    ]
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_the_number_follows_the_ramp():
    found = supports("rmda", GROUPS, rj.budget(n_groups=4, start_step=2, ramp_steps=4))
    n_units = found.shape[1]
    gone = 1 - (1 - np.clip((np.arange(8) - 2) / 4, 0, 1)) ** 3
    wanted = np.round(n_units - gone * (n_units - 4))
    assert found.sum(axis=1).tolist() == wanted.tolist()


def test_a_ramp_begins_after_a_fifth_and_ends_where_it_says():
    for ramp_steps in (0, 3, 10, 100):
        ramp = rj.budget(n_groups=4, ramp_steps=ramp_steps)
        kept = [float(ramp.kept(jnp.asarray(t), 20)) for t in range(ramp_steps + 2)]
        begins = ramp_steps // 5
        assert set(kept[: begins + 1]) <= {20.0} or ramp_steps == 0
        assert kept[ramp_steps:] == [4.0, 4.0]
        assert kept == sorted(kept, reverse=True)
        assert ramp_steps == 0 or kept[begins + 1] < 20


def test_each_rule_keeps_its_own_share():
    found = supports("rmda", GROUPS, rj.budget(groups=0.25, per_rule=True))
    assert (found[:, :8].sum(axis=1) == 2).all()  # of the 8 of conv
    assert (found[:, 8:].sum(axis=1) == 4).all()  # of the 16 of head


def test_no_rule_loses_its_last_units():
    # The rule on `head` is so strong that alone it would lose all.
    rules = rj.RegularizerMap(
        [("conv/kernel", rj.group_lasso(-2)), ("head/kernel", rj.group_lasso(-2), 1e6)]
    )
    found = supports("rmda", rules, rj.budget(n_groups=6, at_least=3))
    assert (found[:, 8:].sum(axis=1) == 3).all()
    assert (found.sum(axis=1) == 6).all()
    bare = supports("rmda", rules, rj.budget(n_groups=6, at_least=0))
    assert not bare[:, 8:].any()
    alone = supports("rmda", rules, rj.budget(n_groups=1, at_least=4))
    assert (alone.sum(axis=1) == 8).all()  # the floors are all that stays


@pytest.mark.not_daily
@pytest.mark.parametrize("method", these(["rmda"], ["rmda", "ramda"]))
def test_a_tie_keeps_units_of_every_set(method):
    # Groups 0 to 3 lie in both leaves, groups 4 to 9 in the second one alone, where
    # gradients and params are small.
    tie = rj.tied_group_lasso((0, 0), groups=(range(4), range(10)))
    rules = rj.RegularizerMap([(("a", "b"), tie)])
    rng = np.random.default_rng(0)
    rows = np.repeat([1, 1e-3], [4, 6])[:, None]
    draw = lambda: {
        "a": jnp.asarray(rng.normal(size=(4, 5))),
        "b": jnp.asarray(rng.normal(size=(10, 3)) * rows),
    }
    params = draw()
    for at_least, expected in ((0, (3, 0)), (1, (4, 1)), (2, (4, 2))):
        budget = rj.budget(n_groups=3, at_least=at_least)
        tx = METHODS[method](regularizer=rules, strength=budget)
        _, state = tx.update(draw(), tx.init(params), params)
        alive = np.any(rj.structured_params(state, rules)["b"] != 0, axis=1)
        assert (alive[:4].sum(), alive[4:].sum()) == expected


def test_weights_are_counted_by_the_size_of_their_units():
    found = supports("rmda", GROUPS, rj.budget(weights=0.5))
    sizes = np.array([3 * 2 * 8] * 8 + [8] * 16)
    left = found @ sizes
    # The nearest to a half that units from the front of the order reach.
    assert (np.abs(left - sizes.sum() / 2) <= sizes.max() / 2).all()


def mlp(params, x):
    h = jax.nn.relu(x @ params["a"]["kernel"] + params["a"]["bias"])
    h = jax.nn.relu(h @ params["b"]["kernel"] + params["b"]["bias"])
    return h @ params["c"]["kernel"]


def drawn_mlp():
    """Return params of `mlp`, an input and gradients.

    A unit of the first layer has 90 weights, one of the second 44.
    """
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    params = {
        "a": {"kernel": draw(49, 40), "bias": draw(40)},
        "b": {"kernel": draw(40, 30), "bias": draw(30)},
        "c": {"kernel": draw(30, 3)},
    }
    x = draw(2, 49)
    return params, x, jax.tree.map(lambda w: draw(*w.shape), params)


@pytest.mark.not_daily
@product(
    lambda kind, kept: kind == "flops",  # bytes are counted as weights are
    kind=["weights", "bytes", "flops"],
    kept=[0.55, 0.2, 0.9],
)
def test_what_shrinking_leaves_is_near_the_budget(kind, kept):
    params, x, grads = drawn_mlp()
    rules = rj.shrink.group_rules(mlp, params, x)
    costs = rj.shrink.costs(mlp, params, x, regularizer=rules)
    tx = rj.proxsgd(0.1, rules, rj.budget(**{kind: kept}, costs=costs))
    updates, _ = tx.update(grads, tx.init(params), params)
    params = optax.apply_updates(params, updates)
    small = rj.shrink.apply(rj.shrink.plan(mlp, params, x), params)
    size = mlp_flops if kind == "flops" else n_weights
    # By half a unit of the second layer, at the most.
    error = 0.5 * 44 / n_weights(params)
    assert size(small) / size(params) == pytest.approx(kept, abs=error)


def n_weights(params):
    return sum(w.size for w in jax.tree.leaves(params))


def mlp_flops(params):
    """Two for each weight of a kernel; for each unit a sum with the bias, a maximum."""
    kernels = sum(2 * layer["kernel"].size for layer in params.values())
    return kernels + sum(2 * params[name]["bias"].size for name in "ab")


def test_a_sweep_over_budgets_is_one_program():
    params, grads = start(), gradients(1)[0]

    def support(n):
        tx = METHODS["rmda"](regularizer=GROUPS, strength=rj.budget(n_groups=n))
        _, state = tx.update(grads, tx.init(params), params)
        found = rj.structured_support(state, GROUPS)
        return sum(jnp.sum(x) for x in jax.tree.leaves(found))

    numbers = jnp.arange(2, 9)
    assert jax.jit(jax.vmap(support))(numbers).tolist() == numbers.tolist()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_laws_of_transformations_hold(law):
    law(TRIAL)


@pytest.mark.not_daily
def test_strengths_come_back_by_the_names_of_the_leaves():
    params = {str(i): jnp.ones((4, 3)) * (i + 1) for i in range(12)}
    grads = jax.tree.map(lambda x: x / 10, params)
    rules = rj.group_lasso(0)
    tx = rj.rmda(0.1, rules, rj.budget(groups=0.5, per_rule=True))
    _, state = jax.jit(tx.update)(grads, tx.init(params), params)
    by_number = sorted(params, key=int)
    other = jax.tree.map(
        lambda x: x,
        state._replace(
            **{
                name: {k: getattr(state, name)[k] for k in by_number}
                for name in ("strength", "grad_sum", "anchor")
            }
        ),
    )
    expected = rj.structured_params(state, rules)
    jax.tree.map(
        np.testing.assert_array_equal, rj.structured_params(other, rules), expected
    )


def test_a_budget_goes_through_the_wrappers_of_optax():
    made = optax.inject_hyperparams(rj.rmda)(0.1, GROUPS, rj.budget(n_groups=5))
    tx = optax.chain(optax.clip(1.0), made)
    params = start()
    _, state = tx.update(gradients(1)[0], tx.init(params), params)
    support = rj.structured_support(state, GROUPS)
    assert sum(int(x.sum()) for x in jax.tree.leaves(support)) == 5


# --- the order statistic --------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1, 3, 7, 10])
def test_the_least_strength_is_that_of_the_next_unit(kept):
    levels = np.array([0, 0, 2e-38, 1e-8, 0.5, 0.5 + 2**-24, 1, 7, 1e30, np.inf])
    levels = jnp.asarray(levels, jnp.float32)
    spent = lambda s: jnp.sum(levels > s[:, None], axis=1).astype(jnp.float32)
    (found,) = np.asarray(least_within(spent, jnp.full(1, float(kept))))
    falling = np.sort(np.asarray(levels))[::-1]
    assert found == (falling[kept] if kept < 10 else 0)


def test_between_is_a_tenth_above_or_just_below():
    lower = jnp.array([0.0, 1.0, 1.0, 1.0, 0.0])
    upper = jnp.array([1.0, 5.0, 1.05, jnp.inf, jnp.inf])
    least = np.sqrt(np.finfo(np.float32).tiny)  # of which the square is no zero
    expected = [least, 1.1, 1.04895, 1.1, least]
    np.testing.assert_allclose(between(lower, upper), expected, 1e-6)


# --- what is refused ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of"),
        ({"groups": 0.5, "n_groups": 3}, "exactly one of .* got groups, n_groups"),
        ({"groups": 8}, "`groups` must lie in .0, 1., got 8.* `n_groups`"),
        ({"n_groups": 0.5}, "`n_groups` must be at least 1, got 0.5"),
        ({"flops": 0.5}, "needs `costs`.*shrink.costs"),
        ({"groups": 0.5, "at_least": -1}, "`at_least` must not be negative, got -1"),
        ({"n_groups": 4, "per_rule": True}, "needs a share.*groups=0.3"),
        ({"groups": 0.5, "costs": object()}, "count no groups, got them with `groups`"),
    ],
)
def test_bad_budgets_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        rj.budget(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [{"groups": "half"}, {"groups": True}, {"groups": 0.5, "at_least": 1.5}],
)
def test_what_is_no_number_is_refused(arguments):
    with pytest.raises(TypeError, match="must be"):
        rj.budget(**arguments)


@pytest.mark.parametrize(
    ("method", "regularizer", "message"),
    [
        ("rmda", rj.top_k(3), "is a set"),
        ("ramda", rj.nuclear_norm(), "in a metric"),
    ],
)
def test_what_has_no_critical_strengths_is_refused_at_init(
    method, regularizer, message
):
    tx = METHODS[method](regularizer=regularizer, strength=rj.budget(groups=0.5))
    with pytest.raises(NotImplementedError, match=message):
        tx.init({"kernel": jnp.ones((4, 4))})
