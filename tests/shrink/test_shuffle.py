"""Channels of several layers that are shuffled: a concatenation that is reshaped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rmda_jax import shrink
from tests._x64 import float64
from tests.shrink._networks import shuffled
from tests.shrink.test_program import X, assert_close, check, drawn, normal

pytestmark = pytest.mark.costly

UNITS = [("a", i) for i in range(4)] + [("b", i) for i in range(4)]
SHUFFLED = shuffled(np.arange(8))  # which of the units lies at each place
DEAD = [("a", 0), ("a", 3), ("b", 1)]  # units that nothing reads
ROWS = [place for place, i in enumerate(SHUFFLED) if UNITS[i] in DEAD]


@pytest.fixture(autouse=True)
def _float64():
    with float64():
        yield


def two_branches(split=lambda h, p: h, after=lambda h, p: h):
    """Return a network that shuffles the channels of two layers."""

    def fn(p, x):
        h = jnp.concatenate([x @ p["a"], x @ p["b"]], -1)
        h = split(h.reshape(-1, 2, 4), p).swapaxes(1, 2).reshape(-1, 8)
        return after(h, p) @ p["c"]

    return fn


def params_of_branches(**shapes):
    params = drawn({"a": (6, 4), "b": (6, 4), "c": (8, 3), **shapes})
    return {**params, "c": params["c"].at[jnp.array(ROWS)].set(0)}


def bounded(h, p):
    """Return what is of a position alone; the logarithm of 0 would be infinite."""
    h = h - 2 * h.mean(0)
    h = jnp.tanh(h) * jnp.log(h**2) * p["s"]
    return jax.checkpoint(lambda h: jax.nn.silu(h) + p["s"])(jax.nn.relu(h))


POSITION_BY_POSITION = {
    "nothing": {},
    "loops": {
        "split": lambda h, p: lax.fori_loop(0, 2, lambda i, h: jnp.tanh(h + i), h)
    },
    "activations and the way back": {
        "split": bounded,
        "after": lambda h, p: shuffled(jnp.tanh(shuffled(h, 4))),
    },
}


@pytest.mark.parametrize("name", POSITION_BY_POSITION)
def test_units_go_one_by_one(name):
    fn = two_branches(**POSITION_BY_POSITION[name])
    differs = name != "loops"
    params = {**params_of_branches(), "s": jnp.asarray(0.5)}
    small_fn, small = check(fn, params, X, differs=differs)
    for leaf in "ab":
        kept = [i for i in range(4) if (leaf, i) not in DEAD]
        np.testing.assert_array_equal(small[leaf], params[leaf][:, kept])
    np.testing.assert_array_equal(small["c"], np.delete(params["c"], ROWS, axis=0))
    wanted = fn(params, X)
    error = np.abs(small_fn(small, X) - wanted).max()
    assert error <= 1e-12 * np.abs(wanted).max()


# What mixes channels while they are split, and how many of four channels stay if one of
# both layers is zero and unread, and another one is unread alone.
MIXED = {
    "sum over a group": (lambda h, p: h - h.mean(2, keepdims=True), 3),
    "maximum over groups": (lambda h, p: h - h.max(1, keepdims=True), 2),
    "product over a group": (lambda h, p: h @ p["m"], 3),
    "product with itself": (
        lambda h, p: h * jnp.einsum("npq,npq->n", h, h)[:, None, None],
        3,
    ),
    "gain of places in groups": (lambda h, p: h * p["m"][:2], 2),
    "reversed groups": (lambda h, p: h[:, ::-1] * h, 2),
    "numbered": (lambda h, p: h * jnp.arange(1, 5), 2),
    "dropout": (
        lambda h, p: h * jax.random.bernoulli(jax.random.key(0), 0.5, h.shape),
        2,
    ),
    "one of a group": (lambda h, p: h + h[:, :, :1], 2),
    "scan over groups": (
        lambda h, p: lax.scan(
            lambda c, r: (c + r, c * r), h[:, 0] + 1, h.swapaxes(0, 1)
        )[1].swapaxes(0, 1),
        2,
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_units_while_they_are_split_couples_them(name):
    split, n_left = MIXED[name]
    params = drawn({"a": (6, 4), "b": (6, 4), "c": (8, 3), "m": (4, 4)})
    for leaf in "ab":
        params[leaf] = params[leaf].at[:, 1].set(0)
    params["c"] = params["c"].at[2:6].set(0)
    _, small = check(two_branches(split), params, X, differs=False)
    assert small["a"].shape == small["b"].shape == (6, n_left)


def test_a_function_that_follows_loses_units_in_pairs():
    fn = lambda p, x: shuffled(jnp.concatenate([x @ p["a"], x @ p["b"]], -1)) @ p["c"]
    params = drawn({"a": (6, 4), "b": (6, 4), "c": (8, 3)})
    params["c"] = params["c"].at[jnp.array([2, 3, 5])].set(0)
    plan = shrink.plan(fn, params, X)
    assert plan.widths["a"] == plan.widths["b"] == (6, 3)
    small = shrink.apply(plan, params)
    assert_close(fn(small, X), fn(params, X))
    small_fn = shrink.program(plan, fn, params, X)
    assert_close(small_fn(small, X), fn(params, X))


def test_groups_of_a_normalization_of_two_layers():
    def fn(p, x):
        h = jnp.concatenate([x @ p["a"], x @ p["b"]], -1)
        h = h.reshape(-1, 3, 4)  # one group of a, two of b
        h = (h - h.mean(2, keepdims=True)) / jnp.sqrt(h.var(2, keepdims=True) + 1e-5)
        return (h.reshape(-1, 12) * p["s"]) @ p["c"]

    params = drawn({"a": (6, 4), "b": (6, 8), "s": (12,), "c": (12, 3)})
    params["c"] = params["c"].at[4:8].set(0)
    _, small = check(fn, params, X)
    np.testing.assert_array_equal(small["b"], params["b"][:, 4:])


def test_kernels_that_are_concatenated_before_they_are_split_into_heads():
    def fn(p, x):
        kernel = jnp.concatenate([p["q"], p["k"], p["v"]], 1)
        q, k, v = jnp.moveaxis((x @ kernel).reshape(len(x), 3, 4, 2), 1, 0)
        weights = jax.nn.softmax(jnp.einsum("thc,shc->hts", q, k))
        return jnp.einsum("hts,shc->thc", weights, v).reshape(len(x), -1) @ p["o"]

    params = drawn({"q": (6, 8), "k": (6, 8), "v": (6, 8), "o": (8, 3)})
    params["o"] = params["o"].at[2:6].set(0)
    _, small = check(fn, params, X, differs=False)
    assert [small[name].shape for name in "qkvo"] == [(6, 4)] * 3 + [(4, 3)]


def test_blocks_that_split_and_shuffle():
    # As ShuffleNet V2: a block computes one half of the channels from itself.
    def fn(p, x):
        h = x @ p["stem"]
        for up, down in (("u", "d"), ("v", "e")):
            left, right = jnp.split(h, 2, axis=-1)
            right = jnp.tanh(jax.nn.relu(right @ p[up]) @ p[down])
            h = shuffled(jnp.concatenate([left, right], -1))
        return h @ p["o"]

    shapes = {"stem": (6, 16), "u": (8, 5), "d": (5, 8), "v": (8, 5), "e": (5, 8)}
    params = drawn({**shapes, "o": (16, 3)})
    params["o"] = params["o"].at[jnp.array([1, 5, 9])].set(0)
    params["d"] = params["d"].at[:, jnp.array([2, 7])].set(0)
    params["u"] = params["u"].at[:, 3].set(0)
    _, small = check(fn, params, X, differs=False)
    # The odd places of o are e's channels; d's are the odd ones before.
    assert small["e"].shape == (5, 5)
    assert small["d"].shape == (4, 6)
    assert small["u"].shape == (8, 4)


def test_channels_of_images():
    def fn(p, x):
        conv = lambda x, w: lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        h = shuffled(jnp.concatenate([conv(x, p["a"]), conv(x, p["b"])], -1))
        return conv(jax.nn.relu(h), p["c"]).mean((1, 2))

    params = drawn({"a": (3, 3, 2, 4), "b": (1, 1, 2, 4), "c": (3, 3, 8, 3)})
    params["c"] = params["c"].at[:, :, jnp.array(ROWS)].set(0)
    small_fn, small = check(fn, params, normal(2, 4, 4, 2), differs=False)
    assert [small[n].shape[-1] for n in "ab"] == [2, 3]
    assert "0 at full size" in str(small_fn)
