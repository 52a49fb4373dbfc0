r"""The norm of a group's prox in a diagonal metric: the root of one secular equation.

With centre :math:`z`, metric :math:`d` and level :math:`k`, the group lasso
:math:`\min_x \tfrac12\sum d (x - z)^2 + k\|x\|` is solved by :math:`x = 0` if
:math:`\|d z\| \le k`, and else by

.. math:: x(r) = \frac{d z}{d + k/r}, \qquad r = \|x\| \text{ the root of }
    h(r) = \frac{r}{\|x(r)\|} = 1.

:math:`h` increases and is concave, from :math:`k/\|dz\|` at 0 to a line of slope
:math:`1/\|z\|`. A step matches its value, slope and curvature, and that line, by

.. math:: h(r + s) \approx h + \sigma s + \frac{a s}{1 + c s},

whose root solves a quadratic equation: convergence is cubic, and the first step, from
0, is exact where the metric is constant. As :math:`h` is concave, Newton's step lands
left of the root and a step along the line right of it, from wherever: a bracket.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rmda_jax._types import Arrays
from rmda_jax.regularizers.solvers._layout import GroupLayout

MAX_STEPS = 16  # the hardest known groups take 8, those of training 1 or 2
_NEWTON_STEPS = 12


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def group_norms(
    groups: GroupLayout, z: Arrays, d: Arrays, k: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return each group's norm, 0 where it vanishes, and how many steps it took."""
    return _solve(groups, z, d, k)


@group_norms.defjvp
def _group_norms_jvp(groups: GroupLayout, primals, tangents):
    r, n_steps = group_norms(groups, *primals)
    no_tangent = np.zeros((), jax.dtypes.float0)
    return (r, n_steps), (_tangent(groups, r, primals, tangents), no_tangent)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def with_derivative(
    groups: GroupLayout, z: Arrays, d: Arrays, k: jax.Array, r: jax.Array
) -> jax.Array:
    """Return the norms ``r``, found elsewhere, with the derivative of the root."""
    del groups, z, d, k
    return r


@with_derivative.defjvp
def _with_derivative_jvp(groups: GroupLayout, primals, tangents):
    *problem, r = primals
    return r, _tangent(groups, r, problem, tangents[:3])


def _tangent(
    groups: GroupLayout, r: jax.Array, problem: Sequence[Any], tangents: Sequence[Any]
) -> jax.Array:
    """Return the tangent of the root, by the implicit function theorem."""
    (z, d, k), (dz, dd, dk) = problem, tangents
    zero = r == 0
    safe = jnp.where(zero, 1, r)
    shift = groups.expand(k / safe, groups.each(jnp.shape, z))
    t = groups.each(lambda d, shift: d / (d + shift), d, shift)
    x = groups.each(jnp.multiply, t, z)
    by_center = groups.total(lambda x, t, dz: t * x * dz, x, t, dz)
    by_metric = lambda x, t, z, d, dd: x * (z - x) * t / d * dd
    by_level = groups.total(lambda x, t, d: jnp.square(x) * t / d, x, t, d)
    pull = by_center + groups.total(by_metric, x, t, z, d, dd) - dk / safe * by_level
    weight = groups.total(lambda x, t: t * jnp.square(x), x, t)
    weight = jnp.where(zero, 1, weight)
    return jnp.where(zero, 0, r * pull / weight)


class _Search(NamedTuple):
    n_steps: jax.Array  # int32
    unsolved: jax.Array  # whether any group is
    r: jax.Array  # the iterates, and what brackets the roots
    low: jax.Array
    high: jax.Array


# Under `jit`, because an eager call would compile the loop anew every time.
@functools.partial(jax.jit, static_argnums=0, inline=True)
def _solve(
    groups: GroupLayout, z: Arrays, d: Arrays, k: jax.Array
) -> tuple[jax.Array, jax.Array]:
    terms = lambda z, d: jnp.square(d * z), lambda z, d: jnp.square(z)
    b2, z2 = _sums(groups, terms, z, d)
    # Groups whose squares underflow vanish as well.
    vanishes = (jnp.sqrt(b2) <= k) | (z2 == 0)
    # What is computed for the groups that vanish is not used, but is finite.
    b2, z2 = jnp.where(vanishes, 1, b2), jnp.where(vanishes, 1, z2)
    z_norm = jnp.sqrt(z2)
    first, low, high = _first_step(groups, z, d, k, b2, z2, vanishes)

    def step(state: _Search) -> _Search:
        at = state.r, state.low, state.high
        *new, unsolved = root_step(groups, z, d, k, vanishes, z_norm, *at)
        return _Search(state.n_steps + 1, jnp.any(unsolved), *new)

    goes_on = lambda state: state.unsolved & (state.n_steps < MAX_STEPS)
    # Under shard_map all that is carried must vary over the devices, the flag too.
    unsolved = jnp.any(vanishes | True)
    found = lax.while_loop(
        goes_on, step, _Search(jnp.zeros((), jnp.int32), unsolved, first, low, high)
    )
    return jnp.where(vanishes, 0, found.r), found.n_steps


def root_step(
    groups: GroupLayout,
    z: Arrays,
    d: Arrays,
    k: jax.Array,
    vanishes: jax.Array,
    z_norm: jax.Array,
    r: jax.Array,
    low: jax.Array,
    high: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return the next iterates with their brackets, and which are unsolved.

    ``z_norm`` is the norm of ``z`` per group, 1 where the group vanishes.
    """
    shift = groups.expand(k / r, groups.each(jnp.shape, z))
    terms = (
        lambda z, d, shift: jnp.square(d / (d + shift) * z),
        lambda z, d, shift: jnp.square(d / (d + shift) * z) * (d / (d + shift)),
        lambda z, d, shift: jnp.square(jnp.square(d / (d + shift)) * z),
    )
    x2, mean, square = _sums(groups, terms, z, d, shift)
    done = vanishes | (x2 == 0)
    x2 = jnp.where(done, 1, x2)
    mean, square = mean / x2, square / x2
    variance = jnp.maximum(square - mean * mean, 0)
    h = r / jnp.sqrt(x2)
    # Slopes in units of 1 / r. A group that vanishes has a slope of 0.
    line = r / z_norm
    slope = jnp.where(done, 1, jnp.maximum(h * mean, line))
    gap = 1 - h
    s = _rational_step(gap, slope, line, 1.5 * h * variance, slope - line)
    low = jnp.maximum(low, r * (1 + gap / slope))
    high = jnp.minimum(high, jnp.where(gap > 0, r * (1 + gap / line), r))
    new = jnp.where(done, r, jnp.clip(r * (1 + s), low, high))
    # Empirically the remaining error is at most 0.2 of this, relative to |z|.
    left = variance * jnp.abs(jnp.power(new / r - 1, 3))
    return new, low, high, left > jnp.finfo(k.dtype).eps


def _first_step(
    groups: GroupLayout,
    z: Arrays,
    d: Arrays,
    k: jax.Array,
    b2: jax.Array,
    z2: jax.Array,
    vanishes: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the step from 0, and a bracket of the root.

    ``b2`` and ``z2`` are the sums of squares of ``d z`` and ``z``, 1 where the group
    vanishes.
    """
    norm, z_norm = jnp.sqrt(b2), jnp.sqrt(z2)
    # With the metric in units of |dz| / |z| its squares stay within float32's range.
    unit = groups.expand(z_norm / norm, groups.each(jnp.shape, z))
    terms = (
        lambda z, d, u: jnp.square(d * z) * (d * u),
        lambda z, d, u: jnp.square(d * z) * jnp.square(d * u),
    )
    mean, square = (m / b2 for m in _sums(groups, terms, z, d, unit))
    return step_from_zero(k, norm, z_norm, mean, square, vanishes)


def step_from_zero(
    k: jax.Array,
    norm: jax.Array,
    z_norm: jax.Array,
    mean: jax.Array,
    square: jax.Array,
    vanishes: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the step from 0, and a bracket of the root.

    ``mean`` and ``square`` are those of the metric in units of ``norm / z_norm``, with
    the squares of ``d z`` as weights; ``norm`` and ``z_norm`` are the norms of ``d z``
    and ``z``.
    """
    start = jnp.where(vanishes, 0, k / norm)  # h(0)
    gap = jnp.where(vanishes, 1, (norm - k) / norm)  # 1 - h(0), which does not to 0
    # In units of |z|, where the line's slope is 1. No slope is less than the line's,
    # but where its terms underflow.
    slope = jnp.where(vanishes, 1, jnp.maximum(mean, 1))
    curvature = 1.5 * jnp.maximum(square - mean * mean, 0)
    first = _rational_step(gap, slope, 1.0, curvature, start * (slope - 1))
    low, high = z_norm * gap / slope, z_norm * gap
    return jnp.clip(z_norm * first, low, high), low, high


def _rational_step(
    gap: jax.Array,
    slope: jax.Array,
    line: jax.Array | float,
    curvature: jax.Array,
    excess: jax.Array,
) -> jax.Array:
    r"""Solve :math:`\sigma s + a s/(1 + c s) = e` for the root that follows h.

    Args:
      gap: :math:`e`, what is missing to 1.
      slope: :math:`\sigma + a`.
      line: :math:`\sigma`.
      curvature: :math:`a c`, up to the factor that ``excess`` has as well.
      excess: :math:`a`.
    """
    # c = curvature / excess may be infinite, share = c / (1 + c) is not.
    excess = jnp.maximum(excess, 0)
    both = curvature + excess
    share = jnp.where(both > 0, curvature / jnp.where(both > 0, both, 1), 0)
    linear = (1 - share) * slope - gap * share
    constant = gap * (1 - share)
    quadratic = line * share
    root = jnp.sqrt(jnp.maximum(linear * linear + 4 * quadratic * constant, 0))
    # Of the two forms of the same root, the one without cancellation. Where the metric
    # is constant up to rounding, XLA may round the share to 0 here and to 1 there: no
    # form may divide by 0, and the bracket does the rest.
    plus, minus = root + linear, root - linear
    return jnp.where(
        linear > 0,
        2 * constant / jnp.where(plus > 0, plus, 1),
        minus / jnp.where(quadratic > 0, 2 * quadratic, 1),
    )


def _sums(
    groups: GroupLayout,
    terms: Sequence[Callable[..., jax.Array]],
    *operands: Arrays,
) -> list[jax.Array]:
    """Return the sums over the groups of several terms of the same operands.

    XLA:CPU fuses each term into its sum, but writes out a part that two terms share, as
    large as the array. So on CPU each sum is a pass of its own, behind a barrier.
    Elsewhere one kernel takes them all. docs/performance.md has the measurements.
    """

    def together(*operands: Arrays) -> list[jax.Array]:
        return [groups.total(term, *operands) for term in terms]

    def apart(*operands: Arrays) -> list[jax.Array]:
        sums: list[jax.Array] = []
        for term in terms:
            operands, sums = lax.optimization_barrier((operands, sums))
            sums.append(groups.total(term, *operands))
        return sums

    return lax.platform_dependent(*operands, cpu=apart, default=together)


@functools.partial(jax.jit, static_argnames=("groups", "knee"), inline=True)
def first_norms(
    groups: GroupLayout, b: Arrays, d: Arrays, k: jax.Array, knee: float
) -> jax.Array:
    r"""Return the smallest root of :math:`\|b/(d r + k)\| = 1`, at most ``knee``.

    Here ``d`` may be negative, and :math:`h` is concave up to the knee only; Newton
    from the left still rises to the first root. Every group needs one.
    """
    shapes = groups.each(jnp.shape, b)
    # Positions of no group take 1, so that nothing is 0/0.
    expand = lambda per_group: groups.expand(per_group, shapes, 1.0)
    norm = groups.magnitudes(b)
    # The first step from 0. Dividing before squaring keeps within float32's range.
    slope = lambda d, b, norm: d * jnp.square(b / norm)
    mean = groups.total(slope, d, b, expand(norm))
    low = jnp.where(mean <= 0, 0, jnp.minimum((norm - k) / mean, knee))

    def newton(r: jax.Array) -> jax.Array:
        denominator = lambda d, r, k: d * r + k
        below = groups.each(denominator, d, expand(r), expand(k))
        w = groups.each(lambda b, below: jnp.square(b / below), b, below)
        m0 = groups.total(lambda w: w, w)
        m1 = groups.total(lambda w, d, below: w * d / below, w, d, below)
        return jnp.clip(r + (jnp.sqrt(m0) - 1) * m0 / m1, low, knee)

    r = lax.fori_loop(0, _NEWTON_STEPS, lambda _, r: newton(r), low)
    # One more step from the constant root carries the derivative of the root.
    return newton(lax.stop_gradient(r))
