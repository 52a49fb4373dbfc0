"""A regularizer that answers nonsense is told which method, and what to do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rmda_jax as rj
from rmda_jax import testing
from tests.laws.test_mutants import L1, STEP, WrongThreshold, X

pytestmark = pytest.mark.costly


@dataclasses.dataclass(frozen=True)
class WeightsInAField(L1):
    weights: jax.Array

    def _prox(self, x, t):
        return super()._prox(x, t * self.weights)


class NotFrozen(L1):
    __hash__ = None  # type: ignore[assignment]


class ReducedProx(L1):
    def _prox(self, x, t):
        return jnp.sum(super()._prox(x, t), axis=0)


class ReducedSnap(L1):
    def _snap(self, x, eps):
        return jnp.sum(x, axis=0)


class ReducedMetricProx(L1):
    def _metric_prox(self, x, t, d):
        return self._prox(x, t / d)[0]


class NoSum(L1):
    def _value(self, x):
        return jnp.abs(x)


class WideProx(L1):
    def prox(self, x, step_size):
        return super().prox(x, step_size).astype(jnp.bfloat16)


class ComplexValue(L1):
    def value(self, x):
        return super().value(x) + 0j


class CountedSupport(L1):
    def _support(self, x, eps):
        return (x != 0).astype(jnp.int32)


class OtherProxSupport(L1):
    def _prox_support(self, x, t):
        return jnp.any(jnp.abs(x) > t, axis=0)


class TwoProxes(L1):
    def prox(self, x, step_size):
        return super().prox(x, step_size), step_size


class WithIf(L1):
    def _prox(self, x, t):
        return x if t == 0 else super()._prox(x, t)


class WithNumPy(L1):
    def _value(self, x):
        return np.sum(np.abs(x))


class Refuses(L1):
    def _prox(self, x, t):
        raise ValueError("only vectors, please.")


ANSWERS = [
    (
        WeightsInAField(jnp.ones(6)),
        r"its field `weights` holds an array of shape \(6,\)",
    ),
    (NotFrozen(), "cannot be hashed: .* Make it a frozen dataclass"),
    (ReducedProx(), r"`ReducedProx._prox` must return .* \(4, 6\), got shape \(6,\)"),
    (ReducedSnap(), r"`ReducedSnap._snap` must return .* \(4, 6\), got shape \(6,\)"),
    (ReducedMetricProx(), r"`ReducedMetricProx._metric_prox` must return .* \(4, 6\)"),
    (NoSum(), r"`NoSum._value` must return a scalar, got shape \(4, 6\)"),
    (
        WideProx(),
        r"dtype float32 from `prox`, .* got shape \(4, 6\) and dtype bfloat16",
    ),
    (ComplexValue(), r"a real scalar from `value`, got shape \(\) and dtype complex64"),
    (CountedSupport(), r"must return bool of shape \(4, 6\) from `support`, got int32"),
    (OtherProxSupport(), r"from `prox_support`, got bool of shape \(6,\)"),
    (TwoProxes(), "must return one array from `prox`, got PyTreeDef"),
    (WithIf(), "has a `prox` that JAX cannot trace: .* Choose with `jnp.where`"),
    (WithNumPy(), "has a `value` that JAX cannot trace: .* call `jnp`, not `np`"),
    (Refuses(), "has a `prox` that fails .*: only vectors, please. Raise in `_check`"),
]


@pytest.mark.parametrize(
    ("regularizer", "says"),
    [pytest.param(*row, id=type(row[0]).__name__) for row in ANSWERS],
)
def test_every_law_names_the_method_and_the_remedy(regularizer, says):
    name = type(regularizer).__name__
    for law in testing.LAWS:
        with pytest.raises(AssertionError, match=f"^answers: {name} .*{says}"):
            law(regularizer, X, STEP)
    with pytest.raises(AssertionError, match=f"^answers: {name} .*{says}"):
        testing.check_regularizer(regularizer, X, STEP)


ARGUMENTS = [
    ((rj.l1, X, STEP), TypeError, "must be an instance of `rmda_jax.Regularizer`"),
    ((L1(), X.astype(int), STEP), TypeError, "`x` must be real floating, got int32"),
    ((L1(), X + np.nan, STEP), ValueError, "`x` must be finite"),
    ((L1(), X, -1.0), ValueError, "`step_size` must be nonnegative and finite, got -1"),
    ((L1(), X, np.nan), ValueError, "`step_size` must be nonnegative and finite"),
    ((rj.group_lasso(2), X, STEP), ValueError, "`group_axes` must lie in"),
]


@pytest.mark.parametrize(("arguments", "error", "says"), ARGUMENTS)
def test_arguments_that_no_law_can_use_are_refused(arguments, error, says):
    with pytest.raises(error, match=says):
        testing.check_minimizes(*arguments)


def test_minimality_prints_the_objectives_that_it_compares():
    with pytest.raises(AssertionError) as caught:
        testing.check_minimizes(WrongThreshold(), np.float32([[0.8, 2.0]]), STEP)
    # Kept at 0.8, the first entry costs 0.6 for each of two entries: 1.2 in all. The
    # least is 0.64 / 2 + 0.6.
    says = str(caught.value)
    assert "t psi(p) + |p - x|^2/2 = 1.2" in says
    assert "(psi 2, rest 0)" in says
    assert "another point y has 0.92" in says
    assert "(psi 1, rest 0.32" in says


def test_minimality_prints_what_convexity_promises():
    class Half(L1):
        def _prox(self, x, t):
            return super()._prox(x, t / 2)

    with pytest.raises(AssertionError, match=r"\+ [\d.e-]+ \(half their squared dist"):
        testing.check_minimizes(Half(), X, STEP)


def test_huge_step_prints_both_sides():
    class Capped(L1):
        def _prox(self, x, t):
            return super()._prox(x, jnp.minimum(t, 0.6))

    with pytest.raises(AssertionError, match=r"keeps psi\(p\) = .*\^2/\(2t\) = "):
        testing.check_huge_step(Capped(), X, STEP)
