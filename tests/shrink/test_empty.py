"""Arrays of length 0: what they touch is followed exactly, or stays."""

import jax.numpy as jnp
import pytest
from jax import lax

from rmda_jax import shrink
from tests.shrink.test_trace import X, normal


def padded(p, x):
    h = jnp.pad(jnp.tanh(x @ p["a"]), ((1, 1), (0, 0)), mode="edge")
    return h @ p["b"]


def nothing_concatenated(p, x):
    h = jnp.tanh(x @ p["a"])
    return jnp.concatenate([h, jnp.zeros((len(x), 0))], axis=-1) @ p["b"]


def split_at_the_ends(p, x):
    h = jnp.tanh(x @ p["a"])
    parts = jnp.split(h, [0, h.shape[1]], axis=1)
    return jnp.concatenate(parts, axis=1) @ p["b"]


def nothing_contracted(p, x):
    h = jnp.tanh(x @ p["a"])
    return h @ p["b"] + h[:, :0] @ p["c"][:0]


def no_iterations(p, x):
    h = jnp.tanh(x @ p["a"])
    h, none = lax.scan(lambda h, row: (h + row, h), h, jnp.zeros((0, *h.shape)))
    return h @ p["b"], none


def nothing_reshaped(p, x):
    h = jnp.tanh(x @ p["a"])
    return h @ p["b"], (jnp.zeros((0, 1)) * h[:1]).reshape(2, 0)


# Function, the width of "a" when its second unit is read by nothing.
MODELS = [
    (padded, 6),
    (nothing_concatenated, 5),
    (split_at_the_ends, 5),
    (nothing_contracted, 5),
    (no_iterations, 6),
    (nothing_reshaped, 6),
]


@pytest.mark.parametrize(("model", "width"), MODELS)
def test_arrays_of_length_0_do_not_disturb(model, width):
    params = normal({"a": (4, 6), "b": (6, 2), "c": (3, 2)})
    params["b"] = params["b"].at[1].set(0)
    plan = shrink.plan(model, params, X)
    assert plan.widths["a"] == (4, width)
    small = shrink.apply(plan, params)
    assert shrink.verify(model, params, small, X, plan=plan).max_abs < 1e-6


def test_axes_of_length_0_are_in_no_set_of_units():
    params = {"a": jnp.ones((4, 6)), "none": jnp.ones((6, 0))}
    couplings = shrink.trace(lambda p, x: x @ p["a"] @ p["none"], params, X)
    assert couplings.find("none", 0)
    assert not couplings.find("none", 1)


def test_an_empty_batch_says_nothing_about_the_units():
    params = normal({"a": (4, 6), "b": (6, 2)})
    fn = lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"]
    plan = shrink.plan(fn, params, jnp.ones((0, 4)))
    assert plan.widths == plan.shapes
