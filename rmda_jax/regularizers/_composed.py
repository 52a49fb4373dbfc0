"""Penalty o geometry: one class for most structured regularizers."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._types import Shape
from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._geometries import Geometry, Groups, SingularValues
from rmda_jax.regularizers._metric import group_metric_prox
from rmda_jax.regularizers._penalties import Penalty


@dataclasses.dataclass(frozen=True)
class Composed(Regularizer):
    r""":math:`\psi(x) = \sum_u w_u\, \varphi(\|x_u\|)` over the units of a geometry."""

    penalty: Penalty
    geometry: Geometry

    def __str__(self) -> str:
        return f"{self.penalty} of {self.geometry}"

    @property
    def is_convex(self) -> bool:
        return self.penalty.is_convex

    @property
    def is_separable(self) -> bool:
        return self.geometry.is_entrywise

    @property
    def is_homogeneous(self) -> bool:
        return self.penalty.is_homogeneous

    def _check(self, shape: Shape) -> None:
        self.geometry.check(shape)

    def _value(self, x: jax.Array) -> jax.Array:
        r = self.geometry.magnitudes(x)
        weights = jnp.asarray(self.geometry.weights(x.shape), x.dtype)
        return jnp.sum(weights * self.penalty.value(r))

    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        return self._prox_at(lambda y: y, (x,), t)

    def _prox_at(self, center: Any, operands: Any, t: jax.Array) -> jax.Array:
        return self.geometry.shrink_at(center, operands, self.penalty.prox, t)

    def _metric_prox(
        self, x: jax.Array, t: jax.Array, d: jax.Array
    ) -> jax.Array | None:
        found = self._counted_metric_prox(x, t, d)
        return None if found is None else found[0]

    def _counted_metric_prox(
        self, x: jax.Array, t: jax.Array, d: jax.Array
    ) -> tuple[jax.Array, jax.Array | None] | None:
        if self.geometry.is_entrywise:
            # Dividing an entry's objective by its metric leaves a plain prox.
            shrink = self.geometry.shrink_at
            penalty = lambda r, t: self.penalty.prox(r, t / d)
            return shrink(lambda y: y, (x,), penalty, t), None
        if isinstance(self.geometry, Groups) and self.penalty.affine_slope:
            level = t * jnp.asarray(self.geometry.weights(x.shape), x.dtype)
            slope = self.penalty.affine_slope
            y, n_steps = group_metric_prox(self.geometry, slope, x, d, level)
            return jnp.where(t == 0, x, y), n_steps
        return None

    def _support(self, x: jax.Array, eps: float) -> jax.Array:
        del eps
        return self.geometry.units(x)

    def _prox_support(self, x: jax.Array, t: jax.Array) -> jax.Array:
        return self.geometry.shrunk_units(x, self.penalty.prox, t)

    def _snap(self, x: jax.Array, eps: float) -> jax.Array:
        del eps
        if isinstance(self.geometry, SingularValues):
            return self.geometry.truncated(x)
        return x

    def _unit_sizes(self, shape: Shape) -> np.ndarray:
        return self.geometry.sizes(shape)

    def _slope(self, r: jax.Array, strength: jax.Array, shape: Shape) -> jax.Array:
        weights = jnp.asarray(self.geometry.weights(shape), r.dtype)
        # Strength 0 switches an infinite slope at zero off, too.
        slope = self.penalty.derivative(r)
        return jnp.where(strength == 0, 0, strength * weights * slope)

    def _subgradient_distance(
        self, x: jax.Array, v: jax.Array, strength: jax.Array
    ) -> jax.Array:
        return self.geometry.excess(x, v, lambda r: self._slope(r, strength, x.shape))

    def _margin(self, x: jax.Array, v: jax.Array, strength: jax.Array) -> jax.Array:
        pull = self.geometry.zero_magnitudes(x, v)
        level = self._slope(jnp.zeros_like(pull), strength, x.shape)
        zero = ~self.geometry.units(x)
        # No slope and no pull: 0/0 is not to be computed, even for nothing.
        slack = 1 - pull / jnp.where(pull == 0, 1, level)
        margin = jnp.min(slack, initial=jnp.inf)
        return jnp.where(jnp.any(zero), margin, jnp.inf)
