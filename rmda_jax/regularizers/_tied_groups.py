r"""Groups of which each has its entries in several leaves.

A channel between two layers, an attention head, a gated unit: what vanishes as one is
spread over the leaves that read it (or make it). Here a group takes positions along one
axis of each leaf. Only the sums over the other axes, vectors as long as the axis, leave
a leaf: nothing is concatenated, and what is sharded stays where it is.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rmda_jax._types import Shape
from rmda_jax.regularizers._axes import as_axes, normalized_axes
from rmda_jax.regularizers._groups import EuclideanGroups
from rmda_jax.regularizers._spelling import call

if hasattr(jax.sharding, "reshard"):
    reshard = jax.sharding.reshard
else:  # JAX 0.6
    from jax.experimental.shard import reshard  # pyright: ignore[reportMissingImports]

Leaves = tuple[jax.Array, ...]
LeafShapes = Sequence[Shape]

_SHOWN = 16  # positions; the text of longer lists counts them


@dataclasses.dataclass(frozen=True, repr=False)
class TiedGroups(EuclideanGroups):
    """Groups that span leaves, along one axis of each.

    Args:
      group_axes: The axis of each leaf; all others are reduced.
      groups: For each leaf the group of every position along its axis, -1 for none,
        which is not regularized; None if position and group are the same.
      weighted: Weight every group by the square root of its size in all leaves.
    """

    group_axes: tuple[int, ...]
    groups: tuple[tuple[int, ...] | None, ...]
    weighted: bool = True

    names: ClassVar[dict[str, str]] = {"l1": "tied_group_lasso"}

    def __repr__(self) -> str:
        return call("TiedGroups", **self.arguments())

    @property
    def n_leaves(self) -> int:
        return len(self.group_axes)

    def arguments(self) -> dict[str, Any]:
        """Return the keywords of a factory that makes these groups."""
        given: dict[str, Any] = {"group_axes": self.group_axes}
        if any(ids is not None for ids in self.groups):
            comma = "," if len(self.groups) == 1 else ""
            given["groups"] = f"({', '.join(map(_shown, self.groups))}{comma})"
        if not self.weighted:
            given["weighted"] = False
        return given

    def spelled(self, entrywise: str, keywords: dict[str, Any]) -> str:
        if entrywise in self.names:
            return call(self.names[entrywise], **self.arguments(), **keywords)
        return call("on_tied_groups", call(entrywise, **keywords), **self.arguments())

    def check(self, shape: LeafShapes) -> None:
        for axis, one in zip(self.group_axes, shape, strict=True):
            _ = normalized_axes((axis,), one)
        lengths = [s[a] for s, a in zip(shape, self.group_axes, strict=True)]
        for length, ids in zip(lengths, self.groups, strict=True):
            wanted = self._count(shape) if ids is None else len(ids)
            if length != wanted:
                raise ValueError(
                    f"the tied axes {self.group_axes} must have as many positions as "
                    f"there are groups or entries in `groups`, got lengths {lengths} "
                    f"for shapes {tuple(shape)}, where {wanted} belong. Say with "
                    "`groups` which group each position belongs to."
                )

    def weights(self, shape: LeafShapes) -> np.ndarray:
        sizes = self.sizes(shape)
        return np.sqrt(sizes) if self.weighted else np.ones(sizes.shape)

    def sizes(self, shape: LeafShapes) -> np.ndarray:
        sizes = np.zeros(self._count(shape), int)
        for axis, ids, one in zip(self.group_axes, self.groups, shape, strict=True):
            length = one[axis]
            rest = np.prod(one, dtype=int) // max(length, 1)
            ids = np.arange(length) if ids is None else np.asarray(ids)
            np.add.at(sizes, ids[ids >= 0], rest)
        return sizes

    def sets(self, shape: LeafShapes) -> np.ndarray:
        """Return for each group the number of its set: those in the same leaves."""
        members = np.zeros((self._count(shape), len(shape)), bool)
        for i, ids in enumerate(self.groups):
            members[:, i] |= ids is None
            if ids is not None:
                members[[group for group in ids if group >= 0], i] = True
        return np.unique(members, axis=0, return_inverse=True)[1].reshape(-1)

    def total(self, term: Callable[..., jax.Array], *operands: Leaves) -> jax.Array:
        return self._reduce(jnp.sum, jnp.add, self.each(term, *operands))

    def each(self, fn: Callable[..., Any], *operands: Any) -> tuple[Any, ...]:
        return tuple(fn(*row) for row in zip(*operands, strict=True))

    def any_nonzero(self, x: Leaves) -> jax.Array:
        return self._reduce(jnp.any, jnp.logical_or, tuple(leaf != 0 for leaf in x))

    def expand(
        self, per_group: jax.Array, shapes: LeafShapes, outside: Any = 0.0
    ) -> Leaves:
        out = []
        for axis, ids, shape in zip(self.group_axes, self.groups, shapes, strict=True):
            along = per_group
            if ids is not None:
                index = np.asarray(ids)
                along = jnp.where(index < 0, outside, per_group[np.maximum(index, 0)])
            axes = [i for i in range(len(shape)) if i != axis % len(shape)]
            out.append(lax.expand_dims(along, axes))
        return tuple(out)

    def squeezed(self, per_group: jax.Array, shape: LeafShapes) -> jax.Array:
        del shape
        return per_group

    def unregularized(self, v: Leaves) -> jax.Array:
        nothing = jnp.zeros(self._count(self.shapes(v)), v[0].dtype)
        outside = self.expand(nothing, self.shapes(v), 1.0)
        squares = self.each(lambda o, v: jnp.sum(jnp.square(o * v)), outside, v)
        return sum(squares, jnp.zeros((), v[0].dtype))

    def _reduce(
        self,
        reduce: Callable[..., jax.Array],
        combine: Callable[[jax.Array, jax.Array], jax.Array],
        x: Leaves,
    ) -> jax.Array:
        """Reduce each leaf to its tied axis, and the positions to their groups."""
        n, total = self._count(self.shapes(x)), None
        for axis, ids, leaf in zip(self.group_axes, self.groups, x, strict=True):
            (front,) = normalized_axes((axis,), leaf.shape)
            rest = tuple(i for i in range(leaf.ndim) if i != front)
            along = _replicated(reduce(leaf, axis=rest))
            if ids is not None:
                # A row of positions per group, for a scatter would add in any order.
                table = _positions(ids, n)
                found = along.at[table].get(mode="fill", fill_value=0)
                along = reduce(found, axis=1)
            total = along if total is None else combine(total, along)
        assert total is not None  # there is a leaf
        return total

    def _count(self, shapes: LeafShapes) -> int:
        """Return the number of groups."""
        return max(
            shape[axis] if ids is None else 1 + max(ids, default=-1)
            for axis, ids, shape in zip(
                self.group_axes, self.groups, shapes, strict=True
            )
        )


def as_tied_groups(
    group_axes: Sequence[int],
    groups: Sequence[Sequence[int] | None] | None,
    weighted: bool,
) -> TiedGroups:
    """Build `TiedGroups` from what a user may write.

    Raises:
      TypeError: axes or groups are not integers.
      ValueError: not one entry of ``groups`` per axis, or a group has no position.
    """
    axes = as_axes(tuple(group_axes))
    several = (None,) * len(axes) if groups is None else tuple(groups)
    if len(several) != len(axes) or not axes:
        raise ValueError(
            f"`groups` must hold one entry per axis of `group_axes`, got {len(several)}"
            f" for {axes}. None means that each position is a group."
        )
    ids = tuple(None if g is None else as_axes(tuple(g), "groups") for g in several)
    given = [set(g) - {-1} for g in ids if g is not None]
    found = set().union(*given)
    gaps = None not in ids and found != set(range(len(found)))
    if given and (gaps or min(found, default=0) < 0):
        raise ValueError(
            f"`groups` must number the groups from 0 without gaps, got {sorted(found)}."
            " Use -1 for positions that belong to none."
        )
    return TiedGroups(axes, ids, weighted)


def _shown(ids: tuple[int, ...] | None) -> str:
    if ids is None or len(ids) <= _SHOWN:
        return str(ids)
    return f"<{len(ids)} positions of {len(set(ids) - {-1})} groups>"


def _positions(ids: tuple[int, ...], n_groups: int) -> np.ndarray:
    """Return the positions of each group, a row of them, padded with one too far."""
    order = np.argsort(ids, kind="stable")
    order = order[np.asarray(ids)[order] >= 0]
    group = np.asarray(ids)[order]
    counts = np.bincount(group, minlength=n_groups)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((n_groups, counts.max(initial=0)), len(ids))
    table[group, place] = order
    return table


def _replicated(along: jax.Array) -> jax.Array:
    """Return a small vector on every device, where shardings are part of the types."""
    mesh = jax.sharding.get_abstract_mesh()
    if jax.sharding.AxisType.Explicit in mesh.axis_types:
        return reshard(along, jax.sharding.PartitionSpec())
    return along
