"""Convex feasible sets: box, balls, simplex. Their prox is the projection."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from rmda_jax._types import Shape
from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._checks import check_parameter
from rmda_jax.regularizers._geometries import Groups, as_groups


# Called eagerly, a loop of its own would be compiled anew at every call.
@functools.partial(jax.jit, static_argnames="groups", inline=True)
def water_level(groups: Groups, a: jax.Array, total: jax.Array) -> jax.Array:
    r"""Return the level above which every group holds ``total``.

    .. math:: \theta_g: \quad \sum_{i\in g} \max(a_i - \theta_g, 0) = \text{total}

    The left side is convex, piecewise linear and falling, so Newton from the level that
    counts every entry as active rises to the root in finitely many steps, without a
    sort (Michelot, 1986).

    Args:
      groups: One level per group.
      a: Array of any shape.
      total: Positive, broadcastable to the groups' magnitudes.

    Returns:
      The level of every group, shaped like the groups' magnitudes.
    """

    def newton(theta: jax.Array) -> jax.Array:
        active = a > groups.expand(theta, a.shape)
        count = groups.reduce(jnp.sum, active.astype(a.dtype))
        mass = groups.reduce(jnp.sum, jnp.where(active, a, 0))
        return jnp.where(count > 0, (mass - total) / jnp.maximum(count, 1), theta)

    def rises(state: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jnp.any(state[1] > state[0])

    everything = groups.reduce(jnp.sum, jnp.ones_like(a))
    start = (groups.reduce(jnp.sum, a) - total) / jnp.maximum(everything, 1)
    constant = lax.stop_gradient((start, newton(start)))
    _, theta = lax.while_loop(
        rises, lambda s: (s[1], jnp.maximum(s[1], newton(s[1]))), constant
    )
    # One more step from the constant root carries the derivative of the root.
    return newton(lax.stop_gradient(theta))


class FeasibleSet(Regularizer):
    """A set as a regularizer: the indicator of what its projection leaves alone."""

    @property
    def is_indicator(self) -> bool:
        return True

    def _value(self, x: jax.Array) -> jax.Array:
        return jnp.zeros((), x.dtype)

    def _contains(self, x: jax.Array, eps: float) -> ArrayLike:
        # Sums round: a projection may miss the boundary by an ulp per entry.
        rounding = 8 * eps * math.sqrt(max(x.size, 1))
        gap = jnp.abs(x - self._prox(x, jnp.zeros((), x.dtype)))
        return jnp.all(gap <= rounding * (1 + jnp.max(jnp.abs(x), initial=0)))

    def _snap(self, x: jax.Array, eps: float) -> jax.Array:
        # A rounded sum on the wrong side must not wake up zeros.
        zero = (x == 0) & self._contains(x, eps)
        return jnp.where(zero, 0, self._prox(x, jnp.zeros((), x.dtype)))


@dataclasses.dataclass(frozen=True)
class Box(FeasibleSet):
    r"""The box :math:`[\text{lower}, \text{upper}]^n`."""

    lower: float
    upper: float

    def __post_init__(self):
        check_parameter("upper", self.upper, at_least=self.lower)

    def __str__(self) -> str:
        return f"box [{self.lower:g}, {self.upper:g}]"

    @property
    def is_convex(self) -> bool:
        return True

    @property
    def is_separable(self) -> bool:
        return True

    @property
    def is_homogeneous(self) -> bool:
        return {self.lower, self.upper} <= {0.0, -math.inf, math.inf}

    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        del t
        return jnp.clip(x, self.lower, self.upper)

    def _metric_prox(self, x: jax.Array, t: jax.Array, d: jax.Array) -> jax.Array:
        del d
        return self._prox(x, t)


@dataclasses.dataclass(frozen=True)
class Ball(FeasibleSet):
    """A ball of one radius for every group: in the l1 or l2 norm, or the simplex."""

    kind: str
    radius: float
    groups: Groups

    def __post_init__(self):
        check_parameter("radius", self.radius, above=0)

    def __str__(self) -> str:
        return f"{self.kind} of radius {self.radius:g} on {self.groups}"

    @property
    def is_convex(self) -> bool:
        return True

    def _check(self, shape: Shape) -> None:
        self.groups.check(shape)

    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        del t
        return _PROJECTIONS[self.kind](self.groups, x, self.radius)


def _project_simplex(groups: Groups, x: jax.Array, radius: float) -> jax.Array:
    theta = water_level(groups, x, jnp.asarray(radius, x.dtype))
    return jnp.maximum(x - groups.expand(theta, x.shape), 0)


def project_l1_ball(groups: Groups, x: jax.Array, radius: ArrayLike) -> jax.Array:
    """Project every group onto its l1 ball; radii broadcast to the magnitudes."""
    radius = jnp.asarray(radius, x.dtype)
    inside = groups.reduce(jnp.sum, jnp.abs(x)) <= radius
    # Rounding may push a level that is nearly 0 below it, and wake up zeros.
    level = jnp.maximum(water_level(groups, jnp.abs(x), radius), 0)
    theta = jnp.where(inside, 0, level)
    r = jnp.maximum(jnp.abs(x) - groups.expand(theta, x.shape), 0)
    return jnp.where(r == 0, 0, jnp.where(x < 0, -r, r))


def _project_l2_ball(groups: Groups, x: jax.Array, radius: float) -> jax.Array:
    r = groups.magnitudes(x)
    inside = r <= radius
    factor = jnp.where(inside, 1, radius / jnp.where(inside, 1, r))
    return x * groups.expand(factor, x.shape)


_PROJECTIONS: dict[str, Callable[..., jax.Array]] = {
    "simplex": _project_simplex,
    "l1 ball": project_l1_ball,
    "l2 ball": _project_l2_ball,
}


def box(lower: float, upper: float) -> Box:
    r"""Indicator of the box: every entry lies in [lower, upper].

    .. math:: \psi(x) = 0 \text{ if } l \le x_i \le u \text{ for all } i,
        \ \infty \text{ otherwise}

    Args:
      lower: l; may be minus infinity.
      upper: u; may be infinity.

    Returns:
      A convex, separable indicator for arrays of any shape; prox clips.

    Raises:
      ValueError: ``upper`` is below ``lower``.

    Examples:
      >>> rj.box(-1.0, 1.0).prox(jnp.array([0.5, -3.0]), 0.1)
      Array([ 0.5, -1. ], dtype=float32)
    """
    return Box(float(lower), float(upper))


def nonnegative() -> Box:
    r"""Indicator of the nonnegative orthant; prox is :math:`\max(x, 0)`.

    Returns:
      A convex, separable indicator for arrays of any shape.

    Examples:
      >>> rj.nonnegative().prox(jnp.array([0.5, -3.0]), 0.1)
      Array([0.5, 0. ], dtype=float32)
    """
    return Box(0.0, math.inf)


def l1_ball(radius: float = 1.0, group_axes: int | tuple[int, ...] = ()) -> Ball:
    r"""Indicator of :math:`\|x_g\|_1 \le r` for every group g.

    Args:
      radius: r > 0.
      group_axes: Axes that enumerate the groups; ``()``: the whole array is one.

    Returns:
      A convex indicator. Prox is a soft threshold whose level meets the radius.

    Raises:
      ValueError: ``radius`` is not positive.

    Examples:
      >>> rj.l1_ball(1.0).prox(jnp.array([2.0, -1.0]), 0.1)
      Array([1., 0.], dtype=float32)

    References:
      Duchi et al., `Efficient projections onto the l1-ball
      <https://doi.org/10.1145/1390156.1390191>`_, 2008.
    """
    return Ball("l1 ball", radius, as_groups(group_axes, weighted=False))


def l2_ball(radius: float = 1.0, group_axes: int | tuple[int, ...] = ()) -> Ball:
    r"""Indicator of :math:`\|x_g\|_2 \le r` for every group g.

    Args:
      radius: r > 0.
      group_axes: Axes that enumerate the groups; ``()``: the whole array is one.

    Returns:
      A convex indicator. Prox scales the groups outside back to the sphere.

    Raises:
      ValueError: ``radius`` is not positive.

    Examples:
      >>> rj.l2_ball(1.0).prox(jnp.array([3.0, -4.0]), 0.1)
      Array([ 0.6, -0.8], dtype=float32)
    """
    return Ball("l2 ball", radius, as_groups(group_axes, weighted=False))


def simplex(radius: float = 1.0, group_axes: int | tuple[int, ...] = ()) -> Ball:
    r"""Indicator of :math:`\{x_g \ge 0, \sum x_g = r\}` for every group g.

    Args:
      radius: r > 0.
      group_axes: Axes that enumerate the groups; ``()``: the whole array is one.

    Returns:
      A convex indicator. Prox is :math:`\max(x - \theta, 0)`.

    Raises:
      ValueError: ``radius`` is not positive.

    Examples:
      >>> rj.simplex().prox(jnp.array([2.0, 0.5, 1.5]), 0.1)
      Array([0.75, 0.  , 0.25], dtype=float32)

    References:
      Duchi et al., `Efficient projections onto the l1-ball
      <https://doi.org/10.1145/1390156.1390191>`_, 2008.
    """
    return Ball("simplex", radius, as_groups(group_axes, weighted=False))
