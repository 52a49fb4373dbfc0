"""Every law catches regularizers that are broken on purpose, one way each.

The first tests show that the unbroken ones, written here by hand, break no law.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rmda_jax as rj
from rmda_jax import testing
from rmda_jax.regularizers._groups import Groups
from rmda_jax.regularizers._levels import Levels
from rmda_jax.regularizers._magnitude import MagnitudePenalty
from rmda_jax.regularizers._penalties import MCP, Abs

pytestmark = pytest.mark.costly

X = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
X[1], X[2, 2], STEP = 0.1 * X[1], 0.0, 0.6


@dataclasses.dataclass(frozen=True)
class L1(rj.Regularizer):
    """The l1 norm as anyone would write it, with nothing but the hooks."""

    is_convex = is_separable = is_homogeneous = True

    def _value(self, x):
        return jnp.sum(jnp.abs(x))

    def _prox(self, x, t):
        return jnp.sign(x) * jnp.maximum(jnp.abs(x) - t, 0)

    def _metric_prox(self, x, t, d):
        return self._prox(x, t / d)

    def _margin(self, x, v, strength):
        slack = jnp.where(x == 0, 1 - jnp.abs(v) / strength, jnp.inf)
        return jnp.min(slack, initial=jnp.inf)


@dataclasses.dataclass(frozen=True)
class L2Norm(rj.Regularizer):
    """The Euclidean norm, with the double where."""

    is_convex = is_homogeneous = True

    def _value(self, x):
        squares = jnp.sum(jnp.square(x))
        return jnp.where(
            squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), squares
        )

    def _prox(self, x, t):
        r = self._value(x)
        factor = jnp.maximum(r - t, 0) / jnp.where(r == 0, 1, r)
        return jnp.where(factor == 0, 0, x * jnp.where(t == 0, 1, factor))

    def _support(self, x, eps):
        return jnp.any(x != 0)

    def _unit_sizes(self, shape):
        return np.asarray(int(np.prod(shape)))


@dataclasses.dataclass(frozen=True)
class UnitBox(rj.Regularizer):
    is_convex = is_separable = is_indicator = True

    def _value(self, x):
        return jnp.zeros((), x.dtype)

    def _contains(self, x, eps):
        return jnp.all(jnp.abs(x) <= 1)

    def _prox(self, x, t):
        return jnp.clip(x, -1, 1)


@dataclasses.dataclass(frozen=True)
class ExclusiveLasso(rj.Regularizer):
    """Half the squared l1 norm of every row: every row keeps some entries."""

    is_convex = True

    def _value(self, x):
        return jnp.sum(jnp.square(jnp.sum(jnp.abs(x), -1))) / 2

    def _prox(self, x, t):
        r = jnp.abs(x)
        total = jnp.cumsum(-jnp.sort(-r, -1), -1)
        sums = total / (1 + t * jnp.arange(1, 1 + x.shape[-1]))
        kept = jnp.maximum(r - t * jnp.max(sums, -1, keepdims=True), 0)
        return jnp.where(kept == 0, 0, jnp.where(x < 0, -kept, kept))


class WrongSign(L1):
    def _prox(self, x, t):
        return -super()._prox(x, t)


class HalfTheStep(L1):
    def _prox(self, x, t):
        return super()._prox(x, t / 2)


class StepTooLarge(L1):
    """By a thousandth, which float32 tells from rounding."""

    def _prox(self, x, t):
        return super()._prox(x, 1.001 * t)


class StepSlightlyTooLarge(L1):
    """By a millionth, which float64 tells from rounding."""

    def _prox(self, x, t):
        return super()._prox(x, (1 + 1e-6) * t)


class TwiceTheValue(L1):
    def _value(self, x):
        return 2 * super()._value(x)


class MissingWeight(MagnitudePenalty):
    """A group lasso whose prox forgets the square root of the group size."""

    def _prox(self, x, t):
        bare = dataclasses.replace(self.geometry, weighted=False)
        return MagnitudePenalty(self.penalty, bare)._prox(x, t)

    def _prox_at(self, center, operands, t):
        return self._prox(center(*operands), t)


class WrongThreshold(L1):
    """l0 that keeps what exceeds sqrt(t), not sqrt(2t)."""

    is_convex = is_homogeneous = False

    def _value(self, x):
        return jnp.sum(x != 0).astype(x.dtype)

    def _prox(self, x, t):
        return jnp.where(jnp.square(x) > t, x, 0)


class OnlyLocal(MagnitudePenalty):
    """MCP whose prox is stationary but not the least where there are two minima."""

    def _prox(self, x, t):
        return jnp.where(jnp.abs(x) <= t * self.penalty.lam, 0, x)

    def _prox_at(self, center, operands, t):
        return self._prox(center(*operands), t)


class NotConvex(WrongThreshold):
    is_convex = True

    def _prox(self, x, t):
        return jnp.where(jnp.square(x) > 2 * t, x, 0)


class NeverIdle(L1):
    def _prox(self, x, t):
        return super()._prox(x, t + 1e-4)


class LeavesItsDomain(UnitBox):
    """Forgets to project when the step is 0."""

    def _prox(self, x, t):
        return jnp.where(t == 0, x, super()._prox(x, t))


class StepIsCapped(L1):
    def _prox(self, x, t):
        return super()._prox(x, jnp.minimum(t, 0.6))


class Overflows(L1):
    def _prox(self, x, t):
        return super()._prox(x, t) + 0 * t**8


class StepMatters(UnitBox):
    def _prox(self, x, t):
        return jnp.clip(x, -1 / (1 + t), 1 / (1 + t))


class NotIdempotent(UnitBox):
    def _prox(self, x, t):
        return 0.9 * super()._prox(x, t)


class Outside(UnitBox):
    def _prox(self, x, t):
        return jnp.clip(x, -1, 1.5)


class NotHomogeneous(L1):
    def _value(self, x):
        return jnp.sum(jnp.square(x)) / 2

    def _prox(self, x, t):
        return x / (1 + t)


class ValueNotHomogeneous(L1):
    def _value(self, x):
        return super()._value(x) + 1e-3


class NotSeparable(L2Norm):
    is_separable = True


class DependsOnPlace(L1):
    def _value(self, x):
        return jnp.sum(self._weights(x) * jnp.abs(x))

    def _prox(self, x, t):
        return super()._prox(x, t * self._weights(x))

    def _weights(self, x):
        return jnp.linspace(1, 2, x.size).reshape(x.shape).astype(x.dtype)


class MetricForgotten(L1):
    def _metric_prox(self, x, t, d):
        return self._prox(x, t)


class MetricUpsideDown(L1):
    def _metric_prox(self, x, t, d):
        return self._prox(x, t * d)


class MetricOfTheMean(L1):
    """Right for constant metrics alone."""

    def _metric_prox(self, x, t, d):
        return self._prox(x, t / jnp.mean(d))


class AlmostZero(L1):
    def _prox(self, x, t):
        p = super()._prox(x, t)
        return jnp.where(p == 0, 1e-9, p)


class AlmostZeroByRow(ExclusiveLasso):
    """No huge step makes all of it vanish, so that no slope at zero tells."""

    def _prox(self, x, t):
        p = super()._prox(x, t)
        return jnp.where((p == 0) & (t > 0), 1e-9, p)


class AlmostZeroOfItsSign(ExclusiveLasso):
    def _prox(self, x, t):
        p = super()._prox(x, t)
        return jnp.where((p == 0) & (t > 0), 1e-8 * x, p)


class RoundedAway(ExclusiveLasso):
    """Zeros that are computed: what is left of them is rounding."""

    def _prox(self, x, t):
        p = super()._prox(x, t)
        return jnp.where((p == 0) & (t > 0), x - 3 * (x / 3 + x / 7) + 3 * x / 7, p)


class WrongProxSupport(L1):
    def _prox_support(self, x, t):
        return jnp.abs(x) > t / 2


class SupportIsNoFlag(L1):
    def _support(self, x, eps):
        return (x != 0).astype(jnp.int32)


class ZeroByZero(L1):
    def _prox(self, x, t):
        return x * jnp.maximum(jnp.abs(x) - t, 0) / jnp.abs(x)


class ValueOfZeroIsNaN(L1):
    def _value(self, x):
        return jnp.sum(x * x / jnp.abs(x))


class SingleWhere(L2Norm):
    """Finite everywhere, but not its derivative at zero."""

    def _value(self, x):
        return jnp.sqrt(jnp.sum(jnp.square(x)))


class StepDerivative(L1):
    def _prox(self, x, t):
        return super()._prox(x, jnp.sqrt(t) * jnp.sqrt(t))


class NaNIsClean(L1):
    def _prox(self, x, t):
        return jnp.where(x > t, x - t, jnp.where(x < -t, x + t, 0))


class NaNIsWorthless(L1):
    def _value(self, x):
        return jnp.sum(jnp.where(x > 0, x, jnp.where(x < 0, -x, 0)))


class SnapMoves(L1):
    def _snap(self, x, eps):
        return 1.001 * x


class SnapWakes(L1):
    def _snap(self, x, eps):
        return x + 1e-9


class SnapDoesNothing(Levels):
    def _snap(self, x, eps):
        return x

    def _contains(self, x, eps):
        return jnp.all(x == self.nearest(x))


class SnapWidens(L1):
    def snap(self, x):
        return super().snap(x).astype(jnp.float16)


class UnitsTooLarge(L2Norm):
    def _unit_sizes(self, shape):
        return super()._unit_sizes(shape) + 1


class MaskOfEntries(L1):
    """The l1 norm with its support mask."""

    def _support_mask(self, x):
        return x != 0


class MaskLeftOut(L1):
    def _support_mask(self, x):
        return jnp.ones(x.shape, bool)


class MaskOfLargeEntries(L1):
    def _support_mask(self, x):
        return jnp.abs(x) > 0.5


class MaskOfTheWholeInstead(L2Norm):
    """Holds every other entry of a live unit."""

    def _support_mask(self, x):
        return (x != 0) & (jnp.arange(x.shape[-1]) % 2 == 0)


class MaskOfNumbers(L1):
    def _support_mask(self, x):
        return jnp.abs(x)


class UnitsAreFractions(L1):
    def _unit_sizes(self, shape):
        return np.ones(shape)


class UnitsOfOtherShape(L1):
    def _unit_sizes(self, shape):
        return np.ones((7, *shape), int)


class AlwaysOptimal(L1):
    def _subgradient_distance(self, x, v, strength):
        return jnp.zeros((), x.dtype)


class NeverOptimal(L1):
    def _subgradient_distance(self, x, v, strength):
        return jnp.sqrt(jnp.sum(jnp.square(v)))


class NegativeMargin(L1):
    def _margin(self, x, v, strength):
        return super()._margin(x, 3 * v, strength)


class MarginOfActives(L1):
    def _margin(self, x, v, strength):
        return jnp.min(1 - jnp.abs(x + v) / strength)


class Critical(L1):
    """The l1 norm with its critical strengths."""

    def _critical_levels(self, x, d):
        return jnp.abs(x) if d is None else d * jnp.abs(x)


class CriticalTooSmall(Critical):
    """By a thousandth, which float32 tells from rounding."""

    def _critical_levels(self, x, d):
        return 0.999 * super()._critical_levels(x, d)


class CriticalTooLarge(Critical):
    def _critical_levels(self, x, d):
        return 1.001 * super()._critical_levels(x, d)


class CriticalWithoutMetric(Critical):
    def _critical_levels(self, x, d):
        return super()._critical_levels(x, None)


class CriticalOfTheZeros(Critical):
    """Positive where nothing is left to make zero."""

    def _critical_levels(self, x, d):
        return super()._critical_levels(x, d) + 1e-3 * (x == 0)


class CriticalIgnoresNaN(Critical):
    def _critical_levels(self, x, d):
        return jnp.nan_to_num(super()._critical_levels(x, d))


class CriticalOfTheWhole(Critical):
    def _critical_levels(self, x, d):
        return jnp.max(super()._critical_levels(x, d))


class ComesBack(Critical):
    """Zero at its critical strength, and alive again at three times as much."""

    def _prox(self, x, t):
        return jnp.where(t > 3 * jnp.abs(x), x, super()._prox(x, t))


class OtherWhenTraced(L1):
    def _prox(self, x, t):
        scale = 1.0001 if isinstance(x, jax.core.Tracer) else 1.0
        return scale * super()._prox(x, t)


class OtherZerosWhenTraced(L1):
    def _prox(self, x, t):
        p = super()._prox(x, t)
        return p + 1e-12 if isinstance(x, jax.core.Tracer) else p


class OtherCentre(L1):
    def _prox_at(self, center, operands, t):
        return self._prox(operands[0], t)


class OtherWhenBatched(L1):
    def _prox(self, x, t):
        @jax.custom_batching.custom_vmap
        def prox(x, t):
            return L1()._prox(x, t)

        @prox.def_vmap
        def rule(size, batched, x, t):  # the first step serves for all
            return L1()._prox(x, t[0] if batched[1] else t), True

        return prox(x, t)


class AlwaysFloat32(L1):
    def prox(self, x, step_size):
        return super().prox(x, step_size).astype(jnp.float32)


class InHalfPrecision(L1):
    def prox(self, x, step_size):
        x = jnp.asarray(x)
        return self._prox(x, jnp.asarray(step_size, x.dtype))


class HalfValue(L1):
    def value(self, x):
        return super().value(x).astype(jnp.asarray(x).dtype)


class Callable(L1):
    def __call__(self, x):
        return self.value(x)


@dataclasses.dataclass(unsafe_hash=True)
class NotFrozen(rj.Regularizer):
    scale: float = 1.0
    is_convex = True
    _value, _prox = L1._value, L1._prox


class NotHashable(L1):
    __hash__ = None  # type: ignore[assignment]


class NotPicklable(L1):
    def __reduce__(self):
        raise TypeError("no pickles here")


class EqualToItselfAlone(L1):
    def __eq__(self, other):
        return self is other

    def __hash__(self):
        return id(self)


class ScalarProx(L1):
    def prox(self, x, step_size):
        return jnp.sum(super().prox(x, step_size))


class IntegerProx(L1):
    def prox(self, x, step_size):
        return super().prox(x, step_size).astype(jnp.int32)


class ArrayValue(L1):
    def value(self, x):
        return jnp.abs(x)


class NaNProx(L1):
    def _prox(self, x, t):
        return jnp.sqrt(super()._prox(x, t))


MUTANTS = {
    testing.check_answers: [
        ScalarProx(),
        IntegerProx(),
        ArrayValue(),
        NaNProx(),
        SupportIsNoFlag(),
    ],
    testing.check_tiny_entries: [
        AlmostZero(),
        AlmostZeroByRow(),
        AlmostZeroOfItsSign(),
        RoundedAway(),
    ],
    testing.check_minimizes: [
        WrongSign(),
        HalfTheStep(),
        StepTooLarge(),
        TwiceTheValue(),
        MissingWeight(Abs(), Groups((0,))),
        WrongThreshold(),
        OnlyLocal(MCP(1.0, 0.2), rj.l1().geometry),
    ],
    testing.check_firmly_nonexpansive: [NotConvex(), WrongSign()],
    testing.check_zero_step: [NeverIdle(), LeavesItsDomain()],
    testing.check_huge_step: [StepIsCapped(), Overflows()],
    testing.check_projection: [StepMatters(), NotIdempotent(), Outside()],
    testing.check_homogeneous: [NotHomogeneous(), ValueNotHomogeneous()],
    testing.check_separable: [NotSeparable(), DependsOnPlace()],
    testing.check_metric_prox: [
        MetricForgotten(),
        MetricUpsideDown(),
        MetricOfTheMean(),
    ],
    testing.check_exact_zeros: [AlmostZero(), WrongProxSupport()],
    testing.check_finite: [ZeroByZero(), ValueOfZeroIsNaN()],
    testing.check_finite_gradients: [ZeroByZero(), SingleWhere(), StepDerivative()],
    testing.check_nan: [NaNIsClean(), NaNIsWorthless()],
    testing.check_snap: [
        SnapMoves(),
        SnapWakes(),
        SnapDoesNothing(-0.7, 0.7, 3),
        SnapWidens(),
    ],
    testing.check_units: [UnitsTooLarge(), UnitsAreFractions(), UnitsOfOtherShape()],
    testing.check_support_mask: [
        MaskLeftOut(),
        MaskOfLargeEntries(),
        MaskOfTheWholeInstead(),
        MaskOfNumbers(),
    ],
    testing.check_certificate: [
        AlwaysOptimal(),
        NeverOptimal(),
        NegativeMargin(),
        MarginOfActives(),
    ],
    testing.check_critical_strengths: [
        CriticalTooSmall(),
        CriticalTooLarge(),
        CriticalWithoutMetric(),
        CriticalOfTheZeros(),
        CriticalIgnoresNaN(),
        CriticalOfTheWhole(),
        ComesBack(),
    ],
    testing.check_jit: [OtherWhenTraced(), OtherZerosWhenTraced(), OtherCentre()],
    testing.check_vmap: [OtherWhenBatched()],
    testing.check_dtypes: [AlwaysFloat32(), InHalfPrecision(), HalfValue()],
    testing.check_object: [
        Callable(),
        NotFrozen(),
        NotHashable(),
        NotPicklable(),
        EqualToItselfAlone(),
    ],
}


def test_every_law_has_a_mutant():
    assert set(MUTANTS) == set(testing.LAWS)


@pytest.mark.parametrize(
    "regularizer",
    [L1(), L2Norm(), UnitBox(), ExclusiveLasso(), Critical(), MaskOfEntries()],
    ids=repr,
)
def test_handwritten_regularizer_breaks_no_law(regularizer):
    testing.check_regularizer(regularizer, X, STEP)


@pytest.mark.parametrize(
    ("law", "mutant"),
    [
        pytest.param(law, mutant, id=f"{law.__name__[6:]}-{type(mutant).__name__}")
        for law, mutants in MUTANTS.items()
        for mutant in mutants
    ],
)
def test_law_catches_the_mutant(law, mutant):
    with pytest.raises(AssertionError, match=r"^[\w ]+: .* "):
        law(mutant, X, STEP)


def test_float64_tells_a_millionth_from_rounding(x64):
    testing.check_minimizes(L1(), X.astype(np.float64), STEP)
    with pytest.raises(AssertionError, match="minimality"):
        testing.check_minimizes(StepSlightlyTooLarge(), X.astype(np.float64), STEP)


def test_check_regularizer_names_the_law_and_spares_the_exempt():
    with pytest.raises(AssertionError, match=r"^NaN: .* turns NaN into"):
        testing.check_regularizer(NaNIsClean(), X, STEP)
    testing.check_regularizer(NaNIsClean(), X, STEP, exempt=[testing.check_nan])
