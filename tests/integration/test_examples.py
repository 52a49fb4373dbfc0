"""The scripts of examples/integrations: the same bits in every library."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj
from examples.integrations import mixed_precision, optax_chain
from examples.integrations._problem import RULES, batches, loss, predict, start

pytestmark = pytest.mark.costly

INPUTS_THAT_MATTER = np.arange(20) < 3


@functools.cache
def train(script):
    return importlib.import_module(f"examples.integrations.{script}").train()


def plain(tree, kernel="kernel", bias="bias"):
    """Return the arrays of a tree, whatever its containers are."""
    at = lambda node, key: node[key] if hasattr(node, "keys") else getattr(node, key)
    return {
        (layer, name): np.asarray(at(at(tree, layer), name))
        for layer in ("hidden", "out")
        for name in (kernel, bias)
    }


def active_inputs(tree):
    return np.any(np.asarray(tree["hidden"]["kernel"]) != 0, axis=1)


SCRIPTS = {
    "nnx_optimizer": {},
    "nnx_split": {},
    "linen_train_state": {},
    "equinox_module": {},
    "haiku_transform": {"kernel": "w", "bias": "b"},
}


def test_plain_training_finds_the_inputs_that_matter():
    _, structured = train("plain_pytree")
    np.testing.assert_array_equal(active_inputs(structured), INPUTS_THAT_MATTER)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_library_trains_to_the_same_bits(script):
    for tree, expected in zip(train(script), train("plain_pytree"), strict=True):
        actual, expected = plain(tree, **SCRIPTS[script]), plain(expected)
        for x, y in zip(actual.values(), expected.values(), strict=True):
            np.testing.assert_array_equal(x, y, strict=True)


def test_an_average_has_zeros_where_they_are_put():
    average, safe, structured = train("zero_safe_ema")
    assert active_inputs(average).all()
    np.testing.assert_array_equal(active_inputs(safe), INPUTS_THAT_MATTER)
    for kept, a, s in zip(
        *map(jax.tree.leaves, (safe, average, structured)), strict=True
    ):
        np.testing.assert_array_equal(kept, np.where(s == 0, 0, a))


@pytest.mark.not_daily
def test_microbatches_and_monitors_leave_the_training_alone():
    params, (x, y) = start(), next(batches())
    whole = jax.grad(lambda params: loss(predict(params, x), y))(params)
    for a, b in zip(
        *map(jax.tree.leaves, (optax_chain.gradients(params, x, y), whole)), strict=True
    ):
        # A sum of 32 terms in another order; several layers of rounding before it.
        np.testing.assert_allclose(a, b, rtol=0, atol=64 * 6e-8 * np.abs(b).max())
    params, state = train("optax_chain")
    structured = rj.structured_params(state, RULES)
    np.testing.assert_array_equal(active_inputs(structured), INPUTS_THAT_MATTER)
    assert 0 < optax.tree.get(state, "update_norm") < 1
    assert 0 < optax.tree.get(state, "gradient_norm")


@pytest.mark.parametrize("name", mixed_precision.PRECISIONS)
def test_structure_in_low_precision_is_that_of_float32(name):
    problem = mixed_precision.make_problem()
    precision = mixed_precision.PRECISIONS[name]
    found, state = mixed_precision.rows(problem, precision)
    np.testing.assert_array_equal(found, np.any(problem.optimum != 0, axis=1))
    assert state.inner_state.grad_sum.dtype == jnp.float32
    # The scale of the loss starts too high, and comes down.
    assert (state.total_notfinite > 0) == (precision[-1] > 1)
