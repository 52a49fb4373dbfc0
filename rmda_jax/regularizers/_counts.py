"""Sets that bound the number of nonzeros: top-k and N:M."""

import dataclasses

import jax
import jax.numpy as jnp

from rmda_jax._types import Shape
from rmda_jax.regularizers._axes import as_axes, normalized_axes
from rmda_jax.regularizers._checks import check_parameter
from rmda_jax.regularizers._geometries import Groups, as_groups
from rmda_jax.regularizers._select import keep_largest
from rmda_jax.regularizers._sets import FeasibleSet


@dataclasses.dataclass(frozen=True)
class TopK(FeasibleSet):
    """At most ``k`` nonzeros in every group."""

    k: int
    groups: Groups

    def __post_init__(self):
        check_parameter("k", self.k, at_least=0, integer=True)

    def __str__(self) -> str:
        return f"top {self.k} of {self.groups}"

    def _check(self, shape: Shape) -> None:
        self.groups.check(shape)

    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        return self._metric_prox(x, t, jnp.ones_like(x))

    def _metric_prox(self, x: jax.Array, t: jax.Array, d: jax.Array) -> jax.Array:
        del t
        groups = normalized_axes(self.groups.group_axes, x.shape)
        axes = tuple(axis for axis in range(x.ndim) if axis not in groups)
        keep = keep_largest(jnp.abs(x) * jnp.sqrt(d), self.k, axes)
        return jnp.where(keep | jnp.isnan(x), x, 0)


@dataclasses.dataclass(frozen=True)
class NM(FeasibleSet):
    """At most ``n`` nonzeros in each run of ``m`` consecutive entries along an axis."""

    n: int
    m: int
    axis: int = -1

    def __post_init__(self):
        check_parameter("n", self.n, at_least=0, integer=True)
        check_parameter("m", self.m, at_least=max(1, self.n), integer=True)

    def __str__(self) -> str:
        return f"{self.n}:{self.m} along axis {self.axis}"

    def _check(self, shape: Shape) -> None:
        (axis,) = normalized_axes((self.axis,), shape, name="axis")
        if shape[axis] % self.m:
            raise ValueError(
                f"the length of axis {self.axis} must be a multiple of `m` = {self.m}, "
                f"got {shape[axis]} in shape {shape}. Choose another axis or m."
            )

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


def top_k(k: int, group_axes: int | tuple[int, ...] = ()) -> TopK:
    r"""Indicator of at most k nonzeros in every group.

    Args:
      k: How many entries of largest magnitude survive; of ties the first in C order.
      group_axes: Axes that enumerate the groups; ``()``: the whole array is one.

    Returns:
      A nonconvex indicator; prox keeps the k largest magnitudes and zeros the rest.

    Raises:
      ValueError: ``k`` is negative.

    Examples:
      >>> rj.top_k(1).prox(jnp.array([2.0, -3.0, 1.0]), 0.1)
      Array([ 0., -3.,  0.], dtype=float32)
    """
    return TopK(k, as_groups(group_axes, weighted=False))


def n_m(n: int, m: int, axis: int = -1) -> NM:
    r"""Indicator of at most n nonzeros in each run of m entries along an axis.

    Args:
      n: Survivors per run; of ties the first.
      m: Length of a run; the axis' length must be a multiple of it.
      axis: The axis along which the runs lie (for sparse tensor cores: the inputs).

    Returns:
      A nonconvex indicator; prox keeps the n largest magnitudes of every run.

    Raises:
      ValueError: ``n`` negative, ``m`` below ``n``; at use, an axis that does not fit.

    Examples:
      >>> rj.n_m(2, 4).prox(jnp.array([1.0, -3.0, 2.0, 0.5]), 0.1)
      Array([ 0., -3.,  2.,  0.], dtype=float32)

    References:
      Mishra et al., `Accelerating Sparse Deep Neural Networks
      <https://arxiv.org/abs/2104.08378>`_, 2021.
    """
    (axis,) = as_axes(axis, name="axis")
    return NM(n, m, axis)
