"""Every prox, metric prox and value against the slow oracles of tests/oracles.

Inputs are drawn by hypothesis: sizes from 1e-6 to 1e6, zeros and ties, step sizes from
0 to far beyond every threshold.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

import rmda_jax as rj
from tests._factories import public_factories
from tests._x64 import float64
from tests.laws._table import ENTRIES
from tests.oracles import ORACLES, Oracle
from tests.oracles._scalar import elastic_net, minimise

SMALL = [
    *((name, arguments, (3, 4)) for name, arguments in ENTRIES),
    ("l2_norm", {}, (3, 4)),
    ("linf_norm", {}, (3, 4)),
    ("l1_ball", {}, (3, 4)),
    ("l1_ball", {"radius": 2.0, "group_axes": -1}, (3, 4)),
    ("l2_ball", {}, (3, 4)),
    ("l2_ball", {"radius": 0.5, "group_axes": (0, 1)}, (2, 3, 2)),
    ("simplex", {}, (3, 4)),
    ("simplex", {"radius": 2.0, "group_axes": 0}, (3, 4)),
    ("top_k", {"k": 4}, (3, 3)),
    ("top_k", {"k": 2, "group_axes": -2}, (2, 3, 2)),
    ("n_m", {"n": 2, "m": 4}, (3, 8)),
    ("n_m", {"n": 1, "m": 2, "axis": 0}, (4, 3)),
    ("group_lasso", {}, (2, 3, 2)),
    ("group_lasso", {"group_axes": (-1, 0), "weighted": False}, (2, 3, 2)),
    ("group_lasso", {"group_axes": (-2, -1), "block": (2, 3)}, (3, 4)),
    ("group_lasso", {"group_axes": 0, "block": 2}, (3,)),
    ("sparse_group_lasso", {}, (3, 4)),
    ("sparse_group_lasso", {"group_axes": -1, "l1_ratio": 0.1}, (3, 4)),
    ("group_linf", {}, (2, 3, 2)),
    ("group_linf", {"group_axes": -1, "weighted": False}, (3, 4)),
    ("group_mcp", {}, (2, 3, 2)),
    ("group_mcp", {"lam": 0.5, "gamma": 0.4, "group_axes": -1}, (3, 4)),
    ("group_scad", {}, (2, 3, 2)),
    ("group_scad", {"lam": 0.5, "a": 2.2, "weighted": False}, (3, 4)),
    ("group_l0", {}, (3, 4)),
    ("group_lq", {"q": 0.3}, (3, 4)),
    ("group_l_half", {}, (3, 4)),
    ("group_l_two_thirds", {}, (3, 4)),
    ("group_log_sum", {}, (3, 4)),
    ("nuclear_norm", {}, (3, 4)),
    ("nuclear_norm", {"matrix_axes": (0, 2)}, (2, 3, 2)),
    ("spectral_mcp", {}, (3, 4)),
    ("l_half_ball", {}, (3,)),
    ("total_variation", {}, (9,)),
    ("fused_lasso", {"axis": 0, "l1_ratio": 0.2}, (5, 2)),
]
METRIC = [row for row in SMALL if row[0] in {
    *(name for name, _ in ENTRIES), "l2_norm", "group_lasso", "sparse_group_lasso",
    "group_mcp", "top_k", "n_m",
}]  # fmt: skip
SPECTRAL = {"nuclear_norm", "spectral_mcp"}


def oracle(name, arguments):
    """The oracle and its arguments; only `boxed` has none by its own name."""
    if name != "boxed":
        return ORACLES[name], arguments
    bounds = {key: arguments[key] for key in ("lower", "upper")}
    penalty = dataclasses.replace(elastic_net(), **bounds)

    def value(x):
        inside = (bounds["lower"] <= x) & (x <= bounds["upper"])
        return np.sum(penalty.value(x)) if inside.all() else np.inf

    def metric_prox(v, t, d):
        return minimise(v, t, penalty, d)

    return Oracle(lambda v, t: metric_prox(v, t, 1.0), value, metric_prox), {}


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
    regularizer = getattr(rj, name)(**arguments)
    truth, keywords = oracle(name, arguments)
    eps = float(np.finfo(x.dtype).eps)
    v, x = np.asarray(v, np.float64), np.asarray(x, np.float64)
    metric = np.ones_like(v) if d is None else np.asarray(d, np.float64)
    if d is None:
        best = truth.prox(v, t, **keywords)
    else:
        best = truth.metric_prox(v, t, metric, **keywords)
    largest = np.abs(v).max() + np.abs(best).max()
    if regularizer.is_convex:
        # Rounding x and the threshold moves the prox by as much; a metric spread over
        # six decades leaves some entries far smaller than their norm.
        np.testing.assert_allclose(x, best, rtol=0, atol=64 * eps * largest)
        return

    def objective(y):
        return np.sum(metric * (y - v) ** 2) / 2 + t * truth.value(y, **keywords)

    least = objective(best)
    # Where the minimiser jumps, either side of the tie is right: compare objectives.
    scale = np.sum(metric * v**2) + least
    if arguments.get("soft") or name in SPECTRAL:
        # A level that cannot be represented costs its rounding; so does a singular
        # value that should be 0 and is of the rounding of the largest.
        scale += t * np.abs(x).sum()
    if name == "spectral_mcp":  # the zeros of an SVD are dust, which a large t weighs
        scale += t * np.abs(x).sum()
    assert objective(x) <= least + 64 * eps * scale


def test_every_public_factory_is_compared():
    assert {row[0] for row in SMALL} == public_factories()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("name", "arguments", "shape"), SMALL, ids=str)
def test_prox_and_value_equal_the_oracle(name, arguments, shape, dtype):
    regularizer = getattr(rj, name)(**arguments)

    @settings(max_examples=examples(name, dtype))
    @given(problem=problems(shape, dtype))
    def compare(problem):
        v, t = problem
        with float64():
            x, value = map(np.asarray, prox(regularizer, v, t))
        assert x.dtype == dtype
        check(name, arguments, v, t, None, x)
        truth, keywords = oracle(name, arguments)
        wanted = truth.value(v.astype(np.float64), **keywords)
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
        )

    compare()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("name", "arguments", "shape"), METRIC, ids=str)
def test_metric_prox_equals_the_oracle(name, arguments, shape, dtype):
    regularizer = getattr(rj, name)(**arguments)

    @settings(max_examples=examples(name, dtype))
    @given(problem=problems(shape, dtype), metric=metrics(shape))
    def compare(problem, metric):
        v, t = problem
        metric = metric.astype(dtype)
        with float64():
            x = np.asarray(metric_prox(regularizer, v, t, metric))
        check(name, arguments, v, t, metric, x)

    compare()
