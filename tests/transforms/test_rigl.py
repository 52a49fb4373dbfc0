"""The laws of RigL and its kin: how many weights, which, what the optimizer sees."""

import functools
import itertools
import math
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmda_jax.transforms._masks import DISTRIBUTIONS
from rmda_jax.transforms._rigl import RigLState, masked_params, rigl

SHAPES = {"conv": {"kernel": (3, 3, 4, 8), "bias": (8,)}, "head": {"kernel": (16, 10)}}
METHODS = {
    "rigl": {},
    "set": {"grow": "random"},
    "static": {"grow": None},
    "pruning": {"grow": None, "gradual": True},
    "granet": {"gradual": True},
}
STEPS = 9
ADAM = optax.adam(0.05)


def make(inner=ADAM, sparsity=0.8, **changes):
    """Rewires at counts 2, 4 and 6."""
    arguments = {"update_every": 2, "end_step": 6, "drop_fraction": 0.5, **changes}
    return rigl(inner, sparsity, **arguments)


def tree(seed: int, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), dtype),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def gradients(steps: int = STEPS, dtype=np.float32):
    return [tree(10 + i, dtype) for i in range(steps)]


def step_of(tx):
    def step(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


jitted = functools.cache(lambda tx: jax.jit(step_of(tx)))


def run(tx, params=None, grads=None, step=None):
    """Every (params, state) from the first on, which are masked."""
    params = tree(0) if params is None else params
    state = tx.init(params)
    history = [(masked_params(state, params), state)]
    for g in gradients() if grads is None else grads:
        params, state = history[-1]
        history.append((step or jitted(tx))(g, state, params))
    return jax.device_get(history)


@functools.cache
def history_of(inner: str = "adam", method: str = "rigl"):
    return run(make(INNERS[inner], **METHODS[method]))


def assert_equal(actual, desired):
    assert jax.tree.structure(actual) == jax.tree.structure(desired)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def assert_close(actual, desired):
    """Up to the rounding of `STEPS` float32 steps."""
    assert jax.tree.structure(actual) == jax.tree.structure(desired)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def counts(masks) -> list[int]:
    return [int(np.sum(mask)) for mask in jax.tree.leaves(masks)]


def is_rewiring(method: str, t: int) -> bool:
    return t in (2, 4, 6) and method != "static"


# --- how many weights -------------------------------------------------------------


@pytest.mark.parametrize("method", ["rigl", "set", "static"])
def test_number_of_weights_is_exact_after_every_update(method):
    history = history_of(method=method)
    # 288 + 160 weights, 89 or 90 of them; by hand: 1/eps = (18 + 26) / 89.6.
    conv, head = round(18 * 90 / 44), round(26 * 90 / 44)
    for _, state in history:
        assert counts(state.masks) == [8, conv, head]


@pytest.mark.parametrize("method", ["pruning", "granet"])
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
    tx = make(begin_step=begin, drop_fraction=optax.constant_schedule(0.5))
    kernels = [state.masks["head"]["kernel"] for _, state in run(tx)]
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
def test_patterns_choose_the_leaves(arguments, sparse):
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

EVERYWHERE = optax.stateless(
    lambda updates, params: jax.tree.map(lambda u: u + 1.0, updates)
)
LABELS = {"conv": {"kernel": "a", "bias": "b"}, "head": {"kernel": "a"}}
INNERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": ADAM,
    "adamw": optax.adamw(0.05, weight_decay=0.1),
    "adagrad": optax.adagrad(0.1, initial_accumulator_value=0.3),
    "rprop": optax.rprop(0.1),
    "adafactor": optax.adafactor(0.1, min_dim_size_to_factor=8),
    "noisy": optax.noisy_sgd(0.1, key=jax.random.key(1)),
    "everywhere": optax.chain(optax.scale(-0.1), EVERYWHERE),
    "injected": optax.inject_hyperparams(optax.adam)(
        optax.linear_schedule(0.1, 0.01, STEPS)
    ),
    "clipped": optax.chain(optax.clip_by_global_norm(1.0), ADAM),
    "partition": optax.partition({"a": ADAM, "b": optax.sgd(0.1, 0.9)}, LABELS),
    "masked": optax.chain(
        optax.masked(optax.trace(0.9), lambda p: jax.tree.map(lambda x: x.ndim > 2, p)),
        optax.scale(-0.1),
    ),
    "accumulating": optax.MultiSteps(ADAM, 2),
    "schedule-free": optax.contrib.schedule_free_adamw(0.1),
}
inners = pytest.mark.parametrize("inner", INNERS)


@inners
def test_weights_that_are_not_there_are_exactly_zero(inner):
    for params, state in history_of(inner):
        for w, m in zip(
            jax.tree.leaves(params), jax.tree.leaves(state.masks), strict=True
        ):
            assert not w[~m].any()
            assert np.isfinite(w).all()


@pytest.mark.parametrize("count", [1, 2])
def test_update_masks_params_that_were_not(count):
    tx = make(INNERS["adamw"])
    state = tx.init(tree(0))._replace(count=jnp.int32(count))
    params, new_state = jitted(tx)(gradients()[0], state, tree(0))
    assert_equal(params, masked_params(new_state, params))
    # As if they had been: the rest of the update does not see them.
    masked = masked_params(state, tree(0))
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
        changed = [np.any(a != b) for a, b in _leaves(old.masks, new.masks)]
        assert changed == [False, t < 6, t < 6]  # at the last, f = 0
    # Between them there are steps.
    assert any(np.any(a != b) for a, b in _leaves(history[3][0], history[-1][0]))


def _leaves(*trees):
    return zip(*map(jax.tree.leaves, trees), strict=True)


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
    for slot_before, slot_after, slot_fresh in _leaves(*states):
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


@pytest.mark.parametrize("inner", ["momentum", "adamw", "adagrad", "clipped"])
def test_static_training_is_the_optimizer_on_the_weights_that_are_there(inner):
    tx = INNERS[inner]
    history = run(make(tx, grow=None))
    masks = history[0][1].masks
    there = lambda tree: jax.tree.map(lambda x, m: x[m], tree, masks)
    params = there(tree(0))
    state = tx.init(params)
    for g in gradients():
        updates, state = tx.update(there(g), state, params)
        params = optax.apply_updates(params, updates)
    assert_close(there(history[-1][0]), jax.device_get(params))


def test_extra_arguments_reach_the_optimizer():
    def update(updates, state, params=None, *, factor, **extra_args):
        return jax.tree.map(lambda u: factor * u, updates), state

    inner = optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(), update
    )
    tx, params = make(inner, grow=None), tree(0)
    state = tx.init(params)
    params = masked_params(state, params)
    updates, _ = tx.update(gradients()[0], state, params, factor=3.0, value=1.0)
    grads = masked_params(state, gradients()[0])
    assert_equal(updates, jax.tree.map(lambda g: 3.0 * g, grads))


# --- programs ---------------------------------------------------------------------

methods = pytest.mark.parametrize("method", METHODS)


def test_jit_and_eager_agree():
    eager = run(make(), grads=gradients(3), step=step_of(make()))
    assert_close(eager, history_of()[:4])


@methods
def test_state_is_a_scan_carry(method):
    tx = make(**METHODS[method])
    step = lambda carry, grads: (step_of(tx)(grads, *carry[::-1]), None)
    grads = jax.tree.map(lambda *g: jnp.stack(g), *gradients())
    state = tx.init(tree(0))
    carry = masked_params(state, tree(0)), state
    scanned, _ = jax.jit(lambda carry: jax.lax.scan(step, carry, grads))(carry)
    assert_close(scanned, history_of(method=method)[-1])


def test_params_and_state_can_be_donated():
    tx = make()
    state = tx.init(tree(0))
    step = jax.jit(step_of(tx), donate_argnums=(1, 2))
    for t in range(4):
        params, state = (tree(0), state) if t == 0 else (params, state)
        buffers = jax.tree.leaves((params, state.masks, state.inner_state[0].mu))
        params, state = step(gradients()[t], state, params)
        assert all(x.is_deleted() for x in buffers)
    assert_close(jax.device_get((params, state)), history_of()[4])


@methods
def test_state_is_stable_abstract_and_picklable(method):
    tx = make(**METHODS[method])
    shapes = jax.eval_shape(lambda: tree(0))
    state = jax.eval_shape(tx.init, shapes)
    updates, new_state = jax.eval_shape(tx.update, shapes, state, shapes)
    types = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)
    assert types(new_state) == types(state)
    assert types(updates) == types(shapes)
    assert isinstance(state, RigLState)
    assert all(m.dtype == bool for m in jax.tree.leaves(state.masks))
    state = tx.init(tree(0))
    assert_equal(pickle.loads(pickle.dumps(state)), state)
    # Masks and slots are like the params for Optax, and nothing else is.
    marked = optax.tree.map_params(
        tx, lambda x, w: w, state, tree(3), transform_non_params=lambda x: -1
    )
    assert_equal(marked.masks, tree(3))
    assert_equal(marked.inner_state[0].mu, tree(3))
    assert marked.count == marked.inner_state[0].count == -1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_updates_have_the_dtype_of_the_params(dtype):
    inner = optax.sgd(0.1, momentum=0.9, accumulator_dtype=jnp.float32)
    history = run(make(inner), tree(0, dtype), gradients(dtype=dtype))
    updates, _ = make(inner).update(
        tree(1, dtype), make(inner).init(tree(0)), tree(0, dtype)
    )
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    for params, state in history:
        assert_equal(params, jax.device_get(masked_params(state, params)))
        assert counts(state.masks) == counts(history[0][1].masks)


def test_multi_steps_rewires_with_the_mean_of_the_gradients():
    grads = gradients()[:8]
    means = [
        jax.tree.map(lambda a, b: (a + b) / 2, *pair)
        for pair in zip(grads[::2], grads[1::2], strict=True)
    ]
    accumulated = run(optax.MultiSteps(make(), 2), grads=grads)[-1]
    params, state = run(make(), grads=means)[-1]
    assert_close(accumulated[0], params)
    assert_equal(accumulated[1].inner_opt_state.masks, state.masks)


def test_drop_fraction_can_be_injected_and_changed():
    static = ("sparsity", "update_every", "begin_step", "end_step")
    inject = optax.inject_hyperparams(rigl, static_args=static)
    tx = inject(ADAM, 0.8, update_every=2, end_step=6, drop_fraction=0.5)
    injected, plain = run(tx), history_of()
    assert injected[0][1].hyperparams.keys() == {"drop_fraction"}
    assert_close(injected[-1][0], plain[-1][0])
    assert_equal(injected[-1][1].inner_state.masks, plain[-1][1].masks)
    params, state = injected[2]
    state.hyperparams["drop_fraction"] = jnp.float32(0.0)
    _, state = jitted(tx)(gradients()[2], state, params)
    assert_equal(state.inner_state.masks, injected[2][1].inner_state.masks)


def test_drop_fraction_can_be_vmapped():
    params, grads = tree(0), gradients()[2]

    def masks(alpha):
        tx = make(drop_fraction=alpha)
        state = tx.init(params)._replace(count=jnp.int32(2))
        return tx.update(grads, state, masked_params(state, params))[1].masks

    alphas = jnp.array([0.0, 0.4, 1.0])
    lanes = jax.jit(jax.vmap(masks))(alphas)
    for i, alpha in enumerate(alphas):
        assert_equal(jax.tree.map(lambda x, i=i: x[i], lanes), masks(alpha))


# --- masked_params ----------------------------------------------------------------

NESTINGS = {
    "chain": lambda tx: optax.chain(optax.clip(1.0), tx),
    "multi steps": lambda tx: optax.MultiSteps(tx, 2),
    "apply if finite": lambda tx: optax.apply_if_finite(tx, 3),
    "masked": lambda tx: optax.masked(tx, jax.tree.map(lambda _: True, tree(0))),
}


@pytest.mark.parametrize("nesting", NESTINGS)
def test_masked_params_finds_the_masks_in_any_nesting(nesting):
    state = NESTINGS[nesting](make()).init(tree(0))
    expected = masked_params(make().init(tree(0)), tree(0))
    assert_equal(masked_params(state, tree(0)), expected)
    assert_equal(jax.jit(masked_params)(state, tree(0)), expected)
    assert not expected["head"]["kernel"].all()


def test_masked_params_of_a_partition():
    parts = {"a": make(sparsity=0.5), "b": optax.sgd(0.1)}
    state = optax.partition(parts, LABELS).init(tree(0))
    params = masked_params(state, tree(0))
    assert_equal(params["conv"]["bias"], tree(0)["conv"]["bias"])
    kernels = [params[layer]["kernel"] for layer in ("conv", "head")]
    assert sum(int((w != 0).sum()) for w in kernels) == 448 // 2
    both = {"a": make(sparsity=0.5), "b": make(sparsity=0.5, where="*")}
    params = masked_params(optax.partition(both, LABELS).init(tree(0)), tree(0))
    assert int((params["conv"]["bias"] != 0).sum()) == 4


def test_masked_params_without_masks():
    for state in (ADAM.init(tree(0)), (), tree(0)):
        with pytest.raises(TypeError, match="holds no state of rigl, got"):
            masked_params(state, tree(0))


# --- bad input --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"inner": optax.adam}, TypeError, "`inner` must be a gradient transformation"),
        ({"inner": None}, TypeError, "such as optax.sgd(0.1), got None"),
        ({"sparsity": -0.1}, ValueError, "`sparsity` must be at least 0, got -0.1"),
        ({"sparsity": 1.0}, ValueError, "`sparsity` must be less than 1, got 1.0"),
        ({"sparsity": float("nan")}, ValueError, "`sparsity` must be at least 0, got"),
        ({"sparsity": "0.5"}, TypeError, "`sparsity` must be a number, got '0.5'"),
        (
            {"sparsity": jnp.float32(0.5)},
            TypeError,
            "`sparsity` must be a Python number, got an array. With "
            "optax.inject_hyperparams, name it in static_args.",
        ),
        ({"update_every": 0}, ValueError, "`update_every` must be at least 1, got 0"),
        ({"update_every": 2.0}, TypeError, "`update_every` must be an integer, got"),
        ({"begin_step": -1}, ValueError, "`begin_step` must be at least 0, got -1"),
        ({"end_step": 0}, ValueError, "`end_step` must be at least 1, got 0"),
        ({"end_step": 1}, ValueError, "the masks would never change: no multiple of"),
        ({"begin_step": 7}, ValueError, "`begin_step` and `end_step`, got 7 and 6"),
        ({"end_step": None}, ValueError, "`end_step` must be given, got None. The dr"),
        (
            {"end_step": None, "grow": None, "gradual": True},
            ValueError,
            "`end_step` must be given, got None",
        ),
        ({"drop_fraction": 1.5}, ValueError, "`drop_fraction` must lie in [0, 1], got"),
        ({"drop_fraction": "1"}, TypeError, "`drop_fraction` must be a number, an arr"),
        (
            {"distribution": "er"},
            ValueError,
            "`distribution` must be one of 'erk', 'uniform', got 'er'",
        ),
        (
            {"grow": "momentum"},
            ValueError,
            "`grow` must be one of 'gradient', 'random', None, got 'momentum'",
        ),
        ({"where": 5}, TypeError, "`where` must be a pattern or patterns, got 5"),
        (
            {"dense": (None,)},
            TypeError,
            "`dense` must be a pattern or patterns, got (No",
        ),
    ],
    ids=repr,
)
def test_bad_argument(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"where": "*/weight"},
            "rule '*/weight' matches no parameter. The names are: conv/bias, "
            "conv/kernel, head/kernel.",
        ),
        ({"dense": "input/*"}, "rule 'input/*' matches no parameter. The names are"),
        ({"dense": "*"}, "rule '*' never acts: earlier rules take all it matches"),
        (
            {"dense": "*/kernel"},
            "no parameter has two axes, so that nothing would be sparse. The names "
            "are: conv/bias, conv/kernel, head/kernel. Choose some with `where`.",
        ),
    ],
    ids=repr,
)
def test_patterns_that_do_not_fit_the_params(arguments, message):
    tx = make(**arguments)
    with pytest.raises(ValueError, match=re.escape(message)):
        tx.init(tree(0))


def test_bad_trees():
    tx, params = make(), tree(0)
    state = tx.init(params)
    with pytest.raises(ValueError, match="`params` must be passed to `update`, got No"):
        tx.update(params, state)
    with pytest.raises(ValueError, match="must have the same tree structure"):
        tx.update(params["conv"], state, params)
    with pytest.raises(TypeError, match="must be real floating, got dtype int32"):
        tx.init({"kernel": jnp.ones((3, 3), jnp.int32)})
    with pytest.raises(ValueError, match="the tree of params is empty"):
        tx.init({})
