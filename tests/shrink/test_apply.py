"""What is like the params is sliced like them, and training goes on."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rmda_jax as rj
from rmda_jax import shrink
from rmda_jax.specs._names import leaf_names
from tests.shrink.test_trace import X, normal

pytestmark = pytest.mark.costly

SHAPES = {"in": (4, 6), "bias": (6,), "out": (6, 3), "shift": (3,)}
KEPT = [0, 2, 3, 5]


def mlp(p, x):
    return jax.nn.sigmoid(x @ p["in"] + p["bias"]) @ p["out"] + p["shift"]


def planned():
    """Return params of which two units are zero, one of them a constant, and a plan."""
    params = normal(SHAPES)
    params["out"] = params["out"].at[1].set(0)
    params["in"] = params["in"].at[:, 4].set(0)
    return params, shrink.plan(mlp, params, X)


def restricted(tree):
    """Slice by hand."""
    tree = {**tree, "in": tree["in"][:, jnp.array(KEPT)]}
    return {**tree, **{name: tree[name][jnp.array(KEPT)] for name in ("bias", "out")}}


def assert_equal(left, right, **tolerance):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x, y, **({"rtol": 0} | tolerance))


def test_params_are_sliced_and_a_bias_takes_the_constants():
    params, plan = planned()
    small = shrink.apply(plan, params)
    unit = jax.nn.sigmoid(params["bias"][4]) * params["out"][4]
    expected = restricted(params) | {"shift": params["shift"] + unit}
    assert_equal(small, expected, atol=1e-6)
    assert_equal(shrink.apply(plan, params, folds=False), restricted(params))


def test_trees_with_the_names_of_the_params_are_sliced():
    params, plan = planned()
    tree = {
        "ema": (params, jnp.ones(())),
        "abstract": jax.eval_shape(lambda: params),
        "numpy": jax.tree.map(np.asarray, params),
        "scales": {"in": jnp.ones(())},
        "other": jnp.ones(7),
        "text": "in",
    }
    small = shrink.apply(plan, tree, folds=True)
    expected = shrink.apply(plan, params)
    assert_equal(small["ema"][0], expected)
    assert_equal(small["numpy"], jax.tree.map(np.asarray, expected))
    assert small["abstract"] == jax.eval_shape(lambda: expected)
    for name in ("scales", "other", "text"):
        assert small[name] is tree[name] or small[name] == tree[name]


def test_the_longest_name_counts():
    def model(p, x):
        return jnp.tanh(x @ p["block"]["in"]) @ p["block"]["out"] + x @ p["in"]

    block = normal({"in": (4, 5), "out": (5, 2)})
    block["out"] = block["out"].at[1:].set(0)
    params = {"block": block, "in": normal({"in": (4, 2)})["in"]}
    plan = shrink.plan(model, params, X)
    shapes = jax.tree.map(jnp.shape, shrink.apply(plan, {"mu": params})["mu"])
    assert shapes == {"block": {"in": (4, 1), "out": (1, 2)}, "in": (4, 2)}


def test_another_shape_is_an_error():
    params, plan = planned()
    with pytest.raises(
        ValueError, match=r"'bias' must have the shape \(6,\).*sliced before"
    ):
        _ = shrink.apply(plan, shrink.apply(plan, params))
    with pytest.raises(ValueError, match=r"got \(5,\). Pass the params"):
        _ = shrink.apply(plan, params | {"bias": jnp.ones(5)})


FACTORED = {
    "adafactor": lambda: optax.adafactor(0.1, min_dim_size_to_factor=2),
    "lbfgs": optax.lbfgs,
    "sm3": lambda: optax.sm3(0.1),
}


@pytest.mark.parametrize("name", FACTORED)
def test_what_an_optimizer_factors_must_be_initialized_anew(name):
    params, plan = planned()
    state = FACTORED[name]().init(params)
    with pytest.raises(ValueError, match=r"parameter '.*it anew, `tx.init\(apply"):
        _ = shrink.apply(plan, state)


def all_in_one(params, opt_state):
    from flax.training.train_state import TrainState

    return TrainState(jnp.array(3), mlp, params, None, opt_state)


@pytest.mark.parametrize(
    "tree",
    [all_in_one, lambda p, s: {"params": p, "opt": s}, lambda p, s: {**p, "opt": s}],
    ids=["TrainState", "dictionary", "beside the params"],
)
@pytest.mark.parametrize("folds", [None, True])
def test_params_and_moments_in_one_tree_are_sliced_each_in_its_way(tree, folds):
    params, plan = planned()
    grads = normal(SHAPES, seed=2)
    tx = optax.chain(optax.adam(0.1), optax.trace(0.9))
    state = tx.update(grads, tx.init(params))[1]
    small = shrink.apply(plan, tree(params, state), folds=folds)
    expected = tree(shrink.apply(plan, params), shrink.apply(plan, state, folds=False))
    assert_equal(small, expected)


ITERATES = {
    "anchor": lambda: rj.ramda(0.1, rj.l1(), 1e-2),
    "z": lambda: optax.contrib.schedule_free_sgd(0.1),
    "params0": optax.contrib.prodigy,
}


@pytest.mark.parametrize("field", ITERATES)
@pytest.mark.parametrize("folds", [None, True, False])
def test_iterates_in_an_optimizer_state_take_the_constants(field, folds):
    params, plan = planned()
    state = ITERATES[field]().init(params)
    state = state[0] if type(state) is tuple else state
    small = getattr(shrink.apply(plan, state, folds=folds), field)
    assert_equal(small, shrink.apply(plan, getattr(state, field)))


@pytest.mark.parametrize("name", ["ema", "mu"])
def test_what_may_be_an_average_or_a_moment_is_not_guessed(name):
    params, plan = planned()
    tree = {"params": params, name: params}
    with pytest.raises(ValueError, match=rf"'{name}/shift'.*opt_state, folds=False"):
        _ = shrink.apply(plan, tree)
    with_folds = shrink.apply(plan, tree, folds=True)
    assert_equal(with_folds[name], shrink.apply(plan, params))
    no_folds = dataclasses.replace(plan, folds={})
    assert_equal(shrink.apply(no_folds, tree)[name], restricted(params))


# Transformations that move every weight by itself, so that those that are left go where
# they would have gone.
TRANSFORMATIONS = {
    "rmda": lambda: rj.rmda(0.1, rj.l1(), 1e-2, averaging=0.5, restart_steps=(4,)),
    "ramda": lambda: rj.ramda(0.1, rj.l1(), 1e-2, averaging=0.5),
    "proxsgd": lambda: rj.proxsgd(0.1, rj.l1(), 1e-2),
    "aprox": lambda: rj.aprox(optax.adam(0.1), 0.1, rj.l1(), 1e-2),
    "normal_map": lambda: rj.normal_map(
        optax.sgd(0.1, 0.9), 0.1, rj.RegularizerMap([("in", rj.l1())]), 1e-2
    ),
    "adam": lambda: optax.adam(0.1),
    "wrapped": lambda: optax.MultiSteps(
        optax.chain(optax.clip(0.1), optax.inject_hyperparams(optax.sgd)(0.1, 0.9)), 2
    ),
}


def gradients():
    return [normal(SHAPES, seed=seed) for seed in range(2, 8)]


def steps(tx, params, state, grads):
    update = jax.jit(tx.update)
    for g in grads:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_training_goes_on(name):
    params, plan = planned()
    plan = dataclasses.replace(plan, folds={})
    tx, grads = TRANSFORMATIONS[name](), gradients()
    cut = lambda tree: shrink.apply(plan, tree)
    params, state = steps(tx, params, tx.init(params), grads[:3])
    small, small_state = steps(tx, cut(params), cut(state), map(cut, grads[3:]))
    params, state = steps(tx, params, state, grads[3:])
    assert_equal(small, cut(params), atol=1e-6)
    assert_equal(small_state, cut(state), atol=1e-6)


def test_the_anchor_takes_what_the_params_take():
    params, plan = planned()
    rules = rj.RegularizerMap([("in", rj.l1())])
    tx, grads = rj.rmda(0.1, rules, 1e-2, averaging=0.5), gradients()
    params, state = steps(tx, params, tx.init(params), grads[:3])
    small = shrink.apply(plan, params)
    small_state = shrink.apply(plan, state, folds=False)
    assert_equal(small_state.grad_sum, shrink.apply(plan, state.grad_sum, folds=False))
    cut = [shrink.apply(plan, g, folds=False) for g in grads[3:]]
    small, _ = steps(tx, small, small_state, cut)
    params, _ = steps(tx, params, state, grads[3:])
    assert_equal(small, shrink.apply(plan, params), atol=1e-6)


def test_masks_of_sparse_training_are_sliced():
    params, plan = planned()
    tx = rj.rigl(optax.sgd(0.1), 0.5, update_every=2, end_step=9)
    state = tx.init(params)
    small = shrink.apply(plan, state, folds=False)
    assert_equal(small.masks, restricted(state.masks))
    grads = [shrink.apply(plan, g, folds=False) for g in gradients()]
    params, small = steps(tx, shrink.apply(plan, params), small, grads)
    assert jax.tree.map(jnp.shape, small.masks) == plan.widths


class Network(nnx.Module):
    """Every kind of layer that keeps sizes of its own."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (2, 2), padding="VALID", rngs=rngs)
        self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
        depthwise = nnx.Conv(8, 8, (2, 2), feature_group_count=8, rngs=rngs)
        grouped = nnx.Conv(8, 6, (2, 2), feature_group_count=2, rngs=rngs)
        blocks = [depthwise, grouped]  # from Flax 0.12 on in an nnx.List
        self.blocks = nnx.List(blocks) if hasattr(nnx, "List") else blocks
        self.dense = nnx.Linear(6, 8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(3, 8, 12, decode=False, rngs=rngs)
        self.head = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        x = jax.nn.relu(self.norm(self.conv(x)))
        for block in self.blocks:
            x = jax.nn.relu(block(x))
        x = self.dense(x).reshape(len(x), -1, self.dense.out_features)
        return self.head(self.attention(x).mean(1))


def with_dead_units(fn, params, x):
    """Set the second unit of every set to zero."""
    names = leaf_names(params)
    leaves = [np.array(x) for x in jax.tree.leaves(params)]
    for units in shrink.trace(fn, params, x).free:
        for m in units.members:
            at = (slice(None),) * m.axis + (m.positions[1],)
            leaves[names.index(m.leaf)][at] = 0
    return jax.tree.unflatten(jax.tree.structure(params), map(jnp.asarray, leaves))


def test_an_nnx_module_is_sliced_in_place():
    module = nnx.jit(lambda: Network(nnx.Rngs(0)))()
    graph, params = nnx.split(module)
    fn = lambda p, x: nnx.merge(graph, p)(x)
    x = normal({"x": (2, 4, 4, 3)}, seed=1)["x"]
    params = with_dead_units(fn, params, x)
    nnx.update(module, params)
    before = jax.jit(fn)(params, x)
    with pytest.raises(ValueError, match=r"must stay of one size.*got 4 and 3"):
        shrink.slice_module(shrink.plan(fn, params, x), module)
    couplings = shrink.trace(fn, params, x)
    heads = couplings.find("attention/value/kernel", 2)
    plan = shrink.plan(fn, params, x, couplings=couplings.keep(*heads))
    small = shrink.apply(plan, params)
    assert shrink.slice_module(plan, module) is None
    after = jax.jit(lambda x: module(x))(x)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6)
    assert_equal(nnx.state(module), small)
    a, b = module.blocks
    assert (module.conv.out_features, module.norm.num_features) == (3, 3)
    assert module.conv.kernel_shape == (2, 2, 3, 3)
    assert (a.feature_group_count, a.in_features, a.out_features) == (3, 3, 3)
    assert (b.feature_group_count, b.in_features, b.out_features) == (1, 3, 2)
    heads = module.attention
    assert (heads.num_heads, heads.head_dim, heads.qkv_features) == (2, 4, 8)
    assert (heads.in_features, heads.out_features) == (7, 7)
    assert heads.query.out_features == heads.out.in_features == (2, 4)
    assert module.head.in_features == 7


class Equinox(eqx.Module):
    conv: eqx.nn.Conv2d
    depthwise: eqx.nn.Conv2d
    attention: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP

    def __init__(self):
        keys = jax.random.split(jax.random.key(0), 4)
        self.conv = eqx.nn.Conv2d(3, 8, 2, key=keys[0])
        self.depthwise = eqx.nn.Conv2d(8, 8, 2, groups=8, key=keys[1])
        self.attention = eqx.nn.MultiheadAttention(
            3, 8, qk_size=4, vo_size=5, key=keys[2]
        )
        self.mlp = eqx.nn.MLP(8, 2, 7, 1, key=keys[3])

    def __call__(self, x):
        x = jax.nn.relu(self.depthwise(jax.nn.relu(self.conv(x))))
        x = x.reshape(len(x), -1).T
        return self.mlp(self.attention(x, x, x).mean(0))


@pytest.mark.not_daily
def test_of_an_equinox_module_a_smaller_one_is_made():
    params, static = eqx.partition(eqx.filter_jit(Equinox)(), eqx.is_array)
    fn = lambda p, x: eqx.combine(p, static)(x)
    x = normal({"x": (3, 4, 4)}, seed=1)["x"]
    params = with_dead_units(fn, params, x)
    module = eqx.combine(params, static)
    plan = shrink.plan(fn, params, x)
    small = shrink.slice_module(plan, module)
    outputs = (jax.jit(lambda x, m=m: m(x))(x) for m in (small, module))
    np.testing.assert_allclose(*outputs, rtol=0, atol=1e-6)
    sliced = jax.tree.leaves(shrink.apply(plan, params))
    assert_equal(jax.tree.leaves(eqx.filter(small, eqx.is_array)), sliced)
    assert (module.conv.out_channels, small.conv.out_channels) == (8, 7)
    assert (small.depthwise.groups, small.depthwise.in_channels) == (7, 7)
    heads = small.attention
    assert (heads.num_heads, heads.qk_size, heads.vo_size) == (2, 4, 4)
    assert (heads.query_size, heads.output_size) == (7, 7)
    assert (small.mlp.in_size, small.mlp.width_size) == (7, 6)
    assert small.mlp.layers[1].in_features == 6


def test_a_module_whose_params_are_a_part_is_sliced():
    class Holder:
        def __init__(self, params):
            self.layers = [params, {}]

    params, plan = planned()
    nested = {"model": {"layers": [params, {}]}, "scale": jnp.ones(())}
    fn = lambda p, x: mlp(p["model"]["layers"][0], x) * p["scale"]
    holder = Holder(dict(params))
    shrink.slice_module(shrink.plan(fn, nested, X), holder)
    assert_equal(holder.layers[0], shrink.apply(plan, params))


def test_a_module_that_is_not_planned_is_an_error():
    _, plan = planned()
    with pytest.raises(ValueError, match="must hold arrays that the plan names, got"):
        shrink.slice_module(plan, nnx.Embed(2, 3, rngs=nnx.Rngs(0)))


def test_a_module_that_could_be_one_of_two_is_an_error():
    class Holder:
        pass

    params, _ = planned()
    both = {"left": params, "right": params}
    fn = lambda p, x: mlp(p["left"], x) + mlp(p["right"], x)
    plan = shrink.plan(fn, both, X)
    holder, module = Holder(), Holder()
    vars(module).update(params)
    with pytest.raises(ValueError, match="'in' of the module could be any of left/in,"):
        shrink.slice_module(plan, module)
    holder.left = module
    shrink.slice_module(plan, holder)
    assert_equal(vars(module), shrink.apply(plan, both)["left"])
