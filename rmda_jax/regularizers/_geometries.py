"""What a magnitude is: of an entry, of a group, of a singular value.

A geometry turns an array into nonnegative magnitudes and rebuilds it from shrunk ones.
Reductions keep the reduced axes with length 1: nothing is ravelled, and sharded axes
are never merged.
"""

import abc
import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from rmda_jax._types import Shape
from rmda_jax.regularizers._axes import as_axes, normalized_axes
from rmda_jax.regularizers._spectra import (
    matmul,
    shrunk_singular_values,
    singular_values,
    transpose,
)

Center = Callable[..., jax.Array]
Operands = tuple[jax.Array, ...]


class Geometry(abc.ABC):
    """Magnitudes of an array, their weights, and the way back."""

    is_entrywise = False

    def check(self, shape: Shape) -> None:
        """Raise a ValueError if an array of this shape has no such magnitudes."""
        del shape

    def weights(self, shape: Shape) -> ArrayLike:
        """Return the weight of each magnitude, broadcastable to the magnitudes."""
        del shape
        return 1.0

    @abc.abstractmethod
    def sizes(self, shape: Shape) -> np.ndarray:
        """Return the number of entries behind each unit, broadcastable to `units`."""

    @abc.abstractmethod
    def magnitudes(self, x: jax.Array) -> jax.Array:
        """Return the magnitudes; their gradient at 0 is 0."""

    @abc.abstractmethod
    def shrink_at(
        self,
        center: Center,
        operands: Operands,
        prox: Callable[[jax.Array, jax.Array], jax.Array],
        t: jax.Array,
    ) -> jax.Array:
        """Replace magnitudes ``r`` of ``center(*operands)`` by ``prox(r, t * w)``."""

    @abc.abstractmethod
    def units(self, x: jax.Array) -> jax.Array:
        """Return which units are not zero, without the axes that were reduced."""

    @abc.abstractmethod
    def shrunk_units(
        self, x: jax.Array, prox: Callable[[jax.Array, jax.Array], jax.Array], t
    ) -> jax.Array:
        """Return `units` of the shrunk array, from its magnitudes alone."""

    @abc.abstractmethod
    def excess(
        self, x: jax.Array, v: jax.Array, slope: Callable[[jax.Array], jax.Array]
    ) -> jax.Array:
        r"""Return the distance from ``v`` to the subdifferential at ``x``.

        ``slope`` maps magnitudes to :math:`\lambda w \varphi'`. An active unit has one
        subgradient; at a zero unit they fill a ball of radius ``slope(0)``.
        """

    @abc.abstractmethod
    def zero_magnitudes(self, x: jax.Array, v: jax.Array) -> jax.Array:
        """Return the magnitudes of ``v`` on the zero units of ``x``, 0 elsewhere."""


@dataclasses.dataclass(frozen=True)
class Entries(Geometry):
    """Every entry is a unit; its magnitude is its absolute value."""

    is_entrywise = True

    def __str__(self) -> str:
        return "entries"

    def sizes(self, shape: Shape) -> np.ndarray:
        return np.ones((1,) * len(shape), int)

    def magnitudes(self, x: jax.Array) -> jax.Array:
        return jnp.abs(x)

    def shrink_at(self, center: Center, operands: Operands, prox, t) -> jax.Array:
        x = center(*operands)
        r = prox(jnp.abs(x), t)
        # Zeros become +0; the sign alone would leave -0 behind negative entries.
        return jnp.where(r == 0, 0, jnp.where(x < 0, -r, r))

    def units(self, x: jax.Array) -> jax.Array:
        return x != 0

    def shrunk_units(self, x: jax.Array, prox, t) -> jax.Array:
        return prox(jnp.abs(x), t) != 0

    def excess(self, x: jax.Array, v: jax.Array, slope) -> jax.Array:
        level = slope(jnp.abs(x))
        active = x != 0
        outside = v - jnp.where(active, level, 0) * jnp.sign(x)
        inside = jnp.maximum(jnp.abs(v) - level, 0)
        return norm(jnp.where(active, outside, inside))

    def zero_magnitudes(self, x: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.where(x == 0, jnp.abs(v), 0)


class _Layout(NamedTuple):
    """How an array is cut into groups; without tiles the first two are its shape."""

    padded: Shape
    tiled: Shape
    reduced: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Groups(Geometry):
    """Groups of entries; the magnitude is the Euclidean norm.

    Args:
      group_axes: The axes that enumerate the groups; all others are reduced. ``()``
        makes the whole array one group.
      weighted: Weight every group by the square root of its size.
      block: Tile lengths along ``group_axes``; ``None`` for one group per index. The
        last tile of an axis may be shorter.
    """

    group_axes: tuple[int, ...]
    weighted: bool = True
    block: tuple[int, ...] | None = None

    def __str__(self) -> str:
        if not self.group_axes:
            return "the whole array"
        axes = ", ".join(map(str, self.group_axes))
        tiles = "" if self.block is None else f" in tiles of {self.block}"
        return f"groups along axis {axes}{tiles}"

    def check(self, shape: Shape) -> None:
        _ = normalized_axes(self.group_axes, shape)

    def weights(self, shape: Shape) -> ArrayLike:
        if not self.weighted:
            return 1.0
        sizes = np.expand_dims(self.sizes(shape), self._layout(shape).reduced)
        return np.sqrt(sizes) if sizes.size != 1 else math.sqrt(sizes.item())

    def sizes(self, shape: Shape) -> np.ndarray:
        axes = normalized_axes(self.group_axes, shape)
        blocks = dict(zip(axes, self.block or (1,) * len(axes), strict=True))
        sizes = np.asarray(math.prod(n for i, n in enumerate(shape) if i not in axes))
        for axis in sorted(axes):
            starts = np.arange(0, shape[axis], blocks[axis])
            lengths = np.minimum(blocks[axis], shape[axis] - starts)
            uniform = lengths.size > 0 and (lengths == lengths[0]).all()
            sizes = sizes[..., None] * (lengths[:1] if uniform else lengths)
        return sizes

    def magnitudes(self, x: jax.Array) -> jax.Array:
        squares = self.reduce(jnp.sum, jnp.square(x))
        # sqrt has an infinite slope at 0; the inner where keeps gradients finite.
        return jnp.where(squares == 0, 0, jnp.sqrt(jnp.where(squares == 0, 1, squares)))

    def shrink_at(self, center: Center, operands: Operands, prox, t) -> jax.Array:
        shape = jax.eval_shape(center, *operands).shape
        level = t * jnp.asarray(self.weights(shape), t.dtype)
        # A scalar that leaves share XLA:CPU would write out, as large as the array.
        operands = lax.optimization_barrier(operands)
        r = self.magnitudes(center(*operands))
        shrunk = prox(r, level)
        factor = jnp.where(shrunk == 0, 0, shrunk / jnp.where(r == 0, 1, r))
        # Level 0 keeps even entries so small that their squares sum to 0.
        factor = jnp.where(level == 0, 1, factor)
        # Behind the barrier the centre is computed anew, in one fused pass. Otherwise
        # XLA shares it between both uses and writes it out, as large as the array.
        operands, factor = lax.optimization_barrier((operands, factor))
        factor = self.expand(factor, shape)
        return jnp.where(factor == 0, 0, center(*operands) * factor)

    def units(self, x: jax.Array) -> jax.Array:
        return self._squeeze(self.reduce(jnp.any, x != 0), x.shape)

    def shrunk_units(self, x: jax.Array, prox, t) -> jax.Array:
        level = t * jnp.asarray(self.weights(x.shape), t.dtype)
        kept = (prox(self.magnitudes(x), level) != 0) | (level == 0)
        return self._squeeze(kept & self.reduce(jnp.any, x != 0), x.shape)

    def excess(self, x: jax.Array, v: jax.Array, slope) -> jax.Array:
        r = self.magnitudes(x)
        level = slope(r)
        pull = jnp.where(r == 0, 0, level / jnp.where(r == 0, 1, r))
        outside = self.magnitudes(v - self.expand(pull, x.shape) * x)
        inside = jnp.maximum(self.magnitudes(v) - level, 0)
        return norm(jnp.where(r == 0, inside, outside))

    def zero_magnitudes(self, x: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.where(self.reduce(jnp.any, x != 0), 0, self.magnitudes(v))

    def reduce(self, op: Callable[..., jax.Array], x: jax.Array) -> jax.Array:
        """Reduce every group with ``op(x, axis=..., keepdims=True)``."""
        layout = self._layout(x.shape)
        if self.block is not None:
            pad = [(0, p - n) for p, n in zip(layout.padded, x.shape, strict=True)]
            x = jnp.pad(x, pad).reshape(layout.tiled)
        return op(x, axis=layout.reduced, keepdims=True)

    def total(self, term: Callable[..., jax.Array], *operands: jax.Array) -> jax.Array:
        """Sum an elementwise term of some arrays over every group."""
        return self.reduce(jnp.sum, term(*operands))

    def each(self, fn: Callable[..., jax.Array], *operands: jax.Array) -> jax.Array:
        """Compute an elementwise function of some arrays."""
        return fn(*operands)

    def expand(self, per_group: jax.Array, shape: Shape) -> jax.Array:
        """Make one number per group broadcast against an array of ``shape``."""
        if self.block is None:
            return per_group
        layout = self._layout(shape)
        tiled = jnp.broadcast_to(per_group, layout.tiled).reshape(layout.padded)
        return lax.slice(tiled, (0,) * len(shape), shape)

    def _squeeze(self, per_group: jax.Array, shape: Shape) -> jax.Array:
        return lax.squeeze(per_group, self._layout(shape).reduced)

    def _layout(self, shape: Shape) -> _Layout:
        axes = normalized_axes(self.group_axes, shape)
        blocks = dict(zip(axes, self.block, strict=True)) if self.block else {}
        padded, tiled, reduced = [], [], []
        for axis, length in enumerate(shape):
            block = blocks.get(axis)
            if block is not None:
                count = -(-length // block)
                padded.append(count * block)
                tiled += [count, block]
            else:
                padded.append(length)
                tiled.append(length)
            if block is not None or axis not in axes:
                reduced.append(len(tiled) - 1)
        return _Layout(tuple(padded), tuple(tiled), tuple(reduced))


@dataclasses.dataclass(frozen=True)
class SingularValues(Geometry):
    """Singular values of the matrices along two axes, batched over the others.

    An SVD of the whole matrix is needed: both matrix axes must be unsharded. Gradients
    through it are NaN at repeated or zero singular values.
    """

    matrix_axes: tuple[int, int] = (-2, -1)

    def __str__(self) -> str:
        return f"singular values of axes {self.matrix_axes}"

    def check(self, shape: Shape) -> None:
        _ = normalized_axes(self.matrix_axes, shape, name="matrix_axes")

    def sizes(self, shape: Shape) -> np.ndarray:
        return np.ones((1,) * (len(shape) - 1), int)

    def magnitudes(self, x: jax.Array) -> jax.Array:
        return singular_values(self._matrices(x))

    def shrink_at(self, center: Center, operands: Operands, prox, t) -> jax.Array:
        x = self._matrices(center(*operands))
        y = shrunk_singular_values(x, lambda s: prox(s, t))
        return jnp.moveaxis(jnp.where(t == 0, x, y), (-2, -1), self.matrix_axes)

    def units(self, x: jax.Array) -> jax.Array:
        s = self.magnitudes(x)
        return s > self._tolerance(x) * jnp.max(s, axis=-1, keepdims=True, initial=0)

    def shrunk_units(self, x: jax.Array, prox, t) -> jax.Array:
        s = self.magnitudes(x)
        floor = self._tolerance(x) * jnp.max(s, axis=-1, keepdims=True, initial=0)
        return jnp.where(t == 0, s > floor, prox(s, t) > 0)

    def truncated(self, x: jax.Array) -> jax.Array:
        """Return ``x`` without the singular values that are zero up to rounding."""

        def drop(s: jax.Array, t: jax.Array) -> jax.Array:
            del t
            largest = jnp.max(s, axis=-1, keepdims=True, initial=0)
            return jnp.where(s > self._tolerance(x) * largest, s, 0)

        return self.shrink_at(lambda y: y, (x,), drop, jnp.ones((), x.dtype))

    def excess(self, x: jax.Array, v: jax.Array, slope) -> jax.Array:
        x, v = self._matrices(x), self._matrices(v)
        u, s, vt = jnp.linalg.svd(x, full_matrices=False)
        active = s > self._tolerance(x) * jnp.max(s, axis=-1, keepdims=True, initial=0)
        level = slope(s)
        u = jnp.where(active[..., None, :], u, 0)
        vt = jnp.where(active[..., :, None], vt, 0)
        left = matmul(u, matmul(transpose(u), v))
        right = matmul(matmul(v, transpose(vt)), vt)
        both = matmul(u, matmul(transpose(u), right))
        tangent = left + right - both
        level = jnp.where(active, level, 0)
        gap = norm(tangent - matmul(u * level[..., None, :], vt))
        rest = singular_values(v - tangent)
        radius = slope(jnp.zeros_like(s))
        return jnp.hypot(gap, norm(jnp.maximum(rest - radius, 0)))

    def zero_magnitudes(self, x: jax.Array, v: jax.Array) -> jax.Array:
        x, v = self._matrices(x), self._matrices(v)
        u, s, vt = jnp.linalg.svd(x, full_matrices=False)
        active = s > self._tolerance(x) * jnp.max(s, axis=-1, keepdims=True, initial=0)
        u = jnp.where(active[..., None, :], u, 0)
        vt = jnp.where(active[..., :, None], vt, 0)
        v = v - matmul(u, matmul(transpose(u), v))
        v = v - matmul(matmul(v, transpose(vt)), vt)
        rest = singular_values(v)
        full = jnp.sum(active, axis=-1, keepdims=True) == s.shape[-1]
        return jnp.where(full, 0, rest)

    def _matrices(self, x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, self.matrix_axes, (-2, -1))

    def _tolerance(self, x: jax.Array) -> float:
        rows, columns = (x.shape[axis] for axis in self.matrix_axes)
        return max(rows, columns, 1) * float(jnp.finfo(x.dtype).eps)


def as_groups(
    group_axes: int | tuple[int, ...],
    weighted: bool = True,
    block: int | tuple[int, ...] | None = None,
) -> Groups:
    """Build `Groups` from what a user may write: an int for a tuple of one.

    Raises:
      TypeError: an axis or a block length is not an integer.
      ValueError: a block length is not positive, or there is not one per group axis.
    """
    axes = as_axes(group_axes)
    if block is not None:
        single = isinstance(block, numbers.Integral)
        block = as_axes(block, name="block") * (len(axes) if single else 1)
        if len(block) != len(axes) or min(block, default=0) < 1:
            raise ValueError(
                f"`block` must hold one positive length per group axis, got {block} "
                f"for `group_axes` {axes}."
            )
    return Groups(axes, weighted, block)


def norm(x: jax.Array) -> jax.Array:
    """Return the Euclidean norm of all entries."""
    return jnp.sqrt(jnp.sum(jnp.square(x)))
