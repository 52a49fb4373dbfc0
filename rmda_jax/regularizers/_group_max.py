"""The largest magnitude of every group: the l1/linf norm."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._types import Shape
from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._groups import Groups, largest
from rmda_jax.regularizers._spelling import call
from rmda_jax.regularizers.solvers._water_level import water_level


@dataclasses.dataclass(frozen=True, repr=False)
class GroupMax(Regularizer):
    r""":math:`\sum_g w_g \max_{i\in g}|x_i|`: groups vanish, survivors equalise.

    The prox is what the projection onto the dual ball leaves (Moreau),
    :math:`x_g - \Pi_{\|\cdot\|_1 \le t w_g}(x_g)`: every magnitude is capped at the
    water level of that projection.
    """

    groups: Groups

    def __str__(self) -> str:
        return call("group_linf", **self.groups.arguments())

    @property
    def is_convex(self) -> bool:
        return True

    @property
    def is_homogeneous(self) -> bool:
        return True

    def _check(self, shape: Shape) -> None:
        self.groups.check(shape)

    def _value(self, x: jax.Array) -> jax.Array:
        weights = jnp.asarray(self.groups.weights(x.shape), x.dtype)
        return jnp.sum(weights * self.groups.reduce(largest, jnp.abs(x)))

    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        radius = t * jnp.asarray(self.groups.weights(x.shape), x.dtype)
        inside = self.groups.reduce(jnp.sum, jnp.abs(x)) <= radius
        # Rounding may push a level near 0 below 0, which would make zeros nonzero.
        level = jnp.maximum(water_level(self.groups, jnp.abs(x), radius), 0)
        theta = jnp.where(inside, 0, level)
        theta = self.groups.expand(theta, x.shape)
        capped = jnp.where(theta == 0, 0, jnp.clip(x, -theta, theta))
        return jnp.where(t == 0, x, capped)

    def _support(self, x: jax.Array, eps: float) -> jax.Array:
        """Flag the groups that are not zero."""
        del eps
        return self.groups.units(x)

    def _support_mask(self, x: jax.Array) -> jax.Array:
        return self.groups.support_mask(x)

    def _unit_sizes(self, shape: Shape) -> np.ndarray:
        return self.groups.sizes(shape)

    def _critical_levels(self, x: jax.Array, d: jax.Array | None) -> jax.Array:
        # 0 is the least once the pull lies in the dual ball, in a metric as well.
        operands = (x,) if d is None else (x, d)
        level = self.groups.total(lambda x, d=1: d * jnp.abs(x), *operands)
        weights = jnp.asarray(self.groups.weights(x.shape), x.dtype)
        # A group of no entries weighs 0.
        level = level / jnp.where(weights == 0, 1, weights)
        return self.groups.squeezed(level, x.shape)
