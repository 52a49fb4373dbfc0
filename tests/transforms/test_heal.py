"""Healing: what is frozen, what the optimizer sees, and how the method hands over."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj
from tests._daily import these
from tests.transforms._table import (
    COLUMNS,
    GROUPS,
    STEPS,
    assert_close,
    assert_equal,
    gradients,
    run,
    start,
    step_of,
)

pytestmark = pytest.mark.costly

HALF = STEPS // 2
OPTIMIZERS = {
    "adam": optax.adam(0.01),
    "adamw": optax.adamw(0.01, weight_decay=0.1),
    "momentum": optax.sgd(0.01, momentum=0.9, nesterov=True),
    "noise": optax.noisy_sgd(0.01, eta=1.0, key=0),
    "clipped": optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(1.0)),
}
ROWS = rj.RegularizerMap([("kernel", rj.group_lasso(0))])


@functools.cache  # one object, so that `run` compiles its step once
def ended(*, regularizer=GROUPS, optimizer="adam", method=None, steps=0):
    """Return a transformation that heals after so many steps, at once by default."""
    method = optax.sgd(0.1) if method is None else method
    return rj.heal(method, OPTIMIZERS[optimizer], regularizer, steps)


def zeros(tree):
    return jax.tree.map(lambda x: np.asarray(x) == 0, tree)


def pruned(tree):
    """Params without every other group of `GROUPS`, and with a zero in each other."""

    def leaf(x):
        if x.ndim < 2:
            return x
        x = x.at[..., ::2, :].set(0)
        return x.at[..., 1::2, 0].set(0)

    return jax.tree.map(leaf, tree)


def groups_of(tree):
    return {name: leaf["kernel"] for name, leaf in tree.items()}


# --- what is frozen ---------------------------------------------------------------


# By default every optimizer in float32, and one in fewer digits.
TRAINED = [("adam", jnp.bfloat16), *((name, jnp.float32) for name in OPTIMIZERS)]
TRAINED += [
    pytest.param(name, jnp.bfloat16, marks=pytest.mark.long)
    for name in OPTIMIZERS
    if name != "adam"
]


@pytest.mark.parametrize(("optimizer", "dtype"), TRAINED)
def test_zero_groups_stay_exactly_zero_and_all_else_trains(optimizer, dtype):
    tx = ended(optimizer=optimizer, regularizer=ROWS)
    step = step_of(tx)
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    # Rows that are zero as a whole, and a zero in each of the others.
    first = {"bias": draw(6), "kernel": draw(8, 6).at[::2].set(0).at[:, 0].set(0)}

    def body(carry, g):
        params, state = step(*carry, g)
        return (params, state), params["kernel"]

    grads = {"bias": draw(500, 6), "kernel": draw(500, 8, 6)}
    train = jax.jit(lambda carry, gs: jax.lax.scan(body, carry, gs))
    (last, _), kernels = train((first, tx.init(first)), grads)
    assert not kernels[:, ::2].any()
    assert (kernels[-1, 1::2] != first["kernel"][1::2]).all()
    assert (last["bias"] != first["bias"]).all()
    assert all(np.isfinite(np.float32(x)).all() for x in jax.tree.leaves(last))


@pytest.mark.parametrize(
    "optimizer", sorted(OPTIMIZERS.keys() - {"noise"})
)  # of other shape
def test_the_optimizer_works_as_on_the_support_alone(optimizer):
    rows = np.array([1, 3, 4, 15])
    kernel = lambda tree: tree["head"]["kernel"]
    # Frozen entries have gradients, and large ones.
    params = jnp.zeros((16, 8)).at[rows].set(kernel(start())[rows])
    grads = [jnp.full((16, 8), 50.0).at[rows].set(kernel(g)[rows]) for g in gradients()]
    tx = ended(optimizer=optimizer, regularizer=rj.group_lasso(0))
    found, _ = run(tx, params, grads)
    alone = run(OPTIMIZERS[optimizer], params[rows], [g[rows] for g in grads])[0]
    assert_close(found[rows], alone, 10 * STEPS)
    assert not np.delete(found, rows, axis=0).any()


def test_zeros_inside_of_groups_stay_where_they_are_structure():
    regularizer = rj.RegularizerMap([("*/kernel", rj.sparse_group_lasso(-2))])
    params = pruned(start())
    last, _ = run(ended(regularizer=regularizer), params, gradients())
    assert_equal(zeros(groups_of(last)), zeros(groups_of(params)))


@pytest.mark.parametrize(
    "regularizer", [rj.n_m(2, 4), rj.top_k(3), rj.regularizers.top_groups(2, -1)]
)
def test_sets_that_count_nonzeros_are_kept(regularizer):
    x = regularizer.prox(start()["head"]["kernel"], 1.0)
    last, _ = run(ended(regularizer=regularizer), x, [x + 1] * 5)
    assert_equal(regularizer.prox(last, 1.0), last)
    assert (last != x).sum() == (x != 0).sum()


def test_groups_that_span_leaves_are_frozen_in_all_of_them():
    tie = rj.tied_group_lasso((-1, -2), groups=[[0, 1, 2, -1], None])
    rules = rj.RegularizerMap([(("a", "b"), tie)])
    a = jnp.ones((2, 4)).at[:, jnp.array([0, 1, 3])].set(0)
    b = jnp.ones((3, 2)).at[0].set(0).at[2].set(0)
    params = {"a": a, "b": b}
    last, _ = run(ended(regularizer=rules), params, [{"a": a + 1, "b": b + 1}])
    # Group 0 is zero in both; group 1 lives in b, group 2 in a; the last is in none.
    moved = jax.tree.map(lambda x, w: (x != w).all(-1), last, params)
    np.testing.assert_array_equal(moved["b"], [False, True, True])
    columns = (last["a"] != a).all(0)
    np.testing.assert_array_equal(columns, [False, True, True, True])


METHODS = {
    "rmda": rj.rmda(0.1, GROUPS, 0.3, averaging=0.1),
    "ramda": rj.ramda(0.1, GROUPS, 0.3, averaging=0.1),
    "proxsgd": rj.proxsgd(0.1, GROUPS, 0.4, averaging=0.3),
    "proxgen": rj.proxgen(0.1, GROUPS, 0.4),
    "rigl": rj.rigl(optax.sgd(0.1), 0.5, update_every=2, end_step=4),
    "chain": optax.chain(optax.clip(1.0), rj.rmda(0.1, GROUPS, 0.3)),
    "inject": optax.inject_hyperparams(rj.rmda, static_args="restart_steps")(
        0.1, GROUPS, 0.3
    ),
    "accumulated": optax.MultiSteps(rj.rmda(0.3, GROUPS, 0.3), 2),
    "partition": optax.partition(
        {"dual": rj.rmda(0.1, GROUPS, 0.3), "plain": optax.adam(0.1)},
        lambda tree: {name: {"bias": "plain", "kernel": "dual"} for name in start()},
    ),
    "sgd": optax.sgd(0.1),
}
ITERATES = "rmda ramda chain inject accumulated partition".split()
# By default one of each kind: its state holds the iterate; a part of it does; the zeros
# are those of its params; or of its masks.
EVERY_DAY = ("rmda", "partition", "proxsgd", "rigl")


def methods(names=tuple(METHODS)):
    return pytest.mark.parametrize("method", these(EVERY_DAY, names))


@functools.cache
def history_of(method):
    """Params and state of `heal` after every step, and those of its method alone."""
    entries = rj.RegularizerMap([("*/kernel", rj.regularizers.l0())])
    regularizer = entries if method == "rigl" else GROUPS
    tx = ended(regularizer=regularizer, method=METHODS[method], steps=HALF)
    both = []
    for t in (tx, METHODS[method]):
        history = [(start(), t.init(start()))]
        for g in gradients():
            params, state = history[-1]
            history.append(run(t, params, [g], state))
        both.append(history)
    return regularizer, *both


@methods()
def test_support_is_that_of_the_method_from_the_start_step_on(method):
    regularizer, healed, _ = history_of(method)
    there = regularizer.support(healed[HALF][0])
    if method != "sgd":
        assert 0 < float(rj.metrics.group_sparsity(healed[HALF][0], regularizer)) < 1
    for params, _ in healed[HALF + 1 :]:
        assert_equal(regularizer.support(params), there)
        assert not np.array_equal(
            params["head"]["kernel"], healed[HALF][0]["head"]["kernel"]
        )


# --- the method, and how it hands over --------------------------------------------


@methods()
def test_until_its_last_update_the_method_is_alone(method):
    _, healed, alone = history_of(method)
    for (params, state), (expected, own) in zip(
        healed[:HALF], alone[:HALF], strict=True
    ):
        assert_close((params, state.method_state), (expected, own), 4 * HALF)
    assert_close(healed[HALF][1].method_state, alone[HALF][1], 4 * HALF)


@methods(ITERATES)
def test_its_last_update_ends_at_the_structured_iterate(method):
    _, healed, alone = history_of(method)
    iterate = rj.structured_params(alone[HALF][1], GROUPS, alone[HALF][0])
    assert_close(healed[HALF][0], iterate, 4 * HALF)
    assert_equal(zeros(healed[HALF][0]), zeros(iterate))
    # Alone, its params are not there yet.
    kernels = groups_of(zeros(alone[HALF][0])), groups_of(zeros(iterate))
    assert sum(x.sum() for x in jax.tree.leaves(kernels[1])) > sum(
        x.sum() for x in jax.tree.leaves(kernels[0])
    )


@methods(["proxsgd", "proxgen", "rigl"])
def test_the_last_update_of_other_methods_is_their_own(method):
    _, healed, alone = history_of(method)
    assert_close(healed[HALF][0], alone[HALF][0], 4 * HALF)
    assert_equal(zeros(healed[HALF][0]), zeros(alone[HALF][0]))


def test_the_optimizer_starts_at_the_params_of_its_phase():
    """One that remembers its first params, and a schedule that counts its updates."""
    pull = optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.copy, params),
        lambda updates, state, params: (
            jax.tree.map(lambda w0, w: 0.5 * (w0 - w), state, params),
            state,
        ),
    )
    rates = jnp.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    optimizer = optax.chain(optax.sgd(lambda count: rates[count]))
    for then, moves in (
        (pull, [False] * HALF),
        (optimizer, [False, True] + [False] * 2),
    ):
        tx = rj.heal(METHODS["rmda"], then, GROUPS, HALF)
        params, state = run(tx, start(), gradients()[:HALF])
        for g, moved in zip(gradients()[HALF:], moves, strict=True):
            new, state = run(tx, params, [g], state)
            same = np.array_equal(new["head"]["kernel"], params["head"]["kernel"])
            assert same != moved
            params = new


def test_without_an_update_of_the_method_there_is_no_iterate_and_the_params_stay():
    careful = optax.apply_if_finite(METHODS["rmda"], 100)
    tx = ended(method=careful, steps=2)
    bad = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), start())
    params, state = run(tx, start(), [bad, bad])
    assert state.healing
    assert_equal(params, start())


def counted(calls, name, inner):
    def update(updates, state, params=None):
        jax.debug.callback(lambda: calls.append(name))
        return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)


def test_only_the_phase_that_is_active_computes():
    calls = []
    first = counted(calls, "method", METHODS["proxsgd"])
    then = counted(calls, "optimizer", OPTIMIZERS["adam"])
    _ = run(rj.heal(first, then, GROUPS, 3), start(), gradients())
    jax.effects_barrier()
    assert calls == ["method"] * 3 + ["optimizer"] * (STEPS - 3)


def test_runs_in_different_phases_share_a_batch():
    tx = ended(method=METHODS["rmda"], steps=HALF)
    _, healed, _ = history_of("rmda")
    alone = [healed[t] for t in (1, HALF - 1, HALF, STEPS - 1)]
    batch = jax.tree.map(lambda *x: jnp.stack(x), *alone)
    g = gradients()[0]
    found = jax.jit(jax.vmap(step_of(tx), in_axes=(0, 0, None)))(*batch, g)
    for lane, (params, state) in enumerate(alone):
        got = jax.tree.map(lambda x, lane=lane: x[lane], found)
        expected = run(tx, params, [g], state)
        assert_close(got, expected, 100)
        assert_equal(zeros(got[0]), zeros(expected[0]))


def test_the_state_is_that_of_both_and_two_scalars():
    tx = ended(method=METHODS["rmda"], steps=HALF)
    count, healing, *states = tx.init(start())
    assert (count.shape, healing.shape) == ((), ())
    assert_equal(states[0], METHODS["rmda"].init(start()))
    assert_equal(states[1], OPTIMIZERS["adam"].init(start()))


def test_extra_arguments_reach_both():
    seen = []

    def update(updates, state, params=None, *, value, **_):
        seen.append(value)
        return updates, state

    tell = optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
    tx = rj.heal(tell, tell, rj.l1(), 1)
    _ = tx.update(start(), tx.init(start()), start(), value="this")
    assert seen == ["this", "this"]


# --- what is read of its state ----------------------------------------------------

READERS = [
    rj.structured_params,
    rj.structured_support,
    rj.metrics.stationarity,
    rj.metrics.margin,
]


@pytest.mark.parametrize("read", READERS)
@methods(["rmda", "chain"])
def test_before_it_heals_its_state_is_read_as_that_of_the_method(method, read):
    _, healed, _ = history_of(method)
    for state in (healed[2][1], (optax.EmptyState(), healed[HALF - 1][1])):
        inner = state if isinstance(state, rj.HealState) else state[1]
        assert_equal(read(state, GROUPS), read(inner.method_state, GROUPS))


@pytest.mark.parametrize("read", READERS)
def test_once_it_heals_the_iterate_of_its_method_is_not_returned(read):
    _, healed, _ = history_of("rmda")
    for t in (HALF, STEPS):
        state = healed[t][1]
        for nested in (state, (optax.EmptyState(), state)):
            with pytest.raises(TypeError, match=r"`heal` heals: .* the params carry"):
                read(nested, GROUPS)
    at_once = ended(method=METHODS["rmda"]).init(start())
    with pytest.raises(TypeError, match=r"`heal` heals: .* the params carry"):
        read(at_once, GROUPS)


@pytest.mark.parametrize("read", READERS)
def test_traced_nobody_knows_whether_it_heals(read):
    _, healed, _ = history_of("rmda")
    with pytest.raises(TypeError, match=r"not known while this is traced, .* `params`"):
        jax.jit(lambda state: read(state, GROUPS))(healed[2][1])
    of_method = jax.jit(lambda state: read(state.method_state, GROUPS))
    assert jax.tree.leaves(of_method(healed[2][1]))


@pytest.mark.parametrize("read", [lambda f: f, jax.jit], ids=["eager", "compiled"])
def test_with_params_the_structured_params_are_right_in_both_phases(read):
    extract = read(lambda s, p: rj.structured_params(s, GROUPS, p))
    _, healed, alone = history_of("rmda")
    for t in range(1, HALF):
        expected = rj.structured_params(alone[t][1], GROUPS)
        assert_close(extract(healed[t][1], healed[t][0]), expected, 4 * HALF)
    for t in range(HALF, STEPS + 1):
        assert_equal(extract(healed[t][1], healed[t][0]), healed[t][0])


def test_with_params_each_part_of_a_partition_is_read_by_itself():
    labels = {name: {"bias": name, "kernel": name} for name in start()}
    rules = rj.RegularizerMap([("*", rj.l1())])
    dual = rj.rmda(0.1, rules, 0.3, averaging=0.1)
    parts = {"conv": dual, "head": ended(regularizer=rules, method=dual, steps=2)}
    params, state = run(optax.partition(parts, labels), start(), gradients())
    found = rj.structured_params(state, rules, params)
    expected, _ = run(optax.partition({"conv": dual, "head": dual}, labels),
                      start(), gradients())  # fmt: skip
    alone = run(dual, start(), gradients())[1]
    assert_close(found["conv"], rj.structured_params(alone, rules)["conv"], 4 * STEPS)
    assert_equal(found["head"], params["head"])
    assert not np.array_equal(params["head"]["bias"], expected["head"]["bias"])


def test_it_may_be_the_method_of_another():
    inner = ended(method=METHODS["rmda"], steps=2)
    outer = ended(method=inner, steps=HALF, optimizer="momentum")
    params, state = run(outer, start(), gradients())
    expected, _ = run(inner, start(), gradients()[:HALF])
    between, _ = run(outer, start(), gradients()[:HALF])
    assert_equal(between, expected)
    assert_equal(zeros(groups_of(params)), zeros(groups_of(expected)))
    with pytest.raises(TypeError, match="`heal` heals"):
        rj.structured_params(state, GROUPS)


# --- what is refused --------------------------------------------------------------


@pytest.mark.parametrize(
    "regularizer",
    [
        rj.nuclear_norm(),
        rj.regularizers.max_rank(2),
        rj.ternary(),
        rj.box(-1.0, 1.0),
        rj.regularizers.boxed(rj.l1(), 0.0, 1.0),
        rj.regularizers.l1_ball(),
        rj.regularizers.total_variation(),
    ],
    ids=str,
)
def test_structure_that_no_mask_keeps_is_refused_at_init(regularizer):
    rules = rj.RegularizerMap([("head/kernel", regularizer), ("*/bias", rj.l1())])
    message = r"parameter 'head/kernel' cannot be frozen: .* `prox` or `snap`"
    with pytest.raises(NotImplementedError, match=message) as caught:
        ended(regularizer=rules).init(start())
    assert str(regularizer) in str(caught.value)
    spared = rj.RegularizerMap([("head/kernel", None), ("*", COLUMNS.rules[0][1])])
    assert ended(regularizer=spared).init(start())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "rmda"}, TypeError, "`method` must be a gradient transformation"),
        ({"optimizer": optax.adam}, TypeError, "`optimizer` must be a gradient trans"),
        ({"start_step": -1}, ValueError, "`start_step` must be at least 0, got -1"),
        ({"start_step": 2.5}, TypeError, "`start_step` must be an integer, got 2.5"),
        ({"start_step": jnp.int32(2)}, TypeError, "`start_step` .* in static_args"),
    ],
)
def test_arguments_that_are_refused(arguments, error, message):
    good = dict(method=METHODS["rmda"], optimizer=OPTIMIZERS["adam"], start_step=2)
    with pytest.raises(error, match=message):
        rj.heal(**{"regularizer": GROUPS, **good, **arguments})


def test_a_chain_that_goes_on_after_the_iterate_is_refused():
    decayed = optax.chain(METHODS["rmda"], optax.add_decayed_weights(0.1))
    tx = ended(method=decayed, steps=2)
    with pytest.raises(ValueError, match="nothing that changes updates may stand afte"):
        tx.update(start(), tx.init(start()), start())
