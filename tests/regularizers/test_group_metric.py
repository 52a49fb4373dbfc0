"""The group lasso in a diagonal metric, where it is hard: wide spreads, large groups.

The truth is a bisection on the one scalar equation of each group, in float64. It holds
for both forms of the solver: that of one leaf, and that of all leaves together, which
the transformations take on GPUs.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rmda_jax as rj
from rmda_jax.regularizers.solvers._group_norm import with_derivative
from rmda_jax.regularizers.solvers._together import GroupLasso, norms_together

pytestmark = pytest.mark.costly

NORM = rj.group_lasso((), weighted=False)
SCALES = (1e-6, 1.0, 1e6)
# The level, relative to the one at which the group vanishes.
FRACTIONS = (1e-6, 1e-3, 0.1, 0.9, 0.999, 0.999999)


def together(regularizer, x, step_size, metric):
    problem, finish = regularizer.posed_metric_prox(x, step_size, metric)
    groups, z, d, k = problem
    pose = lambda z, d: GroupLasso(groups, z, d, k)
    (r,), _ = norms_together([pose], [z], [d])
    return finish(with_derivative(*problem, r))


FORMS = {"alone": rj.Regularizer.metric_prox, "together": together}
in_both_forms = pytest.mark.parametrize("form", FORMS)


@functools.partial(jax.jit, static_argnums=(0, 1))
def metric_proxes(form, regularizer, x, step_sizes, metrics):
    prox = functools.partial(FORMS[form], regularizer)
    return jax.vmap(prox)(x, step_sizes, metrics)


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


def cases():
    """Return all of them for one leaf, and daily those that take most steps."""
    of = itertools.product(
        FORMS,
        (1, 2, 30, 4608),
        (1.0, 1e3, 1e6),
        (True, False),
        (np.float32, np.float64),
    )
    found = []
    for form, size, spread, aligned, dtype in of:
        is_hard = size >= 30 and spread > 1 and not aligned and dtype == np.float32
        marks = () if form == "alone" or is_hard else pytest.mark.long
        found.append(pytest.param(form, size, spread, aligned, dtype, marks=marks))
    return found


@pytest.mark.parametrize(("form", "size", "spread", "aligned", "dtype"), cases())
def test_group_lasso_in_any_metric(form, size, spread, aligned, dtype, x64):
    centres, levels, metrics = map(
        np.stack, zip(*problems(size, spread, aligned, dtype), strict=True)
    )
    found = np.asarray(metric_proxes(form, NORM, centres, levels, metrics))
    assert found.dtype == dtype
    for z, k, d, x in zip(centres, levels, metrics, found, strict=True):
        error = np.linalg.norm(x - truth(z, float(k), d))
        # Measured: 1.6e-7 of the centre's norm in float32, near 1.3 eps; the inputs
        # alone, rounded to float32, are worth half an eps each.
        assert error <= 3 * np.finfo(dtype).eps * np.linalg.norm(z.astype(np.float64))


@in_both_forms
def test_gradient_of_the_root_is_that_of_the_minimiser(form, x64):
    generator = np.random.default_rng(0)
    z, d = generator.normal(size=6), np.exp(generator.normal(size=6))
    solution = jax.jit(functools.partial(FORMS[form], NORM))
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


@in_both_forms
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ragged_tiles_are_groups_like_any(dtype, form, x64):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(5, 7)).astype(dtype)
    d = np.exp(generator.normal(size=(5, 7))).astype(dtype)
    tiles = rj.group_lasso((0, 1), block=(2, 3))
    found = np.asarray(jax.jit(functools.partial(FORMS[form], tiles))(x, 0.3, d))
    for i in range(0, 5, 2):
        for j in range(0, 7, 3):
            tile = np.s_[i : i + 2, j : j + 3]
            k = 0.3 * np.sqrt(x[tile].size)
            wanted = truth(x[tile].ravel(), k, d[tile].ravel())
            error = np.linalg.norm(found[tile].ravel() - wanted)
            assert error <= 4 * np.finfo(dtype).eps * np.linalg.norm(x[tile])


@in_both_forms
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 3])
def test_on_the_edge_of_vanishing_nothing_is_nan(size, dtype, form, x64):
    generator = np.random.default_rng(size)
    d = np.exp(generator.normal(size=(500, size))).astype(dtype)
    z = generator.normal(size=(500, size)).astype(dtype)
    z *= np.geomspace(1e-25, 1, 500)[:, None].astype(dtype)
    # A rounding unit below the level at which the group vanishes.
    levels = np.linalg.norm(d * z, axis=1) * (1 - np.finfo(dtype).eps)
    found = np.asarray(metric_proxes(form, NORM, z, levels.astype(dtype), d))
    assert np.isfinite(found).all()
    norms = np.linalg.norm(z.astype(np.float64), axis=1)
    # Where squares do not underflow, next to nothing is left.
    small = np.abs(found).max(axis=1) <= 4 * np.finfo(dtype).eps * norms
    assert small[norms > 1e-15].all()


def test_both_forms_make_the_same_entries_zero_and_nan():
    rows = jnp.asarray(
        [
            [3.0, 4.0],
            [0.1, 0.1],  # vanishes
            [0.0, 0.0],
            [np.nan, 1.0],
            [1e-25, 1e-25],  # whose squares underflow
            [1e15, 1e-15],
        ]
    )
    metric = jnp.asarray([1.0, 2.0]) * jnp.asarray([1, 1, 1, 1, 1, 1e12])[:, None]
    regularizer = rj.group_lasso(0, weighted=False)
    for level in (0.0, 0.5):
        alone, jointly = (
            np.asarray(
                jax.jit(functools.partial(form, regularizer))(rows, level, metric)
            )
            for form in FORMS.values()
        )
        np.testing.assert_array_equal(jointly == 0, alone == 0)
        np.testing.assert_allclose(jointly, alone, rtol=4 * np.finfo(np.float32).eps)
        if level == 0:
            np.testing.assert_array_equal(jointly, rows)
