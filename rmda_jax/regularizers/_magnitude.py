"""Penalty o geometry: one class for most structured regularizers."""

import dataclasses
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._types import Arrays, Shapes
from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._geometries import Geometry, SingularValues
from rmda_jax.regularizers._groups import EuclideanGroups
from rmda_jax.regularizers._penalties import L0, Penalty
from rmda_jax.regularizers.solvers._metric_prox import (
    as_group_lasso,
    group_l0_metric_prox,
    group_metric_prox,
)
from rmda_jax.regularizers.solvers._together import GroupLasso


@dataclasses.dataclass(frozen=True, repr=False)
class MagnitudePenalty(Regularizer):
    r""":math:`\psi(x) = \sum_u w_u\, \varphi(\|x_u\|)` over the units of a geometry."""

    penalty: Penalty
    geometry: Geometry

    def __str__(self) -> str:
        return self.geometry.spelled(*self.penalty.spelled())

    @property
    def n_leaves(self) -> int | None:
        return self.geometry.n_leaves

    @property
    def is_convex(self) -> bool:
        return self.penalty.is_convex

    @property
    def is_separable(self) -> bool:
        return self.geometry.is_entrywise

    @property
    def is_homogeneous(self) -> bool:
        return self.penalty.is_homogeneous

    def _check(self, shape: Shapes) -> None:
        self.geometry.check(shape)

    def _value(self, x: Arrays) -> jax.Array:
        r = self.geometry.magnitudes(x)
        weights = jnp.asarray(self._weights(x), r.dtype)
        return jnp.sum(weights * self.penalty.value(r))

    def _prox(self, x: Arrays, t: jax.Array) -> Arrays:
        return self._prox_at(lambda y: y, self._each(lambda y: (y,), x), t)

    def _prox_at(self, center: Any, operands: Any, t: jax.Array) -> Arrays:
        return self.geometry.shrink_at(center, operands, self.penalty.prox, t)

    def _counted_metric_prox(
        self, x: Arrays, t: jax.Array, d: Arrays
    ) -> tuple[Arrays, jax.Array | None] | None:
        if self.geometry.is_entrywise:
            # Dividing an entry's objective by its metric leaves a plain prox.
            scaled = lambda r, t: self.penalty.prox(r, t / d)
            return self.geometry.shrink_at(lambda y: y, (x,), scaled, t), None
        if not isinstance(self.geometry, EuclideanGroups):
            return None
        slope = self.penalty.affine_slope
        level = self._level(x, t)
        if slope is not None:
            y, n_steps = group_metric_prox(self.geometry, slope, x, d, level)
        elif isinstance(self.penalty, L0):
            y, n_steps = group_l0_metric_prox(self.geometry, x, d, level), None
        else:
            return None
        return self._each(lambda x, y: jnp.where(t == 0, x, y), x, y), n_steps

    def _as_group_lasso(self, x: Arrays, t: jax.Array, d: Arrays) -> GroupLasso | None:
        slope = self.penalty.affine_slope
        if slope is None or not isinstance(self.geometry, EuclideanGroups):
            return None
        return as_group_lasso(self.geometry, slope, x, d, self._level(x, t))

    def _support(self, x: Arrays, eps: float) -> jax.Array:
        del eps
        return self.geometry.units(x)

    def _support_mask(self, x: Arrays) -> Arrays:
        if self.geometry.is_entrywise:
            return x != 0
        if isinstance(self.geometry, EuclideanGroups):
            return self.geometry.support_mask(x)
        return super()._support_mask(x)

    def _prox_support(self, x: Arrays, t: jax.Array) -> jax.Array:
        return self.geometry.shrunk_units(x, self.penalty.prox, t)

    def _snap(self, x: Arrays, eps: float) -> Arrays:
        del eps
        if isinstance(self.geometry, SingularValues):
            return self.geometry.truncated(x)
        return x

    def _unit_sizes(self, shape: Shapes) -> np.ndarray:
        return self.geometry.sizes(shape)

    def _critical_levels(self, x: Arrays, d: Arrays | None) -> jax.Array:
        if self.geometry.is_entrywise:
            level = self.penalty.critical_level(jnp.abs(x))
            return level if d is None else d * level
        if isinstance(self.geometry, EuclideanGroups):
            shapes = self._each(jnp.shape, x)
            level = self._group_critical_level(self.geometry, x, d)
            # A group of no entries weighs 0.
            weights = jnp.asarray(self._weights(x), level.dtype)
            level = level / jnp.where(weights == 0, 1, weights)
            return self.geometry.squeezed(level, shapes)
        if isinstance(self.geometry, SingularValues) and d is None:
            return self.penalty.critical_level(self.geometry.above_rounding(x))
        return self._no_formula_in_metric()

    def _group_critical_level(
        self, groups: EuclideanGroups, x: Arrays, d: Arrays | None
    ) -> jax.Array:
        """Return the critical level of every group, as if it weighed 1."""
        if d is None:
            return self.penalty.critical_level(groups.magnitudes(x))
        pull = groups.total(lambda x, d: jnp.square(d * x), x, d)
        energy = groups.total(lambda x, d: d * jnp.square(x), x, d)
        level = self.penalty.group_critical_level(jnp.sqrt(pull), energy)
        return self._no_formula_in_metric() if level is None else level

    def _no_formula_in_metric(self) -> NoReturn:
        raise NotImplementedError(
            f"{self} has no formula for its critical strengths in a metric, where its "
            "`metric_prox` iterates to a stationary point. Leave `metric` out for "
            "those of the plain prox, or take group_lasso, group_mcp or group_l0."
        )

    def _level(self, x: Arrays, t: jax.Array) -> jax.Array:
        return t * jnp.asarray(self._weights(x), t.dtype)

    def _weights(self, x: Arrays) -> Any:
        return self.geometry.weights(self._each(jnp.shape, x))

    def _slope(self, r: jax.Array, strength: jax.Array, weights: Any) -> jax.Array:
        slope = strength * jnp.asarray(weights, r.dtype) * self.penalty.derivative(r)
        # Avoid 0 * inf where the strength is 0.
        return jnp.where(strength == 0, 0, slope)

    def _subgradient_distance(
        self, x: Arrays, v: Arrays, strength: jax.Array
    ) -> jax.Array:
        weights = self._weights(x)
        return self.geometry.subgradient_distance(
            x, v, lambda r: self._slope(r, strength, weights)
        )

    def _margin(self, x: Arrays, v: Arrays, strength: jax.Array) -> jax.Array:
        norms = self.geometry.zero_magnitudes(x, v)
        level = self._slope(jnp.zeros_like(norms), strength, self._weights(x))
        return smallest_margin(norms, level, ~self.geometry.units(x))


def smallest_margin(norms: jax.Array, level: jax.Array, zero: jax.Array) -> jax.Array:
    """Return how far the units that are zero stay below the level that frees them.

    Args:
      norms: Magnitude of minus the gradient at each zero unit, 0 at the others.
      level: The magnitude from which on a unit becomes nonzero.
      zero: Which units are zero.
    """
    # Where the norm is 0 the ratio is 0 as well, also if the level is: no 0/0.
    slack = 1 - norms / jnp.where(norms == 0, 1, level)
    return jnp.where(jnp.any(zero), jnp.min(slack, initial=jnp.inf), jnp.inf)
