"""The laws of RigL and its kin: how many weights, which, what the optimizer sees."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmda_jax.transforms._masks import DISTRIBUTIONS
from rmda_jax.transforms._rigl import rigl
from rmda_jax.transforms._rigl_params import rigl_params
from tests._daily import these
from tests.transforms._sparse import (
    ADAM,
    INNERS,
    METHODS,
    assert_close,
    assert_equal,
    counts,
    gradients,
    history_of,
    jitted,
    leaves,
    make,
    run,
    tree,
)

pytestmark = pytest.mark.costly

# --- how many weights -------------------------------------------------------------


@pytest.mark.parametrize("method", these(["rigl"], ["rigl", "set", "static"]))
def test_number_of_weights_is_exact_after_every_update(method):
    history = history_of(method=method)
    # By hand: 58 of 288 and 32 of 160 weights are 90, to share as 18 to 26.
    conv, head = round(90 * 18 / 44), round(90 * 26 / 44)
    for _, state in history:
        assert counts(state.masks) == [8, conv, head]


@pytest.mark.parametrize("method", these(["granet"], ["pruning", "granet"]))
def test_gradual_number_of_weights_follows_the_cubic(method):
    history = run(make(sparsity=0.75, distribution="uniform", **METHODS[method]))
    for t, (_, state) in enumerate(history):
        last = max((s for s in (2, 4, 6) if s < t), default=0)
        share = 0.75 * (1 - (1 - last / 6) ** 3)
        expected = [8, 288 - round(288 * share), 160 - round(160 * share)]
        assert counts(state.masks) == expected
    assert counts(history[-1][1].masks) == [8, 72, 40]


def test_gradual_pruning_ends_at_the_last_rewiring():
    tx = make(sparsity=0.75, gradual=True, grow=None, update_every=4, end_step=7)
    assert sum(counts(run(tx)[5][1].masks)) == 8 + 448 // 4


def erdos_renyi_kernel(shapes, sparsity):
    """Densities min(1, scale * sum/prod) with the total right, by bisection."""
    sizes = np.array([math.prod(s) for s in shapes])
    raw = np.array([sum(s) for s in shapes]) / sizes
    budget = sum(n - math.floor(sparsity * n) for n in sizes)
    low, high = 0.0, 1 / raw.min()
    for _ in range(200):
        scale = (low + high) / 2
        total = (sizes * np.minimum(1, scale * raw)).sum()
        low, high = (scale, high) if total < budget else (low, scale)
    return np.minimum(1, high * raw)


NETWORKS = {
    "lenet": [(5, 5, 1, 20), (5, 5, 20, 50), (800, 500), (500, 10)],
    "thin": [(3, 3, 3, 8), (3, 3, 8, 8), (1, 1, 8, 64), (64, 10), (64, 2), (7,)],
    "one": [(30, 40)],
    "alike": [(6, 6), (6, 6), (6, 6)],
}


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("network", NETWORKS)
def test_erk_densities_solve_their_equation(network, sparsity):
    shapes = NETWORKS[network]
    densities = DISTRIBUTIONS["erk"](shapes, sparsity)
    expected = erdos_renyi_kernel(shapes, sparsity)
    np.testing.assert_allclose(densities, expected, rtol=1e-12)
    # The total is right, but for rounding up once per leaf.
    sizes = np.array([math.prod(shape) for shape in shapes])
    excess = (sizes * densities).sum() - (1 - sparsity) * sizes.sum()
    assert -1e-6 < excess < len(shapes)


def test_erk_makes_small_leaves_dense():
    params = [jnp.ones(shape) for shape in ((16, 10), (16, 2), (1, 1, 2, 9))]
    kept = counts(rigl(ADAM, 0.5, grow=None).init(params).masks)
    # By hand: the last two are dense, and 105 - 50 weights remain for the first.
    assert kept == [55, 32, 18]


def test_uniform_densities_are_equal():
    tx = rigl(ADAM, 0.9, distribution="uniform", grow=None)
    params = [jnp.ones((10, 7)), jnp.ones((5, 2, 3)), jnp.ones((2, 2))]
    # One weight at least, even of four.
    assert counts(tx.init(params).masks) == [7, 3, 1]


# --- which weights ----------------------------------------------------------------


def rewired(mask, w, g, fraction):
    """The definition, by stable sorts."""
    n_ones = mask.sum()
    n_kept = min(n_ones, max(1, int(np.round(n_ones * (1 - fraction)))))
    order = np.lexsort((np.arange(mask.size), -np.abs(w).ravel(), ~mask.ravel()))
    kept = np.zeros(mask.size, bool)
    kept[order[:n_kept]] = True
    order = np.lexsort((np.arange(mask.size), -np.abs(g).ravel(), kept))
    kept[order[: n_ones - n_kept]] = True
    return kept.reshape(mask.shape)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("levels", [1, 3, 10**6])
def test_rewiring_is_the_definition_ties_and_zeros_included(levels, dtype):
    rng = np.random.default_rng(levels)
    draw = lambda *shape: np.round(levels * rng.normal(size=shape)) / levels
    update = jax.jit(make(update_every=1, begin_step=0, end_step=4).update)
    for t in range(4):
        w, g = jnp.asarray(draw(2, 12, 7), dtype)
        mask = rng.random((12, 7)) < rng.choice([0.1, 0.5, 0.95])
        mask[0, t] = True
        state = make().init(w)._replace(masks=jnp.asarray(mask), count=jnp.int32(t))
        _, state = update(g, state, jnp.where(mask, w, 0))
        fraction = 0.25 * (1 + np.cos(np.pi * t / 4))
        expected = rewired(mask, np.float64(w), np.float64(g), fraction)
        np.testing.assert_array_equal(state.masks, expected)


def test_first_masks_depend_on_the_key_and_on_shapes_alone():
    tx = make(key=jax.random.key(5))
    masks = tx.init(tree(0)).masks
    assert_equal(tx.init(tree(1)).masks, masks)
    assert_equal(tx.init(jax.eval_shape(lambda: tree(0))).masks, masks)
    assert_equal(jax.jit(tx.init)(tree(0)).masks, masks)
    assert_equal(make(key=jax.random.PRNGKey(5)).init(tree(0)).masks, masks)
    other = make(key=jax.random.key(6)).init(tree(0)).masks
    assert not np.array_equal(other["head"]["kernel"], masks["head"]["kernel"])
    assert_equal(make().init(tree(0)), make(key=jax.random.key(0)).init(tree(0)))


def test_random_growth_depends_on_key_and_count_but_not_on_gradients():
    frozen = optax.sgd(0.0)
    tx = make(frozen, grow="random")
    zeros = [jax.tree.map(jnp.zeros_like, g) for g in gradients()]
    history, other = run(tx), run(tx, grads=zeros)
    for (_, a), (_, b) in zip(history, other, strict=True):
        assert_equal(a.masks, b.masks)
    kernels = [state.masks["conv"]["kernel"] for _, state in history]
    pairs = enumerate(itertools.pairwise(kernels))
    # At the last rewiring the drop fraction is 0.
    assert [t for t, (a, b) in pairs if not np.array_equal(a, b)] == [2, 4]
    # Of the same weights, another key drops the same and grows others.
    keyed = make(frozen, grow="random", key=jax.random.PRNGKey(7))
    params, state = history[2]
    _, state = jitted(keyed)(gradients()[2], state, params)
    before, here, there = kernels[2], kernels[3], state.masks["conv"]["kernel"]
    assert not np.array_equal(here, there)
    assert here.sum() == there.sum()
    kept = np.sort(np.abs(params["conv"]["kernel"][before]))[before.sum() // 2 :]
    for mask in (here, there):
        assert set(kept[1:]) <= set(np.abs(params["conv"]["kernel"][before & mask]))


def test_pruned_weights_are_the_smallest_and_stay_away():
    pairs = itertools.pairwise(history_of(method="pruning"))
    for t, ((before, old), (_, new)) in enumerate(pairs):
        for layer in ("conv", "head"):
            was, now = (s.masks[layer]["kernel"] for s in (old, new))
            assert not (now & ~was).any()
            assert (now != was).any() == (t in (2, 4, 6))
            w = np.abs(before[layer]["kernel"])
            assert max(w[was & ~now], default=0) <= w[now].min()


def test_static_masks_never_change():
    history = history_of(method="static")
    for _, state in history:
        assert_equal(state.masks, history[0][1].masks)


@pytest.mark.parametrize("begin", [0, 3, 4])
def test_rewiring_begins_where_it_is_told(begin):
    tx = make(
        optax.sgd(0.1), begin_step=begin, drop_fraction=optax.constant_schedule(0.5)
    )
    head = lambda tree: tree["head"]["kernel"]  # one leaf is enough
    history = run(tx, head(tree(0)), [head(g) for g in gradients()])
    kernels = [state.masks for _, state in history]
    pairs = enumerate(itertools.pairwise(kernels))
    changed = [t for t, (a, b) in pairs if not np.array_equal(a, b)]
    assert changed == [t for t in (0, 2, 4, 6) if t >= begin]


# --- on which leaves --------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sparse"),
    [
        ({}, ["conv/kernel", "head/kernel"]),
        ({"where": "head/*"}, ["head/kernel"]),
        ({"where": ("*/bias", "head/*")}, ["conv/bias", "head/kernel"]),
        ({"where": "*", "dense": "conv/*"}, ["head/kernel"]),
        ({"dense": ["conv/kernel"]}, ["head/kernel"]),
    ],
)
def test_patterns_choose_theleaves(arguments, sparse):
    tx = make(sparsity=0.5, distribution="uniform", **arguments)
    masks = jax.tree.leaves(tx.init(tree(0)).masks)
    names = ["conv/bias", "conv/kernel", "head/kernel"]
    for name, mask in zip(names, masks, strict=True):
        assert mask.sum() == mask.size // (2 if name in sparse else 1)


def test_dense_leaves_do_not_count():
    masks = make(sparsity=0.5, dense="conv/*").init(tree(0)).masks
    assert counts(masks) == [8, 288, 80]


def test_a_bare_array_and_an_empty_leaf():
    assert counts(make(sparsity=0.5).init(jnp.ones((4, 4))).masks) == [8]
    params = {"a": jnp.ones((4, 4)), "none": jnp.ones((0, 4))}
    history = run(make(sparsity=0.5), params, [params] * 3)
    assert counts(history[-1][1].masks) == [8, 0]


# --- what the optimizer sees ------------------------------------------------------

# By default one of each kind of state: a slot for each weight, which does not begin at
# zero; slots that weights share; a copy of the params.
EVERY_DAY = ("adagrad", "adafactor", "schedule-free")


def inners_of(names):
    return pytest.mark.parametrize("inner", these(EVERY_DAY, names))


inners = inners_of(INNERS)


@inners
def test_weights_that_are_not_there_are_exactly_zero(inner):
    for params, state in history_of(inner):
        for w, m in leaves(params, state.masks):
            assert not w[~m].any()
            assert np.isfinite(w).all()


@pytest.mark.parametrize("count", [1, 2])
def test_update_masks_params_that_were_not(count):
    tx = make(INNERS["adamw"])
    state = tx.init(tree(0))._replace(count=jnp.int32(count))
    params, new_state = jitted(tx)(gradients()[0], state, tree(0))
    assert_equal(params, rigl_params(new_state, params))
    # As if they had been: the rest of the update does not see them.
    masked = rigl_params(state, tree(0))
    assert_equal(jitted(tx)(gradients()[0], state, masked), (params, new_state))


@inners
def test_rewiring_is_no_step(inner):
    history = history_of(inner)
    for t in (2, 4, 6):
        (before, old), (after, new) = history[t : t + 2]
        stays = jax.tree.map(lambda a, b: a & b, old.masks, new.masks)
        # What stays keeps its value, dropped and grown back or not; the rest is zero.
        expected = jax.tree.map(lambda m, w: np.where(m, w, 0), stays, before)
        assert_equal(after, expected)
        changed = [np.any(a != b) for a, b in leaves(old.masks, new.masks)]
        assert changed == [False, t < 6, t < 6]  # at the last, f = 0
    # Between them there are steps.
    assert any(np.any(a != b) for a, b in leaves(history[3][0], history[-1][0]))


def test_weight_that_is_dropped_and_grows_back_keeps_value_and_slots():
    tx = make(INNERS["momentum"], sparsity=0.5)
    w, mask = jnp.array([[0.1, 2.0, 3.0, 0.0, 0.0, 0.0]]), jnp.arange(6)[None] < 3
    state = tx.init(w)._replace(masks=mask)
    _, state = jitted(tx)(jnp.ones((1, 6)), state, w)
    state = state._replace(count=jnp.int32(2))
    grads = jnp.array([[9.0, 0.0, 0.0, 1.0, 2.0, 3.0]])
    new, after = jitted(tx)(grads, state, w)
    assert_equal(after._replace(count=state.count), state)
    assert_equal(new, w)


@inners
def test_slots_of_grown_weights_are_fresh_and_no_others_change(inner):
    (before, old), (_, new) = history_of(inner)[4:6]
    stays = jax.tree.map(lambda a, b: a & b, old.masks, new.masks)
    grown = jax.tree.map(lambda a, b: ~a & b, old.masks, new.masks)
    assert counts(grown)[1:] > [0, 0]
    zeroed = jax.tree.map(lambda m, w: np.where(m, w, 0), stays, before)
    fresh = jax.device_get(INNERS[inner].init(zeroed))
    shapes = {m.shape: m for m in jax.tree.leaves(grown)}
    found = 0
    states = (old.inner_state, new.inner_state, fresh)
    for slot_before, slot_after, slot_fresh in leaves(*states):
        # No two leaves, and no slot of another kind, share a shape here.
        m = shapes.get(np.shape(slot_before), np.False_)
        found += int(m.sum())
        expected = jnp.where(m, slot_fresh, slot_before)
        assert (jnp.asarray(slot_after) == expected).all()
        if inner in ("momentum", "adam", "adamw", "clipped"):
            assert not np.asarray(slot_after)[m].any()
    assert (found > 0) == (inner not in ("sgd", "noisy", "everywhere"))


@inners
def test_sparsity_zero_without_growth_is_the_optimizer_itself(inner):
    sparse = run(rigl(INNERS[inner], 0.0, grow=None))
    params, state = tree(0), INNERS[inner].init(tree(0))
    for g in gradients():
        params, state = jitted(INNERS[inner])(g, state, params)
    assert_close(sparse[-1][0], jax.device_get(params))


# By default with clipping, which sees gradients of weights that are not there.
@pytest.mark.parametrize(
    "inner", these(["clipped"], ["momentum", "adamw", "adagrad", "clipped"])
)
def test_static_training_is_the_optimizer_on_the_weights_that_are_there(inner):
    tx = INNERS[inner]
    history = run(make(tx, grow=None))
    masks = history[0][1].masks
    there = lambda tree: jax.tree.map(lambda x, m: x[m], tree, masks)
    params = there(tree(0))
    state = tx.init(params)
    for g in gradients():
        params, state = jitted(tx)(there(g), state, params)
    assert_close(there(history[-1][0]), jax.device_get(params))


def test_extra_arguments_reach_the_optimizer():
    def update(updates, state, params=None, *, factor, **extra_args):
        return jax.tree.map(lambda u: factor * u, updates), state

    inner = optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(), update
    )
    tx, params = make(inner, grow=None), tree(0)
    state = tx.init(params)
    params = rigl_params(state, params)
    updates, _ = tx.update(gradients()[0], state, params, factor=3.0, value=1.0)
    grads = rigl_params(state, gradients()[0])
    assert_equal(updates, jax.tree.map(lambda g: 3.0 * g, grads))
