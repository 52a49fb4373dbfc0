"""PARQ's regularizer of given levels: its prox is a piecewise-affine map."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from rmda_jax._types import Shapes
from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._spelling import call


@dataclasses.dataclass(frozen=True, repr=False)
class PiecewiseAffine(Regularizer):
    r"""Arcs between neighbouring levels, infinite beyond the outermost ones.

    :math:`\psi(x) = \sum_i \tfrac12 (x_i - a_i)(b_i - x_i)` with a and b the levels
    next to an entry. The curvature is -1 between levels. There the prox of a step t < 1
    is affine with slope 1 / (1 - t); from t = 1 on it is the nearest level.
    """

    levels: Any  # n that do not decrease, or a row of n per channel; tuples or traced
    channel_axis: int | None = None

    def __str__(self) -> str:
        axis = {} if self.channel_axis is None else {"channel_axis": self.channel_axis}
        traced = isinstance(self.levels, Tracer)
        return call("piecewise_affine", "..." if traced else self.levels, **axis)

    @property
    def is_separable(self) -> bool:
        return self.channel_axis is None  # else entries may not change places

    def _check(self, shape: Shapes) -> None:
        axis = self.channel_axis
        if axis is None:
            return
        n_channels = np.shape(self.levels)[0]
        if not -len(shape) <= axis < len(shape) or shape[axis] != n_channels:
            raise ValueError(
                f"{self} has levels of {n_channels} channels along axis {axis}, got "
                f"an array of shape {shape}."
            )

    def _columns(self, x: jax.Array) -> list[jax.Array]:
        """Return the lowest level, the next one, ..., each to broadcast to ``x``."""
        levels = jnp.asarray(self.levels, x.dtype)
        if self.channel_axis is None:
            return list(levels)
        shape = [1] * x.ndim
        shape[self.channel_axis] = -1
        return [column.reshape(shape) for column in levels.T]

    def _neighbours(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the levels below and above every entry, or the two outermost."""
        # Added to zeros, for these are sharded as the array is.
        first, *columns = (q + jnp.zeros_like(x) for q in self._columns(x))
        below, above = first, columns[0]
        for level, following in itertools.pairwise(columns):
            is_beyond = x >= level
            below = jnp.where(is_beyond, level, below)
            above = jnp.where(is_beyond, following, above)
        return below, above

    def _nearest(self, x: jax.Array) -> jax.Array:
        below, above = self._neighbours(x)
        level = jnp.where(x < (below + above) / 2, below, above)
        return jnp.where(jnp.isnan(x), x, level)

    def _value(self, x: jax.Array) -> jax.Array:
        below, above = self._neighbours(x)
        inside = jnp.clip(x, below, above)
        return jnp.sum((inside - below) * (above - inside)) / 2

    def _contains(self, x: jax.Array, eps: float) -> ArrayLike:
        lowest, *_, highest = self._columns(x)
        room = 4 * eps * jnp.maximum(jnp.abs(lowest), jnp.abs(highest))
        return jnp.all((x >= lowest - room) & (x <= highest + room))

    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        return self._entrywise_prox(x, t)

    def _metric_prox(self, x: jax.Array, t: jax.Array, d: jax.Array) -> jax.Array:
        return self._entrywise_prox(x, t / d)

    def _entrywise_prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        below, above = self._neighbours(x)
        # center + (x - center) / (1 - t), so written that t = 0 returns x.
        growth = t / jnp.where(t < 1, 1 - t, 1)
        steep = jnp.clip(x + growth * (x - (below + above) / 2), below, above)
        return jnp.where(t < 1, steep, self._nearest(x))

    def _support(self, x: jax.Array, eps: float) -> jax.Array:
        """Flag the entries that lie on a level, up to rounding."""
        below, above = self._neighbours(x)
        size = jnp.maximum(jnp.abs(below), jnp.abs(above))
        room = jnp.minimum(4 * eps * size, (above - below) / 4)
        return jnp.abs(x - self._nearest(x)) <= room

    def _snap(self, x: jax.Array, eps: float) -> jax.Array:
        return jnp.where(self._support(x, eps), self._nearest(x), x)
