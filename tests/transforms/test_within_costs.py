"""Budgets of costs: units that cost little make up for those that cost much."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rmda_jax as rj
from rmda_jax.specs._leaf_rules import active
from rmda_jax.transforms._strength import strengths_of_rules

SHAPES = {"a": (50, 6), "b": (6, 40), "c": (40, 2)}
COARSE, FINE = 50 + 40, 6 + 2  # weights of a unit of the first and the second layer
WHOLE = 50 * 6 + 6 * 40 + 40 * 2
TARGETS = np.linspace(0.3, 0.95, 14).astype(np.float32)


def mlp(params, x):
    return jax.nn.relu(jax.nn.relu(x @ params["a"]) @ params["b"]) @ params["c"]


def reached(levels, at_least=1):
    """Return for every target how many units of both layers stay alive."""
    params = {name: jnp.ones(shape) for name, shape in SHAPES.items()}
    x = jnp.ones((2, 50))
    spec = rj.shrink.group_rules(mlp, params, x)
    costs = rj.shrink.costs(mlp, params, x, regularizer=spec)
    levels = [jnp.asarray(x, jnp.float32) for x in levels]

    def alive(target):
        strengths = strengths_of_rules(
            rj.budget(weights=target, costs=costs, at_least=at_least),
            jnp.zeros((), int),
            active(spec.resolve(params)),
            levels,
            list(SHAPES.values()),
        )
        pairs = zip(levels, strengths, strict=True)
        return jnp.stack([jnp.sum(x > s) for x, s in pairs])

    return np.asarray(jax.jit(jax.vmap(alive))(TARGETS))


def shares(alive):
    a, b = alive.T
    return (50 * a + a * b + 2 * b) / WHOLE


# Which units go first: of all layers alike, the coarse ones, or the fine ones.
ORDERS = {
    "mixed": (np.arange(1, 7) * 7.5, np.arange(1, 41)),
    "coarse first": (np.arange(1, 7), np.arange(101, 141)),
    "fine first": (np.arange(101, 107), np.arange(1, 41)),
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_error_is_at_most_half_a_fine_unit(order):
    alive = reached(ORDERS[order])
    # Ten points of the weights are missing where a coarse unit is not made up for.
    rounding = 8 * np.finfo(np.float32).eps
    assert np.abs(shares(alive) - TARGETS).max() <= FINE / 2 / WHOLE + rounding
    assert COARSE / 2 / WHOLE > 10 * FINE / 2 / WHOLE


def test_coarse_units_go_in_their_order_at_first():
    # The second layer has all of its units wherever one strength for both leaves them.
    coarse, _ = reached(ORDERS["coarse first"]).T
    at_once = np.round((TARGETS * WHOLE - 2 * 40) / COARSE)
    assert (np.abs(coarse - np.clip(at_once, 1, 6)) <= 1).all()


def test_floors_stay():
    alive = reached(ORDERS["coarse first"], at_least=5)
    assert alive.min(axis=0)[0] == 5


@pytest.mark.parametrize("method", [rj.proxsgd, rj.proxgen])
def test_units_whose_norm_underflows_go_if_any_do(method):
    params = jnp.array([[3.0], [2.0], [1e-25], [1e-25]])
    for kept, alive in ((2, [3, 2, 0, 0]), (4, params.ravel())):
        tx = method(0.1, rj.group_lasso(0), rj.budget(n_groups=kept))
        updates, _ = tx.update(jnp.zeros((4, 1)), tx.init(params), params)
        np.testing.assert_allclose((params + updates).ravel(), alive, 1e-6)
