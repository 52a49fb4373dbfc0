"""Every prox, metric prox and value against the slow oracles of tests/oracles.

Inputs are drawn by hypothesis: sizes from 1e-6 to 1e6, zeros and ties, step sizes from
0 to far beyond every threshold.
"""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from tests._daily import first_of_each
from tests._table import ORACLES, SMALL, TABLE, kind, make, public_factories
from tests._x64 import float64

pytestmark = pytest.mark.costly

# Convex or exact: there the metric prox is the global minimiser.
METRIC = [
    (name, arguments, shape)
    for name, arguments, shape in SMALL
    if ORACLES[name].metric_prox
    and (
        make(name, arguments).is_convex
        or make(name, arguments).is_separable
        or name in ("group_mcp", "group_l0", "top_k", "top_groups", "n_m")
    )
]
SPECTRAL = {"nuclear_norm", "spectral_mcp", "on_singular_values", "max_rank"}


CELLS = st.sampled_from([0.0, 1.0, -1.0, 0.5]) | st.floats(-4, 4, width=16)
STEPS = st.sampled_from([0.0, 1e-3, 1e6]) | st.floats(1 / 64, 8, width=16)


@st.composite
def problems(draw, shape, dtype):
    """Centre and step size, of one scale."""
    scale = 10.0 ** draw(st.integers(-6, 6))
    x = scale * draw(hnp.arrays(np.float64, shape, elements=CELLS, fill=st.nothing()))
    return x.astype(dtype), float(dtype(scale * draw(STEPS)))


def examples(name, dtype):
    """Return how many: fewer in float32, and where the oracle enumerates at length."""
    return 4 if name == "l_half_ball" else 20 if dtype is np.float64 else 10


def metrics(shape):
    """Positive metrics, spread over up to six decades."""
    exponents = st.floats(-3, 3, width=16)
    arrays = hnp.arrays(np.float64, shape, elements=exponents, fill=st.nothing())
    return arrays.map(lambda exponents: 10.0**exponents)


@functools.partial(jax.jit, static_argnums=0)
def prox(regularizer, x, step_size):
    return regularizer.prox(x, step_size), regularizer.value(x)


@functools.partial(jax.jit, static_argnums=0)
def metric_prox(regularizer, x, step_size, metric):
    return regularizer.metric_prox(x, step_size, metric)


def check(name, arguments, v, t, d, x):
    """Check ``x`` against the oracle; ``d`` is None for the plain prox."""
    regularizer = make(name, arguments)
    truth = ORACLES[name]
    eps = float(np.finfo(x.dtype).eps)
    v, x = np.asarray(v, np.float64), np.asarray(x, np.float64)
    metric = np.ones_like(v) if d is None else np.asarray(d, np.float64)
    if d is None:
        best = truth.prox(v, t, **arguments)
    else:
        best = truth.metric_prox(v, t, metric, **arguments)
    largest = np.abs(v).max() + np.abs(best).max()
    if regularizer.is_convex:
        # Rounding x and the threshold moves the prox by as much; a metric spread over
        # six decades leaves some entries far smaller than their norm.
        np.testing.assert_allclose(
            x, best, rtol=0, atol=64 * eps * largest, err_msg="the prox differs"
        )
        return

    def objective(y):
        return np.sum(metric * (y - v) ** 2) / 2 + t * truth.value(y, **arguments)

    least = objective(best)
    # Where the minimiser jumps, either side of the tie is right: compare objectives.
    scale = np.sum(metric * v**2) + least
    if arguments.get("soft") or name in SPECTRAL:
        # A level that cannot be represented costs its rounding; so does a singular
        # value that should be 0 and is of the rounding of the largest.
        scale += t * np.abs(x).sum()
    if name == "spectral_mcp":  # the zeros of an SVD are dust, which a large t weighs
        scale += t * np.abs(x).sum()
    assert objective(x) <= least + 64 * eps * scale, "the prox is not the minimiser"


def test_every_public_factory_of_one_array_is_compared():
    tied = {name for name, row in TABLE.items() if row.oracle is None}
    assert {row[0] for row in SMALL} == public_factories() - tied


def with_dtypes(rows):
    """Parametrize over rows and precisions.

    By default, in float64 the first row of every factory; in float32, where rounding is
    what is new, that of every kind of regularizer.
    """
    both = [(*row, dtype) for row in rows for dtype in (np.float64, np.float32)]

    def stands_for(name, arguments, shape, dtype):
        return dtype, name if dtype is np.float64 else kind(make(name, arguments))

    name_of = lambda x: x.__name__ if isinstance(x, type) else str(x)
    return pytest.mark.parametrize(
        ("name", "arguments", "shape", "dtype"),
        first_of_each(stands_for, both),
        ids=name_of,
    )


@with_dtypes(SMALL)
def test_prox_and_value_equal_the_oracle(name, arguments, shape, dtype):
    regularizer = make(name, arguments)

    @settings(max_examples=examples(name, dtype))
    @given(problem=problems(shape, dtype))
    def compare(problem):
        v, t = problem
        with float64():
            x, value = map(np.asarray, prox(regularizer, v, t))
        assert x.dtype == dtype
        check(name, arguments, v, t, None, x)
        truth = ORACLES[name]
        wanted = truth.value(v.astype(np.float64), **arguments)
        if not (np.isfinite(value) and np.isfinite(wanted)):
            return  # the laws say where indicators are 0; tolerances differ
        # Singular values that should be 0 are of the rounding of the largest, and the
        # oracle's logarithm of 1 + r loses what r has below 1e-16.
        spectral = np.linalg.norm(v) * (name in SPECTRAL)
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(
            value,
            wanted,
            rtol=4 * eps * v.size,
            atol=16 * eps * spectral + 1e-15 * v.size * ("log" in name),
            err_msg=f"the value differs, whether or not the prox is right, at {v}",
        )

    compare()


@with_dtypes(METRIC)
def test_metric_prox_equals_the_oracle(name, arguments, shape, dtype):
    regularizer = make(name, arguments)

    @settings(max_examples=examples(name, dtype))
    @given(problem=problems(shape, dtype), metric=metrics(shape))
    def compare(problem, metric):
        v, t = problem
        metric = metric.astype(dtype)
        with float64():
            x = np.asarray(metric_prox(regularizer, v, t, metric))
        check(name, arguments, v, t, metric, x)

    compare()
