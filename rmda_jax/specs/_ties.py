r"""Ties: groups of which each has its entries in several leaves.

A channel between two layers, an attention head, a gated unit: what vanishes as one is
spread over the leaves that read it (or make it). A tie takes one axis of each leaf and
says which position belongs to which group. Only the squared norms of the positions,
vectors as long as the axis, leave a leaf: nothing is concatenated, and what is sharded
stays where it is.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rmda_jax._types import Scalar, Shape, spec_of, wide_dtype
from rmda_jax.regularizers._axes import as_axes, normalized_axes
from rmda_jax.regularizers._checks import check_metric, check_step_size
from rmda_jax.regularizers._metric import group_lasso_metric_prox
from rmda_jax.regularizers._on_groups import group_lasso

if hasattr(jax.sharding, "reshard"):
    reshard = jax.sharding.reshard
else:  # JAX 0.6
    from jax.experimental.shard import reshard  # pyright: ignore[reportMissingImports]

Arrays = tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class Tie:
    r"""Group lasso of groups that span leaves; made by `tied_group_lasso`.

    It answers what a `Regularizer` answers, about a tuple of arrays instead of one.
    """

    axes: tuple[int, ...]
    groups: tuple[tuple[int, ...] | None, ...]
    weighted: bool = True

    is_convex = True

    def __str__(self) -> str:
        axes = ", ".join(map(str, self.axes))
        return f"magnitude of groups tied along axes {axes}"

    def check(self, shapes: Sequence[Shape], dtypes: Sequence[Any] = ()) -> None:
        """Raise a TypeError or a ValueError if such arrays cannot be tied."""
        if len(shapes) != len(self.axes):
            raise ValueError(
                f"a tie along axes {self.axes} needs {len(self.axes)} arrays, got "
                f"shapes {tuple(shapes)}. Give one axis per leaf."
            )
        for i, shape in enumerate(shapes):
            group_lasso(self.axes[i]).check(shape, *dtypes[i : i + 1])
        lengths = [s[a] for s, a in zip(shapes, self.axes, strict=True)]
        for length, ids in zip(lengths, self.groups, strict=True):
            wanted = self._count(shapes) if ids is None else len(ids)
            if length != wanted:
                raise ValueError(
                    f"the tied axes {self.axes} must have as many positions as there "
                    f"are groups or entries in `groups`, got lengths {lengths} for "
                    f"shapes {tuple(shapes)}, where {wanted} belong. Say with `groups` "
                    "which group each position belongs to."
                )

    def value(self, xs: Sequence[jax.Array]) -> jax.Array:
        r"""Return :math:`\sum_g w_g\|x_g\|`."""
        xs = self._enter(xs)
        return jnp.sum(self._weights(_shapes(xs), xs) * self.magnitudes(xs))

    def prox(self, xs: Sequence[jax.Array], step_size: Scalar) -> Arrays:
        """Return the proximal point, as `Regularizer.prox`."""
        return self.prox_at(lambda x: x, [(jnp.asarray(x),) for x in xs], step_size)

    def prox_at(
        self,
        center: Callable[..., jax.Array],
        operands: Sequence[Arrays],
        step_size: Scalar,
    ) -> Arrays:
        """Return the proximal point of centres, as `Regularizer.prox_at`."""
        specs = [jax.eval_shape(center, *row) for row in operands]
        self.check(*zip(*[(s.shape, s.dtype) for s in specs], strict=True))
        wide = wide_dtype(*(s.dtype for s in specs))
        step = check_step_size(step_size, wide)
        at = lambda rows: tuple(center(*row).astype(wide) for row in rows)
        shapes = tuple(s.shape for s in specs)
        # As for groups of one leaf: behind the barriers the centre is computed anew,
        # in one fused pass, instead of being written out.
        operands = lax.optimization_barrier(tuple(operands))
        xs = at(operands)
        r, level = self.magnitudes(xs), step * self._weights(shapes, xs)
        shrunk = jnp.maximum(r - level, 0)
        factor = jnp.where(shrunk == 0, 0, shrunk / jnp.where(r == 0, 1, r))
        # Level 0 keeps even entries so small that their squares sum to 0.
        factor = jnp.where(level == 0, 1, factor)
        operands, factor = lax.optimization_barrier((operands, factor))
        scale = lambda f, x: jnp.where(f == 0, 0, x * f)
        out = self.each(scale, self.expand(factor, shapes, 1.0), at(operands))
        return tuple(y.astype(s.dtype) for y, s in zip(out, specs, strict=True))

    def metric_prox(self, xs: Any, step_size: Scalar, metric: Any) -> Arrays:
        """Return the proximal point in a metric, as `Regularizer.metric_prox`."""
        return self.counted_metric_prox(xs, step_size, metric)[0]

    def counted_metric_prox(
        self, xs: Sequence[jax.Array], step_size: Scalar, metric: Any, **unused: Any
    ) -> tuple[Arrays, jax.Array]:
        """Return `metric_prox`, which is exact, and how many steps it took."""
        del unused  # start and tolerance, of those that iterate from a point
        z = self._enter(xs)
        d = self.each(check_metric, tuple(metric), z)
        t = check_step_size(step_size, z[0].dtype)
        k = t * self._weights(_shapes(z), z)
        y, n_steps = group_lasso_metric_prox(self, z, d, k)
        y = self.each(lambda x, y: jnp.where(t == 0, x, y), z, y)
        return self.each(lambda x, y: y.astype(x.dtype), tuple(xs), y), n_steps

    def support(self, xs: Sequence[jax.Array]) -> jax.Array:
        """Return which groups are active: one flag per group."""
        xs = self._enter(xs)
        return self._gather([x != 0 for x in xs], jnp.any, jnp.logical_or)

    def prox_support(self, xs: Sequence[jax.Array], step_size: Scalar) -> jax.Array:
        """Return the support of the proximal point, from the magnitudes alone."""
        xs = self._enter(xs)
        level = check_step_size(step_size, xs[0].dtype) * self._weights(_shapes(xs), xs)
        kept = (self.magnitudes(xs) > level) | (level == 0)
        return kept & self.support(xs)

    def snap(self, xs: Sequence[jax.Array]) -> Arrays:
        """Return the arrays: rounding does not blur zeros."""
        return tuple(xs)

    def unit_sizes(self, shapes: Sequence[Shape]) -> np.ndarray:
        """Return how many entries each group has, in all leaves together."""
        self.check(shapes)
        sizes = np.zeros(self._count(shapes), int)
        for axis, ids, shape in zip(self.axes, self.groups, shapes, strict=True):
            length = shape[axis]
            rest = np.prod(shape, dtype=int) // max(length, 1)
            ids = np.arange(length) if ids is None else np.asarray(ids)
            np.add.at(sizes, ids[ids >= 0], rest)
        return sizes

    def subgradient_distance(self, xs: Any, vs: Any, strength: Scalar) -> jax.Array:
        """Return the distance to the subdifferential, as the `Regularizer`'s."""
        x, v = self._enter(xs), self._enter(vs)
        shapes = _shapes(x)
        level = check_step_size(strength, x[0].dtype) * self._weights(shapes, x)
        r = self.magnitudes(x)
        pull = jnp.where(r == 0, 0, level / jnp.where(r == 0, 1, r))
        rest = lambda x, v, p: jnp.square(v - p * x)
        outside = jnp.sqrt(self.total(rest, x, v, self.expand(pull, shapes)))
        inside = jnp.maximum(self.magnitudes(v) - level, 0)
        in_groups = jnp.sum(jnp.square(jnp.where(r == 0, inside, outside)))
        # Positions that belong to no group are not regularized.
        outsiders = self.expand(jnp.zeros_like(r), shapes, 1.0)
        free = self.each(lambda o, v: jnp.sum(jnp.square(o * v)), outsiders, v)
        return jnp.sqrt(in_groups + sum(free))

    def margin(self, xs: Any, vs: Any, strength: Scalar) -> jax.Array:
        """Return how safely the zero groups stay zero, as `Regularizer.margin`."""
        x, v = self._enter(xs), self._enter(vs)
        level = check_step_size(strength, x[0].dtype) * self._weights(_shapes(x), x)
        pull = jnp.where(self.support(x), 0, self.magnitudes(v))
        slack = 1 - pull / jnp.where(pull == 0, 1, level)
        zero = ~self.support(x)
        return jnp.min(jnp.where(zero, slack, jnp.inf), initial=jnp.inf)

    # --- what the secular equation asks of groups ------------------------------------

    def magnitudes(self, xs: Arrays) -> jax.Array:
        """Return the norms of the groups; their gradient at 0 is 0."""
        squares = self.total(jnp.square, xs)
        return jnp.where(squares == 0, 0, jnp.sqrt(jnp.where(squares == 0, 1, squares)))

    def total(self, term: Callable[..., jax.Array], *operands: Arrays) -> jax.Array:
        """Sum an elementwise term of some tuples of arrays over every group."""
        terms = [term(*row) for row in zip(*operands, strict=True)]
        return self._gather(terms, jnp.sum, jnp.add)

    def each(self, fn: Callable[..., jax.Array], *operands: Arrays) -> Arrays:
        """Compute an elementwise function of some tuples of arrays."""
        return tuple(fn(*row) for row in zip(*operands, strict=True))

    def expand(
        self, per_group: jax.Array, shapes: Sequence[Shape], outside: float = 0.0
    ) -> Arrays:
        """Make one number per group broadcast against each leaf.

        Positions of no group get ``outside``.
        """
        out = []
        for axis, ids, shape in zip(self.axes, self.groups, shapes, strict=True):
            along = per_group
            if ids is not None:
                index = np.asarray(ids)
                along = jnp.where(index < 0, outside, per_group[np.maximum(index, 0)])
            axes = [i for i in range(len(shape)) if i != axis % len(shape)]
            out.append(lax.expand_dims(along, axes))
        return tuple(out)

    def _gather(self, xs: Sequence[jax.Array], reduce: Any, combine: Any) -> jax.Array:
        """Reduce each leaf to its tied axis, and the positions to their groups."""
        n, parts = self._count(_shapes(xs)), []
        for axis, ids, x in zip(self.axes, self.groups, xs, strict=True):
            (front,) = normalized_axes((axis,), x.shape)
            rest = tuple(i for i in range(x.ndim) if i != front)
            along = _replicated(reduce(x, axis=rest))
            if ids is not None:
                table = _positions(ids, n)
                found = along.at[table].get(mode="fill", fill_value=0)
                along = reduce(found, axis=1)
            parts.append(along)
        total = parts[0]
        for part in parts[1:]:
            total = combine(total, part)
        return total

    def _count(self, shapes: Sequence[Shape]) -> int:
        counts = [
            shape[axis] if ids is None else 1 + max(ids, default=-1)
            for axis, ids, shape in zip(self.axes, self.groups, shapes, strict=True)
        ]
        return max(counts)

    def _weights(self, shapes: Sequence[Shape], like: Arrays) -> jax.Array:
        sizes = self.unit_sizes(shapes)
        weights = np.sqrt(sizes) if self.weighted else np.ones(sizes.shape)
        return jnp.asarray(weights, like[0].dtype)

    def _enter(self, xs: Sequence[jax.Array]) -> Arrays:
        specs = [spec_of(x) for x in xs]
        self.check(*zip(*specs, strict=True))
        wide = wide_dtype(*(dtype for _, dtype in specs))
        return tuple(jnp.asarray(x, wide) for x in xs)


def tied_group_lasso(
    group_axes: Sequence[int],
    groups: Sequence[Sequence[int] | None] | None = None,
    *,
    weighted: bool = True,
) -> Tie:
    r"""Group lasso of groups that span leaves, :math:`\sum_g w_g \|x_g\|_2`.

    For rules of a `RegularizerMap` that name several leaves: group :math:`g` has
    position :math:`g` of one axis of each of them. `shrink.group_rules` writes such
    rules for the hidden units of a model.

    Args:
      group_axes: The axis of each leaf, in the order of the rule's patterns; every
        other axis is reduced.
      groups: For each leaf the group that each position along its axis belongs to, from
        0 up, or -1 for none, which is not regularized; None (also for one leaf) if
        position and group are the same.
      weighted: :math:`w_g = \sqrt{|g|}`, with the entries of all leaves, or 1 if False.

    Returns:
      What answers like a convex regularizer, about a tuple of arrays. A group is
      exactly zero, in all leaves, iff its norm over all of them is at most
      :math:`t w_g`.

    Raises:
      TypeError: axes or groups are not integers.
      ValueError: not one entry of ``groups`` per axis, or a group has no position; at
        use, leaves that do not fit.

    Examples:
      >>> params = {"up": jnp.array([[3.0, 0.1]]), "down": jnp.array([[4.0], [0.2]])}
      >>> tie = rj.tied_group_lasso((-1, -2), weighted=False)
      >>> rules = rj.RegularizerMap([(("up", "down"), tie)])
      >>> jax.tree.map(lambda x: x.round(1).tolist(), rules.prox(params, 2.5))
      {'down': [[2.0], [0.0]], 'up': [[1.5, 0.0]]}

    References:
      Yuan & Lin, `Model selection and estimation in regression with grouped variables
      <https://doi.org/10.1111/j.1467-9868.2005.00532.x>`_, 2006.
    """
    axes = as_axes(tuple(group_axes))
    several = (None,) * len(axes) if groups is None else tuple(groups)
    if len(several) != len(axes) or not axes:
        raise ValueError(
            f"`groups` must hold one entry per axis of `group_axes`, got {len(several)}"
            f" for {axes}. None stands for positions that are the groups."
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
    return Tie(axes, ids, weighted)


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


def _shapes(xs: Sequence[jax.Array]) -> tuple[Shape, ...]:
    return tuple(x.shape for x in xs)
