"""Latent weights: what only `latent` and its kin promise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj
from tests._daily import product
from tests.transforms._table import (
    COLUMNS,
    GROUPS,
    STEPS,
    assert_close,
    assert_equal,
    gradients,
    run,
    start,
)

pytestmark = pytest.mark.costly

INNER = {
    "sgd": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw": lambda: optax.adamw(0.05, weight_decay=0.01),
    "lion": lambda: optax.lion(0.01),
    "muon": lambda: optax.contrib.muon(0.05),
    "adafactor": lambda: optax.adafactor(0.05),
    "schedule_free": lambda: optax.contrib.schedule_free_sgd(0.1),
}
METHODS = {
    "aprox": lambda inner, rules, lam: rj.aprox(inner, 0.1, rules, lam),
    "normal_map": lambda inner, rules, lam: rj.normal_map(inner, 0.1, rules, lam),
    "linbreg": lambda inner, rules, lam: rj.linbreg(
        inner, rules, lam, begin_at_params=False
    ),
}
methods = pytest.mark.parametrize("method", METHODS)
# By default one method around every inner optimizer, and every method around one.
every_inner = product(
    lambda method, inner: inner if method == "aprox" else method,
    method=METHODS,
    inner=INNER,
)


def history(tx, params, grads):
    """Params and states after every update."""
    state, found = tx.init(params), []
    for g in grads:
        params, state = run(tx, params, [g], state)
        found.append((params, state))
    return found


@every_inner
def test_leaves_without_a_regularizer_follow_the_inner_optimizer_alone(method, inner):
    tx = METHODS[method](INNER[inner](), GROUPS, 0.3)
    # Eagerly: two compiled programs may round differently.
    params, state = run(tx, start(), gradients(2), eager=True)
    alone, _ = run(INNER[inner](), start(), gradients(2), eager=True)
    for name in ("conv", "head"):
        assert_equal(params[name]["bias"], alone[name]["bias"])
        assert np.any(np.asarray(params[name]["kernel"] != alone[name]["kernel"]))
    kept = [x.size for x in jax.tree.leaves(state.latent)]
    assert kept == [start()[name]["kernel"].size for name in ("conv", "head")]


@every_inner
def test_params_are_the_prox_of_the_latent_weights(method, inner):
    tx = METHODS[method](INNER[inner](), COLUMNS, 0.1)
    zeros = 0
    for params, state in history(tx, start(), gradients()):
        expected = COLUMNS.prox(state.latent, state.gamma * 0.1)
        assert_close(params, expected, 4)
        flags = COLUMNS.support(params), COLUMNS.support(expected)
        assert_equal(*flags)
        zeros += sum(int((~x).sum()) for x in jax.tree.leaves(flags[0]))
        assert_close(rj.structured_params(state, COLUMNS), expected, 4)
        assert_equal(rj.structured_support(state, COLUMNS), flags[1])
    assert zeros


def test_gamma_is_the_sum_of_the_rates_or_stands():
    rate = optax.exponential_decay(0.1, 1, 0.9)
    inner = optax.sgd(rate)
    found = history(rj.aprox(inner, rate, GROUPS, 0.1), start(), gradients())
    sums = np.cumsum([rate(t) for t in range(STEPS)])
    gammas = [float(state.gamma) for _, state in found]
    np.testing.assert_allclose(gammas, sums, rtol=1e-6)
    for tx in (
        rj.normal_map(inner, rate, GROUPS, 0.1, gamma=2.0),
        rj.linbreg(inner, GROUPS, 0.1, gamma=2.0),
    ):
        assert {float(s.gamma) for _, s in history(tx, start(), gradients())} == {2.0}


def test_weight_decay_acts_on_the_latent_weights():
    inner = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1))
    zero = jax.tree.map(jnp.zeros_like, start())
    _, state = run(rj.aprox(inner, 0.1, rj.l1(), 100.0), start(), [zero] * 3)
    expected = jax.tree.map(lambda w: w * 0.95**3, start())
    assert_close(state.latent, expected, 8)


# --- phases -----------------------------------------------------------------------


def test_before_the_first_prox_the_inner_optimizer_is_alone():
    tx = rj.aprox(optax.adam(0.1), 0.1, GROUPS, 0.5, start_step=4)
    found = history(tx, start(), gradients())
    alone = history(optax.adam(0.1), start(), gradients())
    for (params, state), (expected, _) in zip(found[:4], alone[:4], strict=True):
        assert_close(params, expected, 8)
        assert float(state.gamma) == 0
        assert_close(rj.structured_params(state, GROUPS, params), params, 4)
    assert float(found[4][1].gamma) == pytest.approx(0.1)


def test_a_prox_in_one_of_three_updates_sees_the_whole_gamma():
    every = rj.aprox(optax.sgd(0.1), 0.1, COLUMNS, 0.3)
    third = rj.aprox(optax.sgd(0.1), 0.1, COLUMNS, 0.3, prox_every=3)
    found = history(third, start(), gradients())
    # The gradients are given, so that the latent weights are the same.
    for t, ((a, s), (b, other)) in enumerate(
        zip(found, history(every, start(), gradients()), strict=True)
    ):
        assert_close(s.latent, other.latent, 8)
        assert_equal(s.gamma, other.gamma)
        if t % 3 == 0:
            assert_close(a, b, 8)
            before = jax.tree.map(jnp.subtract, a, s.latent)
        else:
            # Between two proxes the params move as the latent weights do.
            assert_close(a, jax.tree.map(jnp.add, s.latent, before), 8)


@pytest.mark.parametrize("every", [2, 10])
def test_the_limit_is_as_near_as_the_pull_that_is_left_out(every):
    target, params = jnp.array([2.0, 1.0, 0.1]), jnp.zeros(3)
    tx = rj.aprox(optax.sgd(0.1), 0.1, rj.l1(), 0.2, prox_every=every)
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(200 * every + 1):  # the last one takes a prox
        updates, state = update(params - target, state, params)
        params = optax.apply_updates(params, updates)
    # A prox makes up for the pull of the updates before it, all at once.
    behind = jnp.array([1.8, 0.8]) - params[:2]
    assert (behind > 0).all()
    assert (behind < 0.1 * 0.2 * (every - 1)).all()
    assert params[2] == 0


def test_frozen_zeros_stay_and_the_inner_state_goes_on():
    inner, at = optax.sgd(0.1, momentum=0.9), 5
    rules = rj.RegularizerMap([("*/kernel", rj.group_lasso(group_axes=-1))])
    tx = rj.aprox(inner, 0.1, rules, 1.2, freeze_step=at, prox_every=4)
    found = history(tx, start(), gradients())
    frozen = rules.support(found[at - 1][0])
    flags = np.concatenate([np.ravel(x) for x in jax.tree.leaves(frozen)])
    assert 0 < flags.sum() < flags.size
    velocity, params = found[at - 1][1].inner_state[0].trace, found[at - 1][0]
    for g, (now, state) in zip(gradients()[at:], found[at:], strict=True):
        mask = lambda x, w: jnp.where(w == 0, 0, x)
        g["conv"]["kernel"] = mask(g["conv"]["kernel"], params["conv"]["kernel"])
        g["head"]["kernel"] = mask(g["head"]["kernel"], params["head"]["kernel"])
        velocity = jax.tree.map(lambda m, g: 0.9 * m + g, velocity, g)
        step = jax.tree.map(lambda m: -0.1 * m, velocity)
        for name in step:
            step[name]["kernel"] = mask(step[name]["kernel"], params[name]["kernel"])
        params = jax.tree.map(jnp.add, params, step)
        assert_close(now, params, 16)
        assert_equal(rules.support(now), frozen)
        assert_close(rj.structured_params(state, rules, now), now, 8)
    assert float(found[-1][1].gamma) == float(found[at - 1][1].gamma)


def test_gradients_of_frozen_weights_reach_no_others():
    # The global norm would tell of them.
    inner = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    tx = rj.aprox(inner, 0.1, rj.l1(), 1.0, freeze_step=1)
    params = jnp.array([1.0, 2.0, 0.05])
    found = [
        history(tx, params, [jnp.ones(3), jnp.array([3.0, 4.0, frozen])])[-1][0]
        for frozen in (0.0, 100.0)
    ]
    assert found[0][2] == 0
    assert_equal(*found)


def test_what_no_mask_keeps_cannot_be_frozen():
    tx = rj.aprox(optax.sgd(0.1), 0.1, rj.nuclear_norm(), 0.1, freeze_step=5)
    with pytest.raises(NotImplementedError, match="parameter 'w' cannot be frozen"):
        tx.init({"w": jnp.eye(3)})


# --- where the latent weights begin -----------------------------------------------


@pytest.mark.parametrize(
    "regularizer",
    [
        rj.l1(),
        rj.elastic_net(),
        rj.group_lasso(0),
        rj.sparse_group_lasso(0),
        rj.nuclear_norm(),
        rj.regularizers.group_linf(0),
        rj.box(-3.0, 3.0),
    ],
    ids=str,
)
def test_linbreg_begins_where_the_prox_is_the_params(regularizer):
    params = jax.random.normal(jax.random.key(0), (6, 4)).at[::2].set(0).at[1, 1].set(0)
    state = rj.linbreg(optax.sgd(0.1), regularizer, 0.3, gamma=2.0).init(params)
    found = regularizer.prox(state.latent, 0.6)
    assert_close(found, params, 32)
    assert_equal(regularizer.support(found), regularizer.support(params))


def test_linbreg_grows_from_zero_without_bias():
    target = jnp.array([2.0, -1.0, 0.002])
    tx, params = rj.linbreg(optax.sgd(0.5), rj.l1(), 1.0), jnp.zeros(3)
    state, active = tx.init(params), []
    for _ in range(60):
        params, state = run(tx, params, [params - target], state)
        active.append(int((params != 0).sum()))
    assert active == sorted(active)
    assert active[0] == 0
    np.testing.assert_allclose(params, [2.0, -1.0, 0.0], atol=1e-6)
    assert float(params[2]) == 0


# --- budgets, ties, wrappers ------------------------------------------------------


@methods
def test_a_budget_is_kept_in_every_update(method):
    tx = METHODS[method](optax.adam(0.05), GROUPS, rj.budget(n_groups=9))
    for params, state in history(tx, start(), gradients()):
        alive = sum(int(s.sum()) for s in jax.tree.leaves(GROUPS.support(params)))
        assert alive == 9
        assert_equal(
            GROUPS.support(rj.structured_params(state, GROUPS, params)),
            GROUPS.support(params),
        )


def test_groups_that_span_leaves():
    tie = rj.RegularizerMap(
        [(("conv/kernel", "head/kernel"), rj.tied_group_lasso((-1, 1)))]
    )
    tx = rj.normal_map(optax.sgd(0.1), 0.1, tie, 0.22)
    params, _ = run(tx, start(), gradients())
    support = tie.support(params)["conv"]["kernel"]
    assert 0 < int(support.sum()) < support.size
    for name, axis in (("conv", -1), ("head", 1)):
        kernel = jnp.moveaxis(params[name]["kernel"], axis, 0)
        alive = (kernel != 0).reshape(len(kernel), -1).any(1)
        assert_equal(alive, support)


def test_extra_arguments_reach_the_inner_optimizer():
    inner = optax.polyak_sgd(max_learning_rate=0.1)
    tx, params = rj.normal_map(inner, 0.1, rj.l1(), 0.1), jnp.array([1.0, -2.0])
    _, state = tx.update(params, tx.init(params), params, value=jnp.ones(()))
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))


def test_the_state_inside_of_optax_wrappers_is_found():
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        rj.aprox(optax.adam(0.05), 0.05, GROUPS, 2.0),
    )
    params, state = run(tx, start(), gradients())
    assert_close(rj.structured_params(state, GROUPS, params), params, 8)
    unfilled = rj.structured_params(state, GROUPS)
    assert isinstance(unfilled["conv"]["bias"], optax.MaskedNode)
    assert_equal(
        rj.structured_support(state, GROUPS)["conv"]["kernel"],
        GROUPS.support(params)["conv"]["kernel"],
    )


@pytest.mark.parametrize("read", [rj.metrics.stationarity, rj.metrics.margin])
def test_certificates_say_what_the_state_lacks(read):
    _, state = run(rj.aprox(optax.sgd(0.1), 0.1, GROUPS, 0.1), start(), gradients())
    with pytest.raises(TypeError, match=r"no averaged gradient.*subgradient_distance"):
        read(state, GROUPS)


def test_heal_follows_on_a_latent_method():
    method = rj.normal_map(optax.sgd(0.1), 0.1, GROUPS, 0.5)
    tx = rj.heal(method, optax.adam(0.01), GROUPS, STEPS // 2)
    found = history(tx, start(), gradients())
    assert_equal(GROUPS.support(found[STEPS // 2 - 1][0]), GROUPS.support(found[-1][0]))


# --- bad input --------------------------------------------------------------------

SGD = optax.sgd(0.1)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: rj.latent(0.1, rj.l1(), 0.1), TypeError, "`inner` must be a gradient"),
        (lambda: rj.latent(SGD, rj.l1(), 0.1, 0.0), ValueError, "`gamma` must be pos"),
        (
            lambda: rj.latent(SGD, rj.l1(), 0.1, 0.0, growth=0.1, pull=0.1),
            ValueError,
            "`gamma` must be positive",
        ),
        (lambda: rj.linbreg(SGD, rj.l1(), 0.1, -1.0), ValueError, "`gamma` must lie"),
        (
            lambda: rj.latent(SGD, rj.l1(), 0.1, optax.constant_schedule(1.0)),
            TypeError,
            "`growth`",
        ),
        (lambda: rj.aprox(SGD, -0.1, rj.l1(), 0.1), ValueError, "`learning_rate`"),
        (lambda: rj.aprox(SGD, 0.1, rj.l1(), -0.1), ValueError, "`strength`"),
        (
            lambda: rj.aprox(SGD, 0.1, rj.l1(), 0.1, prox_every=0),
            ValueError,
            "`prox_ev",
        ),
        (lambda: rj.aprox(SGD, 0.1, rj.l1(), 0.1, start_step=1.5), TypeError, "`start"),
        (
            lambda: rj.aprox(SGD, 0.1, rj.l1(), 0.1, start_step=5, freeze_step=5),
            ValueError,
            "`freeze_step` must be more than `start_step`, got 5 and 5",
        ),
        (
            lambda: rj.aprox(SGD, 0.1, rj.l1(), 0.1, between_proxes="z"),
            ValueError,
            "`between_proxes` must be 'move' or 'latent', got 'z'",
        ),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("inner", ["rmda", "proxsgd"])
def test_an_inner_optimizer_with_a_prox_is_refused(inner):
    tx = rj.aprox(getattr(rj, inner)(0.1, rj.l1(), 0.1), 0.1, rj.l1(), 0.1)
    with pytest.raises(TypeError, match=f"`inner` must not take a prox.*{inner}"):
        tx.init(jnp.ones(3))


def test_a_state_made_from_shapes_alone_cannot_be_mistaken_for_one_of_params():
    tx = rj.aprox(optax.adam(0.1), 0.1, GROUPS, 0.1)
    shapes = jax.eval_shape(start)
    state, real = tx.init(shapes), tx.init(start())
    assert jax.tree.structure(state) == jax.tree.structure(real)
    assert jax.eval_shape(lambda: state) == jax.eval_shape(lambda: real)
    assert all(bool(jnp.isnan(x).all()) for x in jax.tree.leaves(state.latent))
