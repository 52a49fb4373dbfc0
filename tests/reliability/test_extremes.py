"""Strengths, shapes, sizes and numbers of steps at their extremes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj
from tests._daily import daily
from tests._x64 import float64
from tests.transforms._table import (
    CONSTANTS,
    assert_close,
    assert_equal,
    factories,
    gradients,
    run,
    start,
    step_of,
)

pytestmark = pytest.mark.costly

# Of what no transformation does in its own way, by default the first.
first_by_default = functools.partial(daily, lambda row: None)


# --- strength ---------------------------------------------------------------------


@first_by_default(factories("averages_gradients"))
def test_huge_strength_zeroes_everything_and_is_forgotten(row):
    rules = rj.RegularizerMap([("*", rj.group_lasso(-1))])

    @jax.jit
    def step(strength, params, state, grads):
        tx = row.make_constant(regularizer=rules, strength=strength)
        return step_of(tx)(params, state, grads)

    def structure(*strengths):
        params = start()
        state = row.make_constant(regularizer=rules).init(params)
        for strength, g in zip(strengths, gradients(), strict=False):
            params, state = step(jnp.float32(strength), params, state, g)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
        return rj.structured_params(state, rules)

    for huge in (1e30, np.inf):
        zeros = jax.tree.map(jnp.zeros_like, start())
        assert_equal(structure(0.3, huge), zeros)
        # The sums hold gradients alone: no trace is left, whatever comes after.
        for after in (0.3, 0.0):
            found = structure(0.3, huge, after)
            assert_equal(found, structure(after, after, after))
            assert any(x.any() for x in jax.tree.leaves(found))


# --- restarts ---------------------------------------------------------------------


@first_by_default(factories("restarts", "first_step"))
def test_restarts_at_the_last_and_at_every_step(row):
    grads = gradients(3)
    numbers = CONSTANTS["learning_rate"], CONSTANTS["strength"]
    step = lambda params, g: row.first_step(row.regularizer, params, g, *numbers)
    # A first step is a proximal step, whichever it is.
    for restarts, n_before in (((2,), 2), ((0, 1, 2), 0)):
        tx = row.make_constant(restart_steps=restarts, **row.plain)
        expected, state = run(tx, start(), grads[:n_before])
        actual, state = run(tx, expected, grads[n_before:], state)
        for g in grads[n_before:]:
            expected = step(expected, g)
        assert_close(actual, expected, row.ulps(3))
        assert (int(state.count), int(state.stage_count)) == (3, 1)


# --- shapes -----------------------------------------------------------------------

ODD = {
    "empty groups": (4, 0),
    "no groups": (0, 3),
    "one group": (1, 5),
    "of size one": (5, 1),
    "one entry": (1, 1),
    "scalar": (),
}
ODD_RULES = rj.RegularizerMap([("scalar", rj.l1()), ("*", rj.group_lasso(-2))])


def odd_tree(seed):
    rng = np.random.default_rng(seed)
    return {name: jnp.float32(rng.normal(size=ODD[name])) for name in ODD}


@pytest.mark.not_daily
@first_by_default(factories("regularized"))
def test_groups_may_be_empty_single_or_missing(row):
    grads = [odd_tree(i + 1) for i in range(3)]
    params, state = run(row.make_constant(regularizer=ODD_RULES), odd_tree(0), grads)
    assert {name: x.shape for name, x in params.items()} == ODD
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((params, state)))
    # A group of one entry is an entry.
    l1 = rj.RegularizerMap([("one group", rj.group_lasso(-2)), ("*", rj.l1())])
    expected, l1_state = run(row.make_constant(regularizer=l1), odd_tree(0), grads)
    assert_close(params, expected, row.ulps(3))
    if row.structured:
        structured = rj.structured_params(state, ODD_RULES)
        assert_close(structured, rj.structured_params(l1_state, l1), row.ulps(3))


# --- sizes ------------------------------------------------------------------------


@pytest.mark.not_daily
def test_a_million_groups_are_those_of_numpy():
    shape, eta, lam, steps = (1_000_000, 2), 0.5, 0.7, 3
    rng = np.random.default_rng(0)
    w, *grads = rng.normal(size=(steps + 1, *shape)).astype(np.float32)
    rows_ = rj.group_lasso(group_axes=0)
    tx = rj.rmda(eta, rows_, lam, averaging=1.0)
    _, state = run(tx, jnp.asarray(w), [jnp.asarray(g) for g in grads])
    structured = np.asarray(rj.structured_params(state, rows_))

    t = np.arange(1, steps + 1)
    center = w - np.tensordot(np.sqrt(t / steps), np.float64(grads), 1) * eta
    level = eta * np.sqrt(t / steps).sum() * lam * np.sqrt(2)
    norms = np.linalg.norm(center, axis=1, keepdims=True)
    expected = center * np.maximum(1 - level / norms, 0)
    np.testing.assert_allclose(structured, expected, rtol=0, atol=3e-6)
    zero, wanted = np.any(structured != 0, 1), np.any(expected != 0, 1)
    # A norm within rounding of the level may fall on either side: of a million, few do.
    assert (np.abs(norms[zero != wanted, 0] - level) < 2e-6).all()
    assert 0.1 < wanted.mean() < 0.9


def check_leaves(n, eager):
    rules = rj.group_lasso(group_axes=0)
    rng = np.random.default_rng(0)
    w, *grads = jnp.float32(rng.normal(size=(3, 2 * n, 3)))
    split = lambda x: {f"layer{i:03}": x[2 * i : 2 * i + 2] for i in range(n)}
    tx = rj.rmda(0.5, rules, 1.0, averaging=1.0)
    params, _ = run(tx, split(w), [split(g) for g in grads], eager=eager)
    together, _ = run(tx, w, grads, eager=eager)
    assert_close(np.concatenate(list(params.values())), np.asarray(together), 20)
    alive = np.any(np.asarray(together) != 0, axis=1)
    assert 0.1 < alive.mean() < 0.9
    np.testing.assert_array_equal(
        np.concatenate([np.any(np.asarray(x) != 0, axis=1) for x in params.values()]),
        alive,
    )


@pytest.mark.long
@pytest.mark.parametrize("eager", [True, False])
def test_a_thousand_leaves_are_one(eager):
    check_leaves(1000, eager=eager)


def test_a_hundred_leaves_are_one():
    check_leaves(100, eager=True)


# --- gradients that are not finite ------------------------------------------------


@pytest.mark.long
def test_ten_thousand_steps_with_poisoned_gradients_among_them():
    n_steps, rng = 10_000, np.random.default_rng(0)
    grads = np.float32(rng.normal(size=(n_steps, 4, 3))) + 0.1
    poisoned = rng.random(n_steps) < 0.4
    where = poisoned.nonzero()[0], *rng.integers((4, 3), size=(poisoned.sum(), 2)).T
    grads[where] = rng.choice([np.nan, np.inf, -np.inf], poisoned.sum())
    tx = rj.rmda(0.1, rj.group_lasso(-2), 0.05, averaging=0.1, restart_steps=(999,))
    tx = optax.apply_if_finite(tx, n_steps)
    step = step_of(tx)
    train = jax.jit(
        lambda params, grads: jax.lax.scan(
            lambda carry, g: (step(*carry, g), None), (params, tx.init(params)), grads
        )[0]
    )
    params = jnp.ones((4, 3))
    found, clean = train(params, grads), train(params, grads[~poisoned])
    assert int(found[1].total_notfinite) == poisoned.sum() > 3000
    assert_equal(found[0], clean[0])
    assert_equal(found[1].inner_state, clean[1].inner_state)


# --- numbers of steps -------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("n_steps", "dtype"))
def trained(n_steps, dtype):
    """Train one number towards 1 and one towards 0.02, under noise that repeats."""
    rng = np.random.default_rng(0)
    noise = jnp.asarray(np.round(256 * rng.normal(size=(997, 2))) / 256, dtype)
    target = jnp.asarray([1.0, 0.03125], dtype)
    tx = rj.rmda(0.125, rj.l1(), 0.125, averaging=0.0625)

    def step(count, carry):
        w, state = carry
        updates, state = tx.update(w - target + noise[count % 997], state, w)
        return optax.apply_updates(w, updates), state

    w = jnp.zeros(2, dtype)
    w, state = jax.lax.fori_loop(0, n_steps, step, (w, tx.init(w)))
    return w, rj.structured_params(state, rj.l1()), state.mean_gradient()


def check_accuracy(n_steps):
    with float64():
        wide = jax.device_get(trained(n_steps, jnp.float64))
    narrow = jax.device_get(trained(n_steps, jnp.float32))
    assert wide[2].dtype == np.float64
    assert narrow[2].dtype == np.float32
    assert (narrow[1] == 0).tolist() == (wide[1] == 0).tolist() == [False, True]
    # Sum and weights forget by the same rounded factor, so that their quotient keeps
    # three digits: the threshold is at 0.125. (Measured after 1e6 steps: 5e-5.)
    np.testing.assert_allclose(narrow[2], wide[2], rtol=0, atol=1e-4)
    # The iterates are what is left of sums as large as 1e4. (Measured: 2.7e-3.)
    for x, y in zip(narrow[:2], wide[:2], strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=5e-3)


def test_float32_keeps_its_accuracy_over_many_steps():
    check_accuracy(100_000)


@pytest.mark.long
def test_float32_keeps_its_accuracy_over_a_million_steps():
    check_accuracy(1_000_000)
