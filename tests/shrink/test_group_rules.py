"""Rules made from couplings: their groups are the units that can be cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rmda_jax as rj
from rmda_jax import shrink
from tests.shrink import test_trace as models
from tests.shrink.test_trace import MODELS, normal

BY_NAME = {fn.__name__: (fn, normal(shapes), x) for fn, shapes, x, *_ in MODELS}


def rules(model, **options):
    """Return leaves and their axes, rule by rule."""
    fn, params, x = BY_NAME[model]
    found = []
    for rule in shrink.group_rules(fn, params, x, **options).rules:
        axes = rule.regularizer.geometry.group_axes
        found.append(dict(zip(rule.patterns, axes, strict=True)))
    return found


@pytest.mark.parametrize(
    ("model", "side", "expected"),
    [
        ("mlp", "consumers", [{"c": -2}]),
        ("mlp", "producers", [{"a": -1, "b": -1}]),
        ("gated", "consumers", [{"down": -2}]),
        ("gated", "all", [{"down": -2, "gate": -1, "up": -1}]),
        (
            "residual",
            "consumers",
            [{"head": -2, "in0": -2, "in1": -2}, {"out0": -2}, {"out1": -2}],
        ),
        ("embedded", "consumers", [{"head": -2}, {"mix": -2}]),
        # The stream of the layers is wider than what is inside them.
        ("scanned", "consumers", [{"head": -2, "in": -2}, {"out": -2}]),
        ("fused_heads", "consumers", [{"out": -3}]),
        ("split", "all", [{"down": -2, "fused": -1}]),
        # Both sets of units are read by one leaf, so one rule has both.
        ("concatenated", "consumers", [{"c": -2}]),
    ],
)
def test_leaves_and_axes(model, side, expected):
    assert rules(model, side=side) == expected


def test_positions_of_a_flattened_channel_and_of_a_concatenation():
    fn, params, x = BY_NAME["flattened"]
    (rule,) = shrink.group_rules(fn, params, x).rules
    assert rule.regularizer.geometry.groups == ((0, 1, 2, 3, 4) * 4,)
    fn, params, x = BY_NAME["concatenated"]
    (rule,) = shrink.group_rules(fn, params, x).rules
    (ids,) = rule.regularizer.geometry.groups
    # The first operand comes again as the third.
    width = params["a"].shape[1]
    assert ids[:width] == ids[-width:]
    assert sorted(set(ids)) == list(range(width + params["b"].shape[1]))
    sizes = rule.regularizer.unit_sizes((params["c"].shape,))
    assert sorted(set(sizes)) == [2, 4]


def test_a_channel_whose_pixels_lie_together_is_a_tile():
    def fn(params, x):
        h = models.conv(x, params["conv"])
        return jnp.moveaxis(h, -1, 1).reshape(len(x), -1) @ params["dense"]

    params = normal({"conv": (3, 3, 3, 5), "dense": (80, 2)})
    (rule,) = shrink.group_rules(fn, params, models.IMAGE).rules
    assert rule == ("dense", rj.group_lasso(-2, block=16), 1.0)


# Its only leaf of layers has the stream along two axes.
CROSSING = "indexed"


@pytest.mark.parametrize("model", sorted(BY_NAME.keys() - {CROSSING}))
def test_a_group_of_zeros_is_a_unit_that_goes_and_only_that(model):
    fn, params, x = BY_NAME[model]
    spec = shrink.group_rules(fn, params, x)
    assert not sum(cut.removed.sum() for cut in shrink.plan(fn, params, x).cuts)
    leaves, treedef = jax.tree.flatten(params)
    for bound in {b.leaves: b for b in spec.resolve(params) if b.regularizer}.values():
        # Keep all groups but the last: shrink nothing else than that.
        several = [leaves[i] for i in bound.leaves]
        acting = bound.regularizer
        if not bound.is_tied:
            axis = acting.geometry.group_axes[0]
            acting, several = rj.tied_group_lasso((axis,)), several[:1]
        shapes = tuple(x.shape for x in several)
        n_groups = acting.unit_sizes(shapes).size
        kept = acting.geometry.expand(jnp.arange(n_groups) < n_groups - 1, shapes, True)
        zeroed = list(leaves)
        for i, leaf, keep in zip(bound.leaves, several, kept, strict=True):
            zeroed[i] = jnp.where(keep, leaf, 0)
        pruned = treedef.unflatten(zeroed)
        plan = shrink.plan(fn, pruned, x)
        assert sum(cut.removed.sum() for cut in plan.cuts) == 1
        small = shrink.apply(plan, pruned)
        np.testing.assert_allclose(fn(small, x), fn(pruned, x), 1e-5, 1e-5)


def test_training_with_the_spec_ends_in_a_smaller_model():
    fn, params, _ = BY_NAME["gated"]
    x = jnp.asarray(np.random.default_rng(1).normal(size=(64, 4)), jnp.float32)
    teacher = jax.tree.map(lambda w: 2 * w, params)
    teacher["down"] = teacher["down"].at[2:].set(0)
    y = fn(teacher, x)
    spec = shrink.group_rules(fn, params, x, side="all")
    tx = rj.rmda(0.1, spec, 0.02, averaging=0.1)

    def step(carry, _):
        params, state = carry
        grads = jax.grad(lambda p: jnp.mean((fn(p, x) - y) ** 2))(params)
        updates, state = tx.update(grads, state, params)
        return (jax.tree.map(jnp.add, params, updates), state), None

    train = jax.jit(lambda carry: jax.lax.scan(step, carry, length=1000)[0])
    _, state = train((params, tx.init(params)))
    trained = rj.structured_params(state, spec)
    alive = spec.support(trained)["down"]
    assert 0 < alive.sum() < alive.size
    plan = shrink.plan(fn, trained, x)
    small = shrink.apply(plan, trained)
    assert small["down"].shape[0] == small["gate"].shape[1] == alive.sum()
    np.testing.assert_allclose(fn(small, x), fn(trained, x), 1e-5, 1e-6)


def test_units_along_two_axes_of_a_leaf_are_left_out():
    with pytest.raises(ValueError, match="lie along two axes of one leaf"):
        rules(CROSSING)


def test_where_leaves_statistics_out():
    found = rules("normalized", side="producers", where=("conv", "s*"))
    assert found == [{"conv": -1, "scale": -1, "shift": -1}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": "both"}, "`side` must be 'consumers', 'producers' or 'all'"),
        ({"where": "kernel"}, "`where` matches no parameter with 'kernel'. The names"),
        ({"where": "b"}, "no unit whose consumers could be regularized"),
    ],
)
def test_errors(options, message):
    fn, params, x = BY_NAME["mlp"]
    with pytest.raises(ValueError, match=message):
        shrink.group_rules(fn, params, x, **options)


def test_spec_is_an_alias_of_group_rules():
    assert shrink.spec is shrink.group_rules
