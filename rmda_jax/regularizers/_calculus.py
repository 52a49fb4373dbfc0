"""Sums of regularizers whose prox is still known."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rmda_jax._types import Shape
from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._checks import check_parameter
from rmda_jax.regularizers._geometries import Groups, norm
from rmda_jax.regularizers._metric import group_metric_prox
from rmda_jax.regularizers._penalties import LINEAR, Abs
from rmda_jax.regularizers._sets import Box, water_level


@dataclasses.dataclass(frozen=True)
class SparseGroup(Regularizer):
    r""":math:`\rho\|x\|_1 + (1-\rho)\sum_g w_g\|x_g\|`.

    The prox of the sum is the group prox of the soft threshold (Simon et al., 2013).
    """

    l1_ratio: float
    groups: Groups

    def __post_init__(self):
        check_parameter("l1_ratio", self.l1_ratio, at_least=0, at_most=1)

    def __str__(self) -> str:
        return f"sparse group lasso ({self.l1_ratio:g} l1) of {self.groups}"

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
        groups = jnp.sum(weights * self.groups.magnitudes(x))
        return self.l1_ratio * jnp.sum(jnp.abs(x)) + (1 - self.l1_ratio) * groups

    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        return self._prox_at(lambda y: y, (x,), t)

    def _prox_at(self, center: Any, operands: Any, t: jax.Array) -> jax.Array:
        def soft_center(level, *operands):
            return _soft(center(*operands), level)

        return self.groups.shrink_at(
            soft_center,
            (t * self.l1_ratio, *operands),
            Abs().prox,
            t * (1 - self.l1_ratio),
        )

    def _metric_prox(self, x: jax.Array, t: jax.Array, d: jax.Array) -> jax.Array:
        return self._counted_metric_prox(x, t, d)[0]

    def _counted_metric_prox(
        self, x: jax.Array, t: jax.Array, d: jax.Array
    ) -> tuple[jax.Array, jax.Array | None]:
        z = _soft(x, t * self.l1_ratio / d)
        weights = jnp.asarray(self.groups.weights(x.shape), x.dtype)
        level = t * (1 - self.l1_ratio) * weights
        y, n_steps = group_metric_prox(self.groups, LINEAR, z, d, level)
        return jnp.where(t == 0, x, y), n_steps

    def _support(self, x: jax.Array, eps: float) -> jax.Array:
        """Flag the groups that are not zero."""
        del eps
        return self.groups.units(x)

    def _prox_support(self, x: jax.Array, t: jax.Array) -> jax.Array:
        return self.groups.shrunk_units(
            _soft(x, t * self.l1_ratio), Abs().prox, t * (1 - self.l1_ratio)
        )

    def _unit_sizes(self, shape: Shape) -> np.ndarray:
        return self.groups.sizes(shape)

    def _group_level(self, shape: Shape, strength: jax.Array) -> jax.Array:
        weights = jnp.asarray(self.groups.weights(shape), strength.dtype)
        return strength * (1 - self.l1_ratio) * weights

    def _subgradient_distance(
        self, x: jax.Array, v: jax.Array, strength: jax.Array
    ) -> jax.Array:
        level, r = strength * self.l1_ratio, self.groups.magnitudes(x)
        group_level = self._group_level(x.shape, strength)
        pull = jnp.where(r == 0, 0, group_level / jnp.where(r == 0, 1, r))
        active = v - self.groups.expand(pull, x.shape) * x - level * jnp.sign(x)
        outside = self.groups.magnitudes(jnp.where(x == 0, _soft(v, level), active))
        inside = jnp.maximum(self.groups.magnitudes(_soft(v, level)) - group_level, 0)
        return norm(jnp.where(r == 0, inside, outside))

    def _margin(self, x: jax.Array, v: jax.Array, strength: jax.Array) -> jax.Array:
        # Of the zero groups: how far the soft-thresholded pull is from freeing one.
        pull = self.groups.zero_magnitudes(x, _soft(v, strength * self.l1_ratio))
        level = self._group_level(x.shape, strength)
        slack = jnp.where(pull == 0, 1, 1 - pull / level)
        any_zero = jnp.any(~self.groups.units(x))
        return jnp.where(any_zero, jnp.min(slack, initial=jnp.inf), jnp.inf)


@dataclasses.dataclass(frozen=True)
class GroupMax(Regularizer):
    r""":math:`\sum_g w_g \max_{i\in g}|x_i|`: groups vanish, survivors equalise.

    The prox is what the projection onto the dual ball leaves (Moreau),
    :math:`x_g - \Pi_{\|\cdot\|_1 \le t w_g}(x_g)`: every magnitude is capped at the
    water level of that projection.
    """

    groups: Groups

    def __str__(self) -> str:
        return f"largest magnitude of {self.groups}"

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
        return jnp.sum(weights * self.groups.reduce(_max, jnp.abs(x)))

    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        radius = t * jnp.asarray(self.groups.weights(x.shape), x.dtype)
        inside = self.groups.reduce(jnp.sum, jnp.abs(x)) <= radius
        # Rounding may push a level that is nearly 0 below it, and wake up zeros.
        level = jnp.maximum(water_level(self.groups, jnp.abs(x), radius), 0)
        theta = jnp.where(inside, 0, level)
        theta = self.groups.expand(theta, x.shape)
        capped = jnp.where(theta == 0, 0, jnp.clip(x, -theta, theta))
        return jnp.where(t == 0, x, capped)

    def _support(self, x: jax.Array, eps: float) -> jax.Array:
        """Flag the groups that are not zero."""
        del eps
        return self.groups.units(x)

    def _unit_sizes(self, shape: Shape) -> np.ndarray:
        return self.groups.sizes(shape)


@dataclasses.dataclass(frozen=True)
class Boxed(Regularizer):
    r""":math:`\psi(x)` on the box, infinite outside: the prox, then a clip.

    Right for a convex sum over entries, where each entry's objective has one minimum
    and rises on both sides of it.
    """

    inner: Regularizer
    box: Box

    def __post_init__(self):
        if not (self.inner.is_convex and self.inner.is_separable):
            raise ValueError(
                f"`inner` must be convex and separable to be boxed, got {self.inner}. "
                "Box entrywise penalties such as l1()."
            )

    def __str__(self) -> str:
        return f"{self.inner} in {self.box}"

    @property
    def is_convex(self) -> bool:
        return True

    @property
    def is_separable(self) -> bool:
        return True

    @property
    def is_homogeneous(self) -> bool:
        return self.inner.is_homogeneous and self.box.is_homogeneous

    def _value(self, x: jax.Array) -> jax.Array:
        return self.inner.value(x)

    def _contains(self, x: jax.Array, eps: float) -> ArrayLike:
        return self.box._contains(x, eps)

    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        return self.box.prox(self.inner.prox(x, t), t)

    def _metric_prox(self, x: jax.Array, t: jax.Array, d: jax.Array) -> jax.Array:
        return self.box.prox(self.inner.metric_prox(x, t, d), t)

    def _snap(self, x: jax.Array, eps: float) -> jax.Array:
        del eps
        return self.box.snap(x)


def _soft(x: jax.Array, level: jax.Array) -> jax.Array:
    # Of nothing that XLA:CPU does not fuse into a sum: a selection, a shared constant.
    return x - jnp.maximum(jnp.minimum(x, level), -level)


def _max(x: jax.Array, axis: tuple[int, ...], keepdims: bool) -> jax.Array:
    return jnp.max(x, axis=axis, keepdims=keepdims, initial=0)
