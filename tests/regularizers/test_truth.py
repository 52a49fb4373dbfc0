"""Every prox against certified high-precision minimisers (tests/fixtures)."""

import functools

import jax
import numpy as np
import pytest

import rmda_jax.regularizers as regularizers
from tests._table import ORACLES
from tests.fixtures import TruthCase, truth_cases

pytestmark = pytest.mark.costly

CASES = list(truth_cases())


@functools.partial(jax.jit, static_argnums=0)
def prox(regularizer, v, step_size, metric):
    if metric is None:
        return regularizer.prox(v, step_size)
    return regularizer.metric_prox(v, step_size, metric)


def objective(case: TruthCase, x: np.ndarray) -> float:
    metric = 1.0 if case.metric is None else case.metric
    value = ORACLES[case.factory].value(x, **case.arguments)
    return 0.5 * np.sum(metric * (x - case.v) ** 2) + case.step_size * value


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.file}-{c.id}")
def test_prox_agrees_with_certified_minimiser(case, x64):
    regularizer = getattr(regularizers, case.factory)(**case.arguments)
    x = np.asarray(prox(regularizer, case.v, case.step_size, case.metric))
    assert x.dtype == np.float64
    if case.convex:
        np.testing.assert_allclose(x, case.expected, rtol=0, atol=1e-12)
        assert (x[case.expected == 0] == 0).all()
        # One case sits on its threshold: 2e-17 is what 45 digits left of a zero.
        assert (x[np.abs(case.expected) > 1e-15] != 0).all()
    else:
        assert objective(case, x) <= objective(case, case.expected) + 1e-12
