"""Groups of entries, whose magnitude is the Euclidean norm.

Reductions keep the reduced axes with length 1: nothing is ravelled, and sharded axes
are never merged.
"""

import abc
import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from rmda_jax._types import Arrays, Shape, Shapes
from rmda_jax.regularizers._axes import as_axes, normalized_axes
from rmda_jax.regularizers._geometries import Center, Geometry, Shrink
from rmda_jax.regularizers._spelling import as_written, call
from rmda_jax.regularizers.solvers._layout import GroupLayout
from rmda_jax.regularizers.solvers._recomputed import recomputed


class EuclideanGroups(Geometry, GroupLayout):
    """What all groups share, in terms of how a layout sums, expands and flags them.

    A layout is `Groups` of one array or `TiedGroups` of several. It implements `total`,
    `each`, `expand`, `any_nonzero`, `squeezed` and `sizes`. Its numbers per group
    broadcast against those that these return.
    """

    @abc.abstractmethod
    def squeezed(self, per_group: jax.Array, shape: Shapes) -> jax.Array:
        """Drop the axes that were reduced."""

    def unregularized(self, v: Arrays) -> ArrayLike:
        """Return the sum of squares of what belongs to no group."""
        del v
        return 0.0

    def shapes(self, x: Arrays) -> Shapes:
        """Return the shape of each leaf."""
        return self.each(jnp.shape, x)

    def magnitudes(self, x: Arrays) -> jax.Array:
        squares = self.total(jnp.square, x)
        # sqrt has an infinite slope at 0; the inner where keeps gradients finite.
        return jnp.where(squares == 0, 0, jnp.sqrt(jnp.where(squares == 0, 1, squares)))

    def shrink_at(
        self, center: Center, operands: Any, prox: Shrink, t: jax.Array
    ) -> Arrays:
        centers = lambda operands: self.each(lambda row: center(*row), operands)
        shapes = self.each(lambda x: x.shape, jax.eval_shape(centers, operands))
        level = t * jnp.asarray(self.weights(shapes), t.dtype)
        # Without this barrier XLA:CPU broadcasts a scalar that several leaves use into
        # an array-sized temporary.
        operands = recomputed(operands)
        r = self.magnitudes(centers(operands))
        shrunk = prox(r, level)
        factor = jnp.where(shrunk == 0, 0, shrunk / jnp.where(r == 0, 1, r))
        # Level 0 keeps even entries so small that their squares sum to 0.
        factor = jnp.where(level == 0, 1, factor)
        # The second use of the centre, which is recomputed in the pass that scales it.
        operands, factor = recomputed(operands, factor)
        scale = lambda factor, x: jnp.where(factor == 0, 0, x * factor)
        return self.each(scale, self.expand(factor, shapes, 1.0), centers(operands))

    def units(self, x: Arrays) -> jax.Array:
        return self.squeezed(self.any_nonzero(x), self.shapes(x))

    def support_mask(self, x: Arrays) -> Arrays:
        """Return which entries are in groups that are not zero, or in no group."""
        alive = self.expand(self.any_nonzero(x), self.shapes(x), True)
        # The second term gives the shape, and on devices the sharding, of the entries.
        return self.each(lambda alive, x: alive | (x != 0), alive, x)

    def shrunk_units(self, x: Arrays, prox: Shrink, t: jax.Array) -> jax.Array:
        level = t * jnp.asarray(self.weights(self.shapes(x)), t.dtype)
        kept = (prox(self.magnitudes(x), level) != 0) | (level == 0)
        return self.squeezed(kept & self.any_nonzero(x), self.shapes(x))

    def subgradient_distance(
        self, x: Arrays, v: Arrays, slope: Callable[[jax.Array], jax.Array]
    ) -> jax.Array:
        r = self.magnitudes(x)
        level = slope(r)
        # The subgradient of an active group is level * x / |x|.
        factor = self.expand(level_per_norm(level, r), self.shapes(x))
        rest = lambda v, factor, x: v - factor * x
        outside = self.magnitudes(self.each(rest, v, factor, x))
        inside = jnp.maximum(self.magnitudes(v) - level, 0)
        squares = jnp.sum(jnp.square(jnp.where(r == 0, inside, outside)))
        return jnp.sqrt(squares + self.unregularized(v))

    def zero_magnitudes(self, x: Arrays, v: Arrays) -> jax.Array:
        return jnp.where(self.any_nonzero(x), 0, self.magnitudes(v))


def level_per_norm(level: jax.Array, r: jax.Array) -> jax.Array:
    """Return ``level / r``, and 0 where a group is 0."""
    return jnp.where(r == 0, 0, level / jnp.where(r == 0, 1, r))


def largest(x: jax.Array, axis: tuple[int, ...], keepdims: bool) -> jax.Array:
    """Return the largest of nonnegative numbers, for `Groups.reduce`; 0 of none."""
    return jnp.max(x, axis=axis, keepdims=keepdims, initial=0)


class _Layout(NamedTuple):
    """How an array is cut into groups; without tiles the first two are its shape."""

    padded: Shape
    tiled: Shape
    reduced: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Groups(EuclideanGroups):
    """Groups along axes of one array.

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

    names: ClassVar[dict[str, str]] = {
        "l1": "group_lasso",
        "mcp": "group_mcp",
        "scad": "group_scad",
        "l0": "group_l0",
        "lq": "group_lq",
        "log_sum": "group_log_sum",
    }

    def arguments(self) -> dict[str, Any]:
        """Return the keywords of a factory that makes these groups; axes always."""
        given: dict[str, Any] = {"group_axes": as_written(self.group_axes)}
        if not self.weighted:
            given["weighted"] = False
        if self.block is not None:
            given["block"] = as_written(self.block)
        return given

    def spelled(self, entrywise: str, keywords: dict[str, Any]) -> str:
        name = self.names.get(entrywise)
        # Only the group lasso takes tiles by a name of its own.
        if name is None or (self.block is not None and name != "group_lasso"):
            return call("on_groups", call(entrywise, **keywords), **self.arguments())
        axes, *rest = self.arguments().items()
        return call(name, **dict([axes]), **keywords, **dict(rest))

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

    def reduce(self, op: Callable[..., jax.Array], x: jax.Array) -> jax.Array:
        """Reduce every group with ``op(x, axis=..., keepdims=True)``."""
        layout = self._layout(x.shape)
        if self.block is not None:
            pad = [(0, p - n) for p, n in zip(layout.padded, x.shape, strict=True)]
            x = jnp.pad(x, pad).reshape(layout.tiled)
        return op(x, axis=layout.reduced, keepdims=True)

    def total(self, term: Callable[..., jax.Array], *operands: jax.Array) -> jax.Array:
        return self.reduce(jnp.sum, term(*operands))

    def each(self, fn: Callable[..., Any], *operands: Any) -> Any:
        return fn(*operands)

    def any_nonzero(self, x: jax.Array) -> jax.Array:
        return self.reduce(jnp.any, x != 0)

    def expand(
        self, per_group: jax.Array, shapes: Shape, outside: Any = 0.0
    ) -> jax.Array:
        del outside  # every position belongs to a group
        if self.block is None:
            return per_group
        layout = self._layout(shapes)
        tiled = jnp.broadcast_to(per_group, layout.tiled).reshape(layout.padded)
        return lax.slice(tiled, (0,) * len(shapes), shapes)

    def squeezed(self, per_group: jax.Array, shape: Shape) -> jax.Array:
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
