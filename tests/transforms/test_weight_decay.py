"""Weight decay that does not depend on the strength: where it acts, and how much."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj
from tests.transforms._table import (
    GROUPS,
    assert_close,
    assert_equal,
    gradients,
    run,
    start,
)

pytestmark = pytest.mark.costly

MASK = {"conv": False, "head": True}
MAKE = {
    "rmda": functools.partial(rj.rmda, 0.1, averaging=0.3),
    "ramda": functools.partial(rj.ramda, 0.1, averaging=0.3),
    "proxgen": functools.partial(rj.proxgen, 0.1),
}
each = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


@pytest.mark.not_daily
@each
@pytest.mark.parametrize("mask", [MASK, lambda params: MASK], ids=["tree", "function"])
def test_a_mask_says_which_leaves_decay(make, mask):
    plain, _ = run(make(GROUPS, 0.3), start(), gradients())
    masked, _ = run(
        make(GROUPS, 0.3, weight_decay=0.5, decay_mask=mask), start(), gradients()
    )
    assert_close(masked["conv"], plain["conv"], 4)
    bias, decayed = plain["head"]["bias"], masked["head"]["bias"]
    assert np.all(np.asarray(bias != decayed))
    assert float(jnp.linalg.norm(decayed)) < float(jnp.linalg.norm(bias))


@each
def test_no_decay_is_decay_zero(make):
    plain, _ = run(make(GROUPS, 0.3), start(), gradients())
    zero, _ = run(make(GROUPS, 0.3, weight_decay=jnp.zeros(())), start(), gradients())
    assert_close(zero, plain, 8)


@pytest.mark.parametrize("method", ["rmda", "ramda"])
def test_regularized_leaves_do_not_decay_under_dual_averaging(method):
    plain, _ = run(MAKE[method](GROUPS, 0.3), start(), gradients())
    params, _ = run(MAKE[method](GROUPS, 0.3, weight_decay=0.5), start(), gradients())
    for name in ("conv", "head"):
        assert_equal(params[name]["kernel"], plain[name]["kernel"])
        assert np.all(np.asarray(params[name]["bias"] != plain[name]["bias"]))


def test_rmda_decays_as_its_gradient_says():
    tx = rj.rmda(0.1, GROUPS, 0.3, averaging=0.3, weight_decay=0.5)
    both = {name: {"kernel": False, "bias": True} for name in ("conv", "head")}
    chain = optax.chain(
        optax.add_decayed_weights(0.5, both), rj.rmda(0.1, GROUPS, 0.3, averaging=0.3)
    )
    params, _ = run(tx, start(), gradients())
    expected, _ = run(chain, start(), gradients())
    assert_close(params, expected, 8)


def test_decay_of_ramda_does_not_see_the_size_of_gradients():
    # As in AdamW: at first it is the learning rate times omega, whatever the gradient.
    rules, params = rj.RegularizerMap([("*", None)]), jnp.array([1.0, 2.0])
    for size in (1e-3, 1.0, 1e3):
        first = [
            run(
                rj.ramda(0.01, rules, 0.0, averaging=1.0, weight_decay=decay),
                params,
                [size * jnp.array([1.0, -1.0])],
            )[0]
            for decay in (0.0, 0.1)
        ]
        np.testing.assert_allclose(first[0] - first[1], 1e-3 * params, atol=1e-6)


def test_decay_of_proxgen_is_that_of_adamw():
    rules = rj.RegularizerMap([("*", None)])
    tx = rj.proxgen(0.1, rules, 0.0, weight_decay=0.5, decay_mask=MASK)
    params, _ = run(tx, start(), gradients())
    adamw = optax.adamw(0.1, weight_decay=0.5, mask=MASK)
    expected, _ = run(adamw, start(), gradients())
    assert_close(params, expected, 64)


@each
def test_masks_that_do_not_fit(make):
    for mask, error, message in (
        (
            {"conv": 1.0, "head": True},
            TypeError,
            "`decay_mask` must hold True or False",
        ),
        ({"conv": True}, ValueError, "`decay_mask` must be a pytree prefix"),
    ):
        tx = make(GROUPS, 0.3, weight_decay=0.5, decay_mask=mask)
        with pytest.raises(error, match=message):
            tx.update(start(), tx.init(start()), start())
    with pytest.raises(ValueError, match="`weight_decay` must lie"):
        make(GROUPS, 0.3, weight_decay=-0.5)


@each
def test_decay_traces_once_under_a_schedule(make):
    tx = make(GROUPS, 0.3, weight_decay=optax.linear_schedule(0.5, 0.0, 5))
    params, state = run(tx, start(), gradients())
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves((params, state)))
