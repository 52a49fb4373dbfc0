"""The costs of the alive units, against what `apply` leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings, strategies as st
from jax import lax

import rmda_jax as rj
from rmda_jax import shrink
from rmda_jax.specs._leaf_rules import active, support
from rmda_jax.specs._resolve import resolve
from tests._daily import only
from tests._x64 import float64
from tests.shrink._kinds import drawn
from tests.shrink._trial import Network
from tests.shrink.test_random import N_EXAMPLES
from tests.shrink.test_trace import BY_NAME, IDS, IMAGE, X, conv, normal
from tests.test_strict import strict

pytestmark = pytest.mark.costly

SIDES = ("consumers", "producers", "all")
KINDS = ("weights", "bytes", "flops")


def made(fn, params, x, side="consumers"):
    """Return the costs of a function, and the active rules that they are of."""
    spec = shrink.group_rules(fn, params, x, side=side)
    costs = shrink.costs(fn, params, x, regularizer=spec)
    return costs, active(resolve(spec, params))


def draw_alive(costs, rules, params, rng):
    """Draw which groups are alive; some of every group of units are."""
    leaves = jax.tree.leaves(params)
    shapes = [rule.regularizer.support(rule.take(leaves)).shape for rule in rules]
    while True:
        alive = [rng.random(shape) > 0.4 for shape in shapes]
        of_units = costs.unit_levels(alive)
        if all(of_units[costs.unit_set == i].any() for i in range(len(costs.units))):
            return alive


def with_zeros(rules, params, alive):
    """Set the groups to zero that are not alive."""
    leaves, treedef = jax.tree.flatten(params)
    for rule, flags in zip(rules, alive, strict=True):
        x, layout = rule.take(leaves), rule.regularizer.geometry
        flags = jnp.asarray(flags, leaves[0].dtype).reshape(layout.any_nonzero(x).shape)
        keep = layout.expand(flags, layout.shapes(x), 1.0)
        rule.put(leaves, layout.each(lambda x, keep: x * keep, x, keep))
    return treedef.unflatten(leaves)


def n_weights(params):
    return sum(x.size for x in jax.tree.leaves(params))


def n_bytes(params):
    return sum(x.nbytes for x in jax.tree.leaves(params))


def check_weights(fn, params, x, side, rng):
    """Compare the costs with what `apply` leaves, and each group with its cut."""
    costs, rules = made(fn, params, x, side)
    assert costs.total("weights") == n_weights(params)
    assert costs.total("bytes") == n_bytes(params)
    alive = draw_alive(costs, rules, params, rng)
    pruned = with_zeros(rules, params, alive)
    counts = costs.alive(alive)
    found = [
        rule.regularizer.support(rule.take(jax.tree.leaves(pruned))) for rule in rules
    ]
    np.testing.assert_array_equal(costs.alive(found), counts)
    plan = shrink.plan(fn, pruned, x)
    left = {str(cut.units): cut.left for cut in plan.cuts}
    assert counts.tolist() == [left[str(units)] for units in costs.units]
    small = shrink.apply(plan, pruned)
    assert costs.weights(counts).item() == n_weights(small)
    assert costs.bytes(counts).item() == n_bytes(small)


# Layers most of whose units have a rule for the function itself.
WITH_RULES = """dense residual gated concatenated batch_norm attention cached graph
    written stack depthwise rnn lora""".split()


@pytest.mark.not_daily
@settings(max_examples=N_EXAMPLES, phases=[Phase.explicit, Phase.generate])
@given(side=st.sampled_from(SIDES), seed=st.integers(0, 2**16))
def test_weights_of_random_networks_are_those_that_are_left(side, seed):
    rng = np.random.default_rng(seed)
    with float64():
        network = Network.of(drawn(rng, WITH_RULES), rng, zeros=False)
        params, inputs = network.params, network.inputs
        fn = lambda params, x: network.fn(params, x, *inputs[1:])
        try:
            check_weights(fn, params, inputs[0], side, rng)
        except ValueError as error:
            # A network of which no unit could go, or none by its producers.
            if "unit" not in str(error):
                raise
            assume(False)


# `plan` sees no zeros of producers through a lookup at unknown places. By default what
# costs are made of: a bias, units in several products, those of both sides in a loop.
CASES = [(name, "producers") for name in ("mlp", "normalized", "attention", "tied")]
CASES += [(name, "all") for name in ("gated", "depthwise", "scanned")]
CASES = only(lambda name, side: name in ("mlp", "attention", "scanned"), CASES)
CASES += [
    pytest.param(name, "consumers", marks=pytest.mark.long)
    for name in IDS
    if name != "indexed"
]


@pytest.mark.parametrize(("name", "side"), CASES)
def test_weights_are_those_that_are_left(name, side):
    fn, shapes, x, _ = BY_NAME[name]
    check_weights(fn, normal(shapes), x, side, np.random.default_rng(0))


# A mixed-precision model: bytes are no multiple of the weights.
def test_bytes_are_those_of_every_leaf():
    params = normal({"a": (4, 7), "b": (7,), "c": (7, 2)})
    params["a"] = params["a"].astype(jnp.bfloat16)
    params["b"] = params["b"].astype(jnp.float16)
    check_weights(BY_NAME["mlp"].fn, params, X, "consumers", np.random.default_rng(0))


def test_a_group_of_units_keeps_one_and_what_is_behind_it_is_not_counted_off():
    fn, shapes, x, _ = BY_NAME["mlp"]
    params = normal(shapes)
    costs, rules = made(fn, params, x)
    counts = costs.alive([np.zeros(7, bool)])
    assert counts.tolist() == [1]
    pruned = with_zeros(rules, params, [np.zeros(7, bool)])
    with pytest.warns(UserWarning, match="all units are zero"):
        small = shrink.apply(shrink.plan(fn, pruned, x), pruned)
    assert costs.weights(counts).item() == n_weights(small)


def test_zeros_inside_of_a_live_group_may_remove_more():
    def fn(p, x):
        return jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"]

    params = normal({"a": (4, 5), "b": (5, 3), "c": (3, 2)})
    costs, rules = made(fn, params, X)
    # Unit 0 of the first layer is read by unit 0 of the second alone, which dies.
    params["b"] = params["b"].at[0, 1:].set(0)
    params["c"] = params["c"].at[0].set(0)
    leaves = jax.tree.leaves(params)
    counts = costs.alive([r.regularizer.support(r.take(leaves)) for r in rules])
    small = shrink.apply(shrink.plan(fn, params, X), params)
    assert costs.weights(counts).item() == n_weights(small) + 4 + 2


def test_it_is_the_same_under_jit_and_for_many_strengths_at_once():
    fn, shapes, x, _ = BY_NAME["attention"]
    params = normal(shapes)
    costs, rules = made(fn, params, x, "producers")
    rng = np.random.default_rng(0)
    levels = [
        rng.random(alive.shape) for alive in draw_alive(costs, rules, params, rng)
    ]
    with strict():
        of_units = jax.jit(costs.unit_levels)(levels)
    np.testing.assert_array_equal(of_units, costs.unit_levels(levels))
    strengths = jnp.linspace(0, 1, 9)

    def of_strength(strength):
        counts = costs.alive_above(of_units, strength)
        return [costs.share(kind, counts) for kind in KINDS]

    expected = [of_strength(strength) for strength in strengths]
    assert expected[0] == [1, 1, 1]
    for run_all in (jax.vmap(of_strength), jax.jit(jax.vmap(of_strength))):
        with strict():
            found = run_all(strengths)
        # Sums of some dozen whole numbers, and one quotient.
        rtol = 16 * np.finfo(np.float32).eps
        np.testing.assert_allclose(np.transpose(found), expected, rtol=rtol)
    for strength in strengths:
        by_support = costs.alive([level > strength for level in levels])
        np.testing.assert_array_equal(costs.alive_above(of_units, strength), by_support)


def two_readers(p, x):
    h = jax.nn.relu(x @ p["a"])
    return h @ p["b"] + h @ p["c"]


TWO_READERS = normal({"a": (4, 3), "b": (3, 2), "c": (3, 2)})


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        # It dies with the last of its readers,
        ({"b": 0, "c": 0}, [3, 5, 6]),
        # or with what makes it, whichever is first.
        ({"a": 1}, [1, 2, 3]),
        ({"a": 1, "b": 0, "c": 0}, [1, 2, 3]),
        ({"a": 1, "b": 0}, [1, 2, 3]),
    ],
)
def test_levels_of_units(rules, expected):
    spec = rj.RegularizerMap([(k, rj.group_lasso(axis)) for k, axis in rules.items()])
    costs = shrink.costs(two_readers, TWO_READERS, X, regularizer=spec)
    levels = {"a": [1.0, 2.0, 3.0], "b": [3.0, 0.5, 6.0], "c": [0.5, 5.0, 4.0]}
    found = costs.unit_levels([np.array(levels[name]) for name in sorted(rules)])
    assert found.tolist() == expected


@pytest.mark.parametrize(
    "acting",
    [
        rj.group_lasso(0),
        rj.sparse_group_lasso(0),
        rj.regularizers.group_linf(0),
        rj.group_mcp(0),
        rj.regularizers.on_groups(rj.regularizers.laplace(), 0),
    ],
    ids=str,
)
def test_all_regularizers_of_groups_remove_units(acting):
    fn, shapes, x, _ = BY_NAME["mlp"]
    spec = rj.RegularizerMap([("c", acting)])
    costs = shrink.costs(fn, normal(shapes), x, regularizer=spec)
    assert costs.alive([np.arange(7) < 3]).tolist() == [3]


@pytest.mark.parametrize(
    "spec",
    [
        rj.l1(),
        rj.nuclear_norm(),
        rj.group_lasso(1),  # what makes the outputs
        rj.group_lasso(0, block=7),  # all of them at once
        rj.top_k(3, 0),
    ],
    ids=str,
)
def test_rules_that_remove_nothing_are_refused_and_beside_others_named(spec):
    fn, shapes, x, _ = BY_NAME["gated"]
    params = normal(shapes)
    rules = rj.RegularizerMap([("down", spec)])
    with pytest.raises(ValueError, match="can remove no unit") as error:
        _ = shrink.costs(fn, params, x, regularizer=rules)
    assert f"{spec} on down" in str(error.value)
    rules = rj.RegularizerMap([("down", spec), ("up", rj.group_lasso(1))])
    costs = shrink.costs(fn, params, x, regularizer=rules)
    assert costs.without_effect == ("down",)
    assert costs.removed_by == ("up",)
    assert "remove nothing: down" in str(costs)
    leaves = {"down": params["down"], "gate": None, "up": params["up"]}
    flags = support(resolve(rules, params), leaves | {"gate": params["gate"]})
    assert costs.alive(flags).tolist() == [6]


def test_one_of_two_readers_removes_nothing():
    spec = rj.RegularizerMap([("b", rj.group_lasso(0))])
    with pytest.raises(ValueError, match=r"group_lasso\(group_axes=0\) on b"):
        _ = shrink.costs(two_readers, TWO_READERS, X, regularizer=spec)


def test_statistics_that_no_rule_is_on_do_not_keep_a_unit():
    fn, shapes, x, _ = BY_NAME["normalized"]
    rules = [(("scale", "shift"), rj.tied_group_lasso((0, 0)))]
    costs = shrink.costs(fn, normal(shapes), x, regularizer=rj.RegularizerMap(rules))
    assert costs.alive([np.arange(5) < 2]).tolist() == [2]


@pytest.mark.parametrize(
    ("activation", "goes"), [(jax.nn.relu, True), (jax.nn.sigmoid, False)]
)
def test_a_producer_of_zeros_keeps_a_unit_that_is_not_zero_then(activation, goes):
    # A window at the border sums fewer of the halves: no bias can take them.
    fn = lambda p, x: conv(activation(conv(x, p["a"])), p["b"]) + p["bias"]
    params = normal({"a": (3, 3, 3, 4), "b": (3, 3, 4, 2), "bias": (2,)})
    spec = rj.RegularizerMap([("a", rj.group_lasso(-1))])
    if goes:
        costs = shrink.costs(fn, params, IMAGE, regularizer=spec)
        assert costs.alive([np.arange(4) < 1]).tolist() == [1]
    else:
        with pytest.raises(ValueError, match="can remove no unit"):
            _ = shrink.costs(fn, params, IMAGE, regularizer=spec)


def test_units_that_no_group_holds_stay():
    fn, shapes, x, _ = BY_NAME["mlp"]
    rules = [(("c",), rj.tied_group_lasso((0,), [[-1, 0, -1, 1, 2, -1, -1]]))]
    costs = shrink.costs(fn, normal(shapes), x, regularizer=rj.RegularizerMap(rules))
    assert costs.alive([np.array([False, True, False])]).tolist() == [5]
    assert str(costs).splitlines()[1].split() == ["a[1]", "b[0]", "c[0]", "7", "3", "c"]


def test_units_that_the_caller_keeps_stay():
    fn, shapes, x, _ = BY_NAME["residual"]
    params = normal(shapes)
    couplings = shrink.trace(fn, params, x)
    spec = shrink.group_rules(fn, params, x)
    kept = couplings.keep(*couplings.find("out0", 0))
    costs = shrink.costs(fn, params, x, regularizer=spec, couplings=kept)
    assert [units.size for units in costs.units] == [6, 3]
    assert costs.without_effect == ("out0",)


def test_shapes_are_enough_and_values_do_not_count():
    fn, shapes, x, _ = BY_NAME["mlp"]
    params = normal(shapes)
    spec = shrink.group_rules(fn, params, x)
    for like in (jax.eval_shape(lambda: params), jax.tree.map(jnp.zeros_like, params)):
        costs = shrink.costs(fn, like, x, regularizer=spec)
        assert costs.alive([np.arange(7) < 2]).tolist() == [2]


@pytest.mark.not_daily
def test_the_supports_of_an_optimizer_are_taken_as_they_are():
    fn, shapes, x, _ = BY_NAME["residual"]
    params = normal(shapes)
    spec = shrink.group_rules(fn, params, x)
    costs = shrink.costs(fn, params, x, regularizer=spec)
    tx = rj.rmda(0.1, spec, 0.0)
    _, state = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    counts = jax.jit(costs.alive)(rj.structured_support(state, spec))
    assert counts.tolist() == [6, 5, 3]


def test_wrong_supports_and_kinds_are_refused():
    fn, shapes, x, _ = BY_NAME["mlp"]
    costs, _ = made(fn, normal(shapes), x)
    with pytest.raises(ValueError, match=r"sizes \(7,\), got \(6,\)"):
        _ = costs.alive([np.ones(6, bool)])
    with pytest.raises(ValueError, match=r"sizes \(7,\), got \(\)"):
        _ = costs.unit_levels([])
    with pytest.raises(ValueError, match=r"`kind` must be .* got 'seconds'"):
        _ = costs.total("seconds")
    with pytest.raises(ValueError, match="got no rule"):
        _ = shrink.costs(fn, normal(shapes), x, regularizer=None)


def test_numbers_beyond_int32_are_right():
    def fn(p, x):
        layer = lambda h, _: (jnp.tanh(h @ p["a"]) @ p["c"], None)
        return lax.scan(layer, x, None, length=2**30)[0]

    params = normal({"a": (4, 8), "c": (8, 4)})
    spec = rj.RegularizerMap([("c", rj.group_lasso(0))])
    costs = shrink.costs(fn, params, X, regularizer=spec)
    assert costs.total("flops") == 2**30 * 2 * 3 * 4 * 8 * 2
    counts = costs.alive([np.arange(8) < 4])
    assert costs.flops(counts).item() == 2**30 * 2 * 3 * 4 * 4 * 2
    assert costs.share("flops", counts).item() == 0.5
