"""The group lasso in a diagonal metric, where it is hard: wide spreads, large groups.

The truth is a bisection on the one scalar equation of each group, in float64.
"""

import functools

import jax
import numpy as np
import pytest

import rmda_jax as rj

pytestmark = pytest.mark.costly

NORM = rj.group_lasso((), weighted=False)
SCALES = (1e-6, 1.0, 1e6)
# The level, relative to the one at which the group vanishes.
FRACTIONS = (1e-6, 1e-3, 0.1, 0.9, 0.999, 0.999999)


@functools.partial(jax.jit, static_argnums=0)
def metric_proxes(regularizer, x, step_sizes, metrics):
    return jax.vmap(regularizer.metric_prox)(x, step_sizes, metrics)


def truth(z, k, d):
    """Bisect sum (d z / (d r + k))^2 = 1 for r, the norm of the minimiser."""
    z, d = z.astype(np.float64), d.astype(np.float64)
    b = d * z
    if np.linalg.norm(b) <= k:
        return np.zeros_like(z)
    low, high = 0.0, np.linalg.norm(z)
    for _ in range(120):
        middle = (low + high) / 2
        outside = np.sum((b / (d * middle + k)) ** 2) > 1
        low, high = (middle, high) if outside else (low, middle)
    return b * low / (d * low + k)


def problems(size, spread, aligned, dtype):
    generator = np.random.default_rng(size)
    for scale in SCALES:
        for level in SCALES:
            for fraction in FRACTIONS:
                exponents = generator.uniform(-0.5, 0.5, size=size)
                d = (level * spread**exponents).astype(dtype)
                z = scale * generator.normal(size=size)
                z = (z if aligned else z * level / d).astype(dtype)
                bound = np.linalg.norm(d.astype(np.float64) * z)
                yield z, dtype(fraction * bound), d


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("spread", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("size", [1, 2, 30, 4608])
def test_group_lasso_in_any_metric(size, spread, aligned, dtype, x64):
    centres, levels, metrics = map(
        np.stack, zip(*problems(size, spread, aligned, dtype), strict=True)
    )
    found = np.asarray(metric_proxes(NORM, centres, levels, metrics))
    assert found.dtype == dtype
    for z, k, d, x in zip(centres, levels, metrics, found, strict=True):
        error = np.linalg.norm(x - truth(z, float(k), d))
        # Measured: 1.6e-7 of the centre's norm in float32, near 1.3 eps; the inputs
        # alone, rounded to float32, are worth half an eps each.
        assert error <= 3 * np.finfo(dtype).eps * np.linalg.norm(z.astype(np.float64))


def test_gradient_of_the_root_is_that_of_the_minimiser(x64):
    generator = np.random.default_rng(0)
    z, d = generator.normal(size=6), np.exp(generator.normal(size=6))
    solution = jax.jit(NORM.metric_prox)
    jacobians = jax.jit(jax.jacrev(solution, argnums=(0, 1, 2)))(z, 0.4, d)
    h = 1e-6
    for i, jacobian in enumerate(jacobians):
        columns = np.eye(6) if i != 1 else [1.0]
        for j, e in enumerate(columns):
            ends = []
            for sign in (1, -1):
                arguments = [z, 0.4, d]
                arguments[i] = arguments[i] + sign * h * e
                ends.append(np.asarray(solution(*arguments)))
            difference = (ends[0] - ends[1]) / (2 * h)
            column = jacobian if i == 1 else jacobian[:, j]
            # Central differences are exact to h^2 and to eps / h.
            np.testing.assert_allclose(column, difference, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ragged_tiles_are_groups_like_any(dtype, x64):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(5, 7)).astype(dtype)
    d = np.exp(generator.normal(size=(5, 7))).astype(dtype)
    tiles = rj.group_lasso((0, 1), block=(2, 3))
    found = np.asarray(jax.jit(tiles.metric_prox)(x, 0.3, d))
    for i in range(0, 5, 2):
        for j in range(0, 7, 3):
            tile = np.s_[i : i + 2, j : j + 3]
            k = 0.3 * np.sqrt(x[tile].size)
            wanted = truth(x[tile].ravel(), k, d[tile].ravel())
            error = np.linalg.norm(found[tile].ravel() - wanted)
            assert error <= 4 * np.finfo(dtype).eps * np.linalg.norm(x[tile])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 3])
def test_on_the_edge_of_vanishing_nothing_is_nan(size, dtype, x64):
    generator = np.random.default_rng(size)
    d = np.exp(generator.normal(size=(500, size))).astype(dtype)
    z = generator.normal(size=(500, size)).astype(dtype)
    z *= np.geomspace(1e-25, 1, 500)[:, None].astype(dtype)
    # A rounding unit below the level at which the group vanishes.
    levels = np.linalg.norm(d * z, axis=1) * (1 - np.finfo(dtype).eps)
    found = np.asarray(metric_proxes(NORM, z, levels.astype(dtype), d))
    assert np.isfinite(found).all()
    norms = np.linalg.norm(z.astype(np.float64), axis=1)
    # Where squares do not underflow, next to nothing is left.
    small = np.abs(found).max(axis=1) <= 4 * np.finfo(dtype).eps * norms
    assert small[norms > 1e-15].all()
