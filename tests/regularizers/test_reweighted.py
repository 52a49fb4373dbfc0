"""The reweighted group lasso: its prox, its rounds, and where they end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rmda_jax as rj
from tests._table import ORACLES

pytestmark = pytest.mark.costly

R = rj.regularizers
EPS, STRENGTH = 0.2, 0.05


@pytest.mark.parametrize("axes", [0, -1, (0, 2), (2, 0), ()])
def test_prox_of_every_group_is_that_of_the_oracle(axes):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 2, 4))
    shape = R.group_lasso(axes).support(jnp.asarray(x)).shape
    weights = rng.uniform(0.1, 3, shape)
    with jax.enable_x64(True):
        found = np.asarray(R.weighted_group_lasso(weights, axes).prox(x, 0.7))
        value = float(R.weighted_group_lasso(weights, axes).value(x))
    axes = tuple(sorted(np.atleast_1d(np.asarray(axes, int)) % 3))
    at = lambda i: tuple(
        i[axes.index(k)] if k in axes else slice(None) for k in range(3)
    )
    total = 0.0
    for i, weight in np.ndenumerate(weights):
        group = x[at(i)]
        whole = dict(group_axes=(), weighted=False)
        expected = ORACLES["group_lasso"].prox(group, 0.7 * weight, **whole)
        np.testing.assert_allclose(found[at(i)], expected, rtol=0, atol=1e-12)
        total += weight * np.linalg.norm(group)
    assert value == pytest.approx(total, rel=1e-14)


def problem():
    """Least squares in which 3 of 12 rows matter."""
    rng = np.random.default_rng(1)
    inputs = jnp.asarray(rng.normal(size=(60, 12)))
    planted = np.zeros((12, 2))
    planted[:3] = rng.normal(size=(3, 2))
    targets = inputs @ planted + 0.3 * rng.normal(size=(60, 2))
    return lambda w: jnp.mean(jnp.sum((inputs @ w - targets) ** 2, axis=1)) / 2


@pytest.mark.parametrize("weighted", [True, False])
def test_rounds_lower_the_log_sum_and_end_where_it_is_stationary(weighted):
    with jax.enable_x64(True):
        loss, gradient = problem(), jax.grad(problem())
        log_sum = R.group_log_sum(0, eps=EPS, weighted=weighted)

        @jax.jit
        def solve(w, weights):
            lasso = R.weighted_group_lasso(weights, 0)
            step = lambda w, _: (
                lasso.prox(w - 0.3 * gradient(w), 0.3 * STRENGTH),
                None,
            )
            return jax.lax.scan(step, w, length=2000)[0]

        w, objectives = jnp.zeros((12, 2)), []
        for _ in range(25):
            objectives.append(float(loss(w) + STRENGTH * log_sum.value(w)))
            w = solve(w, R.reweighting(w, 0, eps=EPS, weighted=weighted))
        assert (np.diff(objectives) <= 1e-14).all()
        assert np.diff(objectives)[1] < -1e-4
        assert float(log_sum.subgradient_distance(w, -gradient(w), STRENGTH)) < 1e-10
        assert log_sum.support(w).tolist() == [True] * 3 + [False] * 9


def test_the_lasso_touches_the_log_sum_from_above():
    rng = np.random.default_rng(2)
    x, others = rng.normal(size=(5, 3)), rng.normal(size=(100, 5, 3))
    with jax.enable_x64(True):
        log_sum = R.group_log_sum(0, eps=EPS)
        lasso = R.weighted_group_lasso(R.reweighting(jnp.asarray(x), 0, eps=EPS), 0)
        gap = lambda y: float(lasso.value(y) - log_sum.value(y))
        assert min(map(gap, others)) > gap(x) - 1e-13


def test_bad_input():
    with pytest.raises(ValueError, match="must be positive"):
        R.weighted_group_lasso([1.0, 0.0])
    with pytest.raises(ValueError, match="finite"):
        R.weighted_group_lasso(np.inf, ())
    with pytest.raises(ValueError, match=r"shape of the support, \(3,\)"):
        R.weighted_group_lasso([1.0, 2.0], 0).prox(jnp.ones((3, 2)), 1.0)
    with pytest.raises(ValueError, match="`eps` must be greater than 0"):
        R.reweighting(jnp.ones((3, 2)), eps=0.0)
