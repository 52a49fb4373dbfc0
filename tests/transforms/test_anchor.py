"""The anchor of dual averaging: the params of `init`, or of the last restart."""

import jax
import jax.numpy as jnp
import optax
import pytest

import rmda_jax as rj
from tests.transforms._table import start

pytestmark = pytest.mark.costly

MAKERS = [rj.rmda, rj.ramda]
methods = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)


def moved(params, by):
    return jax.tree.map(lambda w: w + by, params)


def anchor_after(tx, params, steps):
    """Train from other params than those of `init`, which a test can tell apart."""
    state, now = tx.init(params), moved(params, 1.0)
    for _ in range(steps):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, now), state, now)
        before, now = now, optax.apply_updates(now, updates)
    return state.anchor, before


def same(a, b):
    equal = jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), a, b)
    return all(jax.tree.leaves(equal))


@methods
def test_it_begins_at_the_params_of_init_in_the_dtype_of_the_sums(make):
    params = jax.tree.map(lambda w: w.astype(jnp.bfloat16), start())
    anchor = make(0.1, rj.l1(), 0.1).init(params).anchor
    assert {x.dtype for x in jax.tree.leaves(anchor)} == {jnp.dtype("float32")}
    assert same(anchor, params)


@pytest.mark.not_daily
@methods
def test_without_restarts_it_stays(make):
    anchor, _ = anchor_after(make(0.1, rj.l1(), 0.1), start(), 3)
    assert same(anchor, start())


@methods
@pytest.mark.parametrize("steps", [1, 3, 4])
def test_at_a_restart_it_becomes_the_params_and_at_no_other_step(make, steps):
    tx = make(0.1, rj.l1(), 0.1, restart_steps=(2,))
    anchor, before = anchor_after(tx, start(), steps)
    assert same(anchor, start()) == (steps < 3)
    assert same(anchor, before) == (steps == 3)


@methods
def test_a_state_made_from_shapes_alone_cannot_be_mistaken_for_one_of_params(make):
    tx = make(0.1, rj.l1(), 0.1)
    state, real = tx.init(jax.eval_shape(start)), tx.init(start())
    assert jax.tree.structure(state) == jax.tree.structure(real)
    assert jax.eval_shape(lambda: state) == jax.eval_shape(lambda: real)
    updates, _ = tx.update(start(), state, start())
    nan = [bool(jnp.isnan(x).all()) for x in jax.tree.leaves((state.anchor, updates))]
    assert all(nan)
