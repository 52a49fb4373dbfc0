"""Weights on a few evenly spaced levels: binary, ternary, k bits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._checks import check_parameter
from rmda_jax.regularizers._spelling import call


@dataclasses.dataclass(frozen=True, repr=False)
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
        soft = {"soft": True} if self.soft else {}
        name = {2: "binary", 3: "ternary"}.get(self.count)
        if name and self.lower == -self.upper:
            scale = {} if self.upper == 1 else {"scale": self.upper}
            return call(name, **scale, **soft)
        bits, ends = self.count.bit_length() - 1, {}
        if (self.lower, self.upper) != (-1, 1):
            ends = {"lower": self.lower, "upper": self.upper}
        return call("uniform_levels", bits, **ends, **soft)

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

        Arithmetic rounds differently under `jit`, which would split one level in two.
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
