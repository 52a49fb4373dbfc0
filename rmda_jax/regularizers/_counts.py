"""Sets that bound a number: of nonzeros, of nonzero groups, of singular values."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._types import Shape
from rmda_jax.regularizers._axes import normalized_axes
from rmda_jax.regularizers._checks import check_parameter
from rmda_jax.regularizers._geometries import SingularValues
from rmda_jax.regularizers._groups import Groups
from rmda_jax.regularizers._sets import FeasibleSet
from rmda_jax.regularizers._spelling import call
from rmda_jax.regularizers.solvers._singular_values import leading_part
from rmda_jax.regularizers.solvers._top_k import keep_largest


@dataclasses.dataclass(frozen=True, repr=False)
class TopK(FeasibleSet):
    """At most ``k`` nonzeros in every group."""

    k: int
    groups: Groups

    def __post_init__(self):
        check_parameter("k", self.k, at_least=0, integer=True)

    def __str__(self) -> str:
        axes = self.groups.arguments() if self.groups.group_axes else {}
        axes.pop("weighted", None)
        return call("top_k", self.k, **axes)

    def _check(self, shape: Shape) -> None:
        self.groups.check(shape)

    def _support_mask(self, x: jax.Array) -> jax.Array:
        return x != 0

    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        return self._metric_prox(x, t, jnp.ones_like(x))

    def _metric_prox(self, x: jax.Array, t: jax.Array, d: jax.Array) -> jax.Array:
        del t
        groups = normalized_axes(self.groups.group_axes, x.shape)
        axes = tuple(axis for axis in range(x.ndim) if axis not in groups)
        keep = keep_largest(jnp.abs(x) * jnp.sqrt(d), self.k, axes)
        return jnp.where(keep | jnp.isnan(x), x, 0)


@dataclasses.dataclass(frozen=True, repr=False)
class NM(FeasibleSet):
    """At most ``n`` nonzeros in each run of ``m`` consecutive entries along an axis."""

    n: int
    m: int
    axis: int = -1

    def __post_init__(self):
        check_parameter("n", self.n, at_least=0, integer=True)
        check_parameter("m", self.m, at_least=max(1, self.n), integer=True)

    def __str__(self) -> str:
        axis = {} if self.axis == -1 else {"axis": self.axis}
        return call("n_m", self.n, self.m, **axis)

    def _check(self, shape: Shape) -> None:
        (axis,) = normalized_axes((self.axis,), shape, name="axis")
        if shape[axis] % self.m:
            raise ValueError(
                f"the length of axis {self.axis} must be a multiple of `m` = {self.m}, "
                f"got {shape[axis]} in shape {shape}. Choose another axis or m."
            )

    def _support_mask(self, x: jax.Array) -> jax.Array:
        return x != 0

    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        return self._metric_prox(x, t, jnp.ones_like(x))

    def _metric_prox(self, x: jax.Array, t: jax.Array, d: jax.Array) -> jax.Array:
        del t
        (axis,) = normalized_axes((self.axis,), x.shape)
        count = x.shape[axis] // self.m
        runs = (*x.shape[:axis], count, self.m, *x.shape[axis + 1 :])
        score = (jnp.abs(x) * jnp.sqrt(d)).reshape(runs)
        mine = jnp.expand_dims(score, axis + 2)
        other = jnp.expand_dims(score, axis + 1)
        # Of equal magnitudes the first of the run is kept.
        position = jnp.arange(self.m)
        earlier = (position[None, :] < position[:, None]).reshape(
            (1,) * (axis + 1) + (self.m, self.m) + (1,) * (x.ndim - axis - 1)
        )
        beaten_by = (other > mine) | ((other == mine) & earlier)
        rank = jnp.sum(beaten_by, axis=axis + 2)
        return jnp.where((rank < self.n).reshape(x.shape) | jnp.isnan(x), x, 0)


@dataclasses.dataclass(frozen=True, repr=False)
class TopGroups(FeasibleSet):
    """At most ``k`` nonzero groups of an array, or that share of them.

    What k is, is a field, because 1 group and 1.0 of all are equal numbers.
    """

    k: int | float
    is_share: bool
    groups: Groups

    def __post_init__(self):
        if not self.is_share:
            check_parameter("k", self.k, at_least=0, integer=True)
        elif not 0 < self.k <= 1:
            raise ValueError(
                f"`k` must be a number of groups, which is an int, or a share of them "
                f"in (0, 1], got {self.k}."
            )

    def __str__(self) -> str:
        return call("top_groups", self.k, **self.groups.arguments())

    def _check(self, shape: Shape) -> None:
        self.groups.check(shape)

    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        del t
        return self._keep(x, self.groups.total(jnp.square, x))

    def _metric_prox(self, x: jax.Array, t: jax.Array, d: jax.Array) -> jax.Array:
        del t
        # What a group costs that goes: the rest stays as it is.
        return self._keep(x, self.groups.total(lambda x, d: d * jnp.square(x), x, d))

    def _keep(self, x: jax.Array, energy: jax.Array) -> jax.Array:
        """Return ``x`` on the groups of the largest energy, and 0 elsewhere."""
        n_groups = math.prod(energy.shape)
        count = max(1, round(self.k * n_groups)) if self.is_share else int(self.k)
        keep = keep_largest(energy, count, tuple(range(energy.ndim)))
        keep = self.groups.expand(keep | jnp.isnan(energy), x.shape)
        return jnp.where(keep, x, 0)

    def _support(self, x: jax.Array, eps: float) -> jax.Array:
        """Flag the groups that are not zero."""
        del eps
        return self.groups.units(x)

    def _support_mask(self, x: jax.Array) -> jax.Array:
        return self.groups.support_mask(x)

    def _unit_sizes(self, shape: Shape) -> np.ndarray:
        return self.groups.sizes(shape)


@dataclasses.dataclass(frozen=True, repr=False)
class MaxRank(FeasibleSet):
    """Matrices of rank ``k`` at most."""

    k: int
    geometry: SingularValues

    def __post_init__(self):
        check_parameter("k", self.k, at_least=0, integer=True)

    def __str__(self) -> str:
        return call("max_rank", self.k, **self.geometry.arguments())

    def _check(self, shape: Shape) -> None:
        self.geometry.check(shape)

    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        del t
        axes = self.geometry.matrix_axes
        y = leading_part(jnp.moveaxis(x, axes, (-2, -1)), int(self.k))
        return jnp.moveaxis(y, (-2, -1), axes)

    def _support(self, x: jax.Array, eps: float) -> jax.Array:
        """Flag the singular values above rounding."""
        del eps
        return self.geometry.units(x)

    def _prox_support(self, x: jax.Array, t: jax.Array) -> jax.Array:
        del t
        units = self.geometry.units(x)  # the largest come first
        return units & (jnp.arange(units.shape[-1]) < self.k)

    def _unit_sizes(self, shape: Shape) -> np.ndarray:
        return self.geometry.sizes(shape)
