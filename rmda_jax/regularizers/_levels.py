"""Weights on a few evenly spaced levels: binary, ternary, k bits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._checks import check_parameter


@dataclasses.dataclass(frozen=True)
class Levels(Regularizer):
    r"""``count`` evenly spaced levels from ``lower`` to ``upper``.

    Hard (``soft=False``): the indicator of the levels; prox rounds to the nearest
    level, whatever the step size. Soft: :math:`\psi(x) = \sum_i \min_s |x_i - s|`;
    prox moves every entry towards its nearest level by the step size, and stops there.
    Halfway between two levels the upper one wins.
    """

    lower: float
    upper: float
    count: int
    soft: bool = False

    def __post_init__(self):
        check_parameter("count", self.count, at_least=2, integer=True)
        check_parameter("lower", self.lower, finite=True)
        check_parameter("upper", self.upper, above=self.lower, finite=True)

    def __str__(self) -> str:
        kind = "soft levels" if self.soft else "levels"
        return f"{self.count} {kind} in [{self.lower:g}, {self.upper:g}]"

    @property
    def is_separable(self) -> bool:
        return True

    @property
    def is_indicator(self) -> bool:
        return not self.soft

    @property
    def spacing(self) -> float:
        """Distance between neighbouring levels."""
        return (self.upper - self.lower) / (self.count - 1)

    def nearest(self, x: jax.Array) -> jax.Array:
        """Return the level nearest to every entry, from a table: always the same bits.

        Arithmetic would round differently under jit, and one level become two.
        """
        position = jnp.floor((x - self.lower) / self.spacing + 0.5)
        index = jnp.clip(position, 0, self.count - 1)
        table = jnp.asarray(np.linspace(self.lower, self.upper, self.count), x.dtype)
        level = jnp.take(table, index.astype(jnp.int32), mode="clip")
        return jnp.where(jnp.isnan(x), x, level)

    def _value(self, x: jax.Array) -> jax.Array:
        if self.soft:
            return jnp.sum(jnp.abs(x - self.nearest(x)))
        return jnp.zeros((), x.dtype)

    def _contains(self, x: jax.Array, eps: float) -> ArrayLike:
        return True if self.soft else jnp.all(self._support(x, eps))

    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        level = self.nearest(x)
        if not self.soft:
            return level
        gap = x - level
        return jnp.where(jnp.abs(gap) <= t, level, x - jnp.sign(gap) * t)

    def _metric_prox(self, x: jax.Array, t: jax.Array, d: jax.Array) -> jax.Array:
        return self._prox(x, t / d)

    def _support(self, x: jax.Array, eps: float) -> jax.Array:
        """Flag the entries that lie on a level."""
        # What p + (q - p) may lose: an ulp of the larger of the two. In half precision
        # that reaches the next of many levels, hence the second bound.
        rounding = 4 * eps * max(abs(self.lower), abs(self.upper))
        return jnp.abs(x - self.nearest(x)) <= min(rounding, self.spacing / 4)

    def _snap(self, x: jax.Array, eps: float) -> jax.Array:
        return jnp.where(self._support(x, eps), self.nearest(x), x)


def binary(scale: float = 1.0, *, soft: bool = False) -> Levels:
    r"""Two levels, :math:`\{-s, +s\}`.

    Hard: the indicator of :math:`\{-s,+s\}^n`, prox :math:`s\,\mathrm{sign}(x)` (at 0:
    :math:`+s`). Soft: :math:`\sum_i \min(|x_i - s|, |x_i + s|)`, the ProxQuant penalty.

    Args:
      scale: :math:`s > 0`.
      soft: Penalise the distance to the levels instead of forbidding it.

    Returns:
      A separable, nonconvex regularizer for arrays of any shape.

    Raises:
      ValueError: ``scale`` is not positive and finite.

    Examples:
      >>> rj.binary().prox(jnp.array([0.2, -3.0]), 1.0)
      Array([ 1., -1.], dtype=float32)

    References:
      Bai, Wang & Liberty, `ProxQuant <https://arxiv.org/abs/1810.00861>`_, 2019.
    """
    check_parameter("scale", scale, above=0, finite=True)
    return Levels(-scale, scale, 2, soft)


def ternary(scale: float = 1.0, *, soft: bool = False) -> Levels:
    r"""Three levels, :math:`\{-s, 0, +s\}`.

    Hard: the indicator, prox rounds to the nearest level. Soft:
    :math:`\sum_i \min(|x_i|, |x_i - s|, |x_i + s|)`.

    Args:
      scale: :math:`s > 0`.
      soft: Penalise the distance to the levels instead of forbidding it.

    Returns:
      A separable, nonconvex regularizer for arrays of any shape.

    Raises:
      ValueError: ``scale`` is not positive and finite.

    Examples:
      >>> rj.ternary().prox(jnp.array([0.2, -3.0, 0.7]), 1.0)
      Array([ 0., -1.,  1.], dtype=float32)

    References:
      Bai, Wang & Liberty, `ProxQuant <https://arxiv.org/abs/1810.00861>`_, 2019.
    """
    check_parameter("scale", scale, above=0, finite=True)
    return Levels(-scale, scale, 3, soft)


def uniform_levels(
    bits: int, lower: float = -1.0, upper: float = 1.0, *, soft: bool = False
) -> Levels:
    r"""The :math:`2^k` evenly spaced levels of ``bits`` = k bits.

    Args:
      bits: k, from 1 to 16.
      lower: Lowest level.
      upper: Highest level.
      soft: Penalise the distance to the nearest level instead of forbidding it.

    Returns:
      A separable, nonconvex regularizer for arrays of any shape. With an even number of
      levels symmetric about 0, zero is not a level.

    Raises:
      ValueError: ``bits`` out of range, ``upper`` not above ``lower`` or infinite.

    Examples:
      >>> rj.uniform_levels(2, 0.0, 3.0).prox(jnp.array([0.4, 2.6, 9.0]), 1.0)
      Array([0., 3., 3.], dtype=float32)
    """
    if not (isinstance(bits, int) and 1 <= bits <= 16):
        raise ValueError(f"`bits` must be an integer from 1 to 16, got {bits}.")
    return Levels(lower, upper, 2**bits, soft)
