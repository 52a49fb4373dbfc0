"""The sparse group lasso: zero groups, and zeros inside the others."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._types import Shape
from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._checks import check_parameter
from rmda_jax.regularizers._geometries import norm
from rmda_jax.regularizers._groups import Groups, largest, level_per_norm
from rmda_jax.regularizers._magnitude import smallest_margin
from rmda_jax.regularizers._penalties import Abs
from rmda_jax.regularizers._spelling import call
from rmda_jax.regularizers.solvers._critical_level import sparse_group_level
from rmda_jax.regularizers.solvers._group_norm import group_norms
from rmda_jax.regularizers.solvers._metric_prox import minimiser
from rmda_jax.regularizers.solvers._together import GroupLasso


@dataclasses.dataclass(frozen=True, repr=False)
class SparseGroup(Regularizer):
    r""":math:`\rho\|x\|_1 + (1-\rho)\sum_g w_g\|x_g\|`.

    The prox of the sum is the group prox of the soft threshold (Simon et al., 2013).
    """

    l1_ratio: float
    groups: Groups

    def __post_init__(self):
        check_parameter("l1_ratio", self.l1_ratio, at_least=0, at_most=1)

    def __str__(self) -> str:
        axes, *rest = self.groups.arguments().items()
        ratio = {} if self.l1_ratio == 0.5 else {"l1_ratio": self.l1_ratio}
        return call("sparse_group_lasso", **dict([axes]), **ratio, **dict(rest))

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

    def _counted_metric_prox(
        self, x: jax.Array, t: jax.Array, d: jax.Array
    ) -> tuple[jax.Array, jax.Array | None]:
        problem = self._as_group_lasso(x, t, d)
        r, n_steps = group_norms(*problem)
        return jnp.where(t == 0, x, minimiser(problem, r)), n_steps

    def _as_group_lasso(self, x: jax.Array, t: jax.Array, d: jax.Array) -> GroupLasso:
        z = _soft(x, t * self.l1_ratio / d)
        return GroupLasso(self.groups, z, d, self._group_level(x.shape, t))

    def _support(self, x: jax.Array, eps: float) -> jax.Array:
        """Flag the groups that are not zero."""
        del eps
        return self.groups.units(x)

    def _support_mask(self, x: jax.Array) -> jax.Array:
        # Zeros inside of active groups are structure as well.
        return x != 0 if self.l1_ratio > 0 else self.groups.support_mask(x)

    def _prox_support(self, x: jax.Array, t: jax.Array) -> jax.Array:
        return self.groups.shrunk_units(
            _soft(x, t * self.l1_ratio), Abs().prox, t * (1 - self.l1_ratio)
        )

    def _unit_sizes(self, shape: Shape) -> np.ndarray:
        return self.groups.sizes(shape)

    def _critical_levels(self, x: jax.Array, d: jax.Array | None) -> jax.Array:
        pull = jnp.abs(x) if d is None else d * jnp.abs(x)
        if self.l1_ratio == 1:
            level = self.groups.reduce(largest, pull)
        else:
            weights = jnp.asarray(self.groups.weights(x.shape), x.dtype)
            level = sparse_group_level(self.groups, pull, weights, self.l1_ratio)
        return self.groups.squeezed(level, x.shape)

    def _group_level(self, shape: Shape, strength: jax.Array) -> jax.Array:
        weights = jnp.asarray(self.groups.weights(shape), strength.dtype)
        return strength * (1 - self.l1_ratio) * weights

    def _subgradient_distance(
        self, x: jax.Array, v: jax.Array, strength: jax.Array
    ) -> jax.Array:
        level, r = strength * self.l1_ratio, self.groups.magnitudes(x)
        group_level = self._group_level(x.shape, strength)
        factor = self.groups.expand(level_per_norm(group_level, r), x.shape)
        active = v - factor * x - level * jnp.sign(x)
        outside = self.groups.magnitudes(jnp.where(x == 0, _soft(v, level), active))
        inside = jnp.maximum(self.groups.magnitudes(_soft(v, level)) - group_level, 0)
        return norm(jnp.where(r == 0, inside, outside))

    def _margin(self, x: jax.Array, v: jax.Array, strength: jax.Array) -> jax.Array:
        # A zero group stays zero while its soft-thresholded v is below the level.
        norms = self.groups.zero_magnitudes(x, _soft(v, strength * self.l1_ratio))
        level = self._group_level(x.shape, strength)
        return smallest_margin(norms, level, ~self.groups.units(x))


def _soft(x: jax.Array, level: jax.Array) -> jax.Array:
    # Written without `where` and shared constants, which XLA:CPU does not fuse into a
    # reduction.
    return x - jnp.maximum(jnp.minimum(x, level), -level)
