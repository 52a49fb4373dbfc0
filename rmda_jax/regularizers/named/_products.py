"""A penalty of entries, put on groups, on tied groups, on singular values."""

from collections.abc import Sequence

from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._geometries import Geometry, as_singular_values
from rmda_jax.regularizers._groups import as_groups
from rmda_jax.regularizers._magnitude import MagnitudePenalty
from rmda_jax.regularizers._penalties import Abs
from rmda_jax.regularizers._tied_groups import as_tied_groups


def on_groups(
    regularizer: Regularizer,
    group_axes: int | tuple[int, ...],
    *,
    weighted: bool = True,
    block: int | tuple[int, ...] | None = None,
) -> Regularizer:
    r"""Put a penalty of entries on groups, :math:`\sum_g w_g \varphi(\|x_g\|)`.

    ``on_groups(mcp(), -2)`` is ``group_mcp(-2)``.

    Args:
      regularizer: A penalty of magnitudes on entries, such as `mcp` or `log_sum`.
      group_axes: The axes that enumerate the groups; every other axis is reduced.
      weighted: :math:`w_g = \sqrt{|g|}`, or 1 if False.
      block: Tile lengths along ``group_axes``; the last tile may be shorter.

    Returns:
      A regularizer, convex if the penalty is; groups vanish as a whole, and exactly.

    Raises:
      TypeError: ``regularizer`` is no such penalty.
      ValueError: ``block`` does not fit ``group_axes``; at use, a missing axis.

    Examples:
      >>> x = jnp.array([[3.0, 4.0], [0.3, 0.4]])
      >>> log_sum = rj.regularizers.log_sum(1.0)
      >>> rj.regularizers.on_groups(log_sum, 0, weighted=False).prox(x, 1.0).round(1)
      Array([[2.9, 3.9],
             [0. , 0. ]], dtype=float32)
    """
    return _moved(regularizer, as_groups(group_axes, weighted, block))


def on_tied_groups(
    regularizer: Regularizer,
    group_axes: Sequence[int],
    groups: Sequence[Sequence[int] | None] | None = None,
    *,
    weighted: bool = True,
) -> Regularizer:
    """Put a penalty of entries on the norms of groups that span leaves.

    ``on_tied_groups(l1(), (0, 1))`` is ``tied_group_lasso((0, 1))``.

    Args:
      regularizer: A penalty of magnitudes on entries, such as `mcp` or `log_sum`.
      group_axes: As in `tied_group_lasso`.
      groups: As in `tied_group_lasso`.
      weighted: As in `tied_group_lasso`.

    Returns:
      A regularizer that acts on a tuple of arrays, for rules of a `RegularizerMap` that
      name several leaves; convex if the penalty is.

    Raises:
      TypeError: ``regularizer`` is no such penalty; axes or groups are not integers.
      ValueError: as in `tied_group_lasso`.

    Examples:
      >>> leaves = jnp.array([[3.0, 0.1]]), jnp.array([[4.0], [0.2]])
      >>> tied = rj.regularizers.on_tied_groups(rj.mcp(), (-1, -2), weighted=False)
      >>> [x.tolist() for x in tied.prox(leaves, 1.0)]
      [[[3.0, 0.0]], [[4.0], [0.0]]]
    """
    return _moved(regularizer, as_tied_groups(group_axes, groups, weighted))


def on_singular_values(
    regularizer: Regularizer, matrix_axes: tuple[int, int] = (-2, -1)
) -> Regularizer:
    r"""Put a penalty of entries on singular values, :math:`\sum_i \varphi(\sigma_i)`.

    ``on_singular_values(l1())`` is ``nuclear_norm()``.

    Args:
      regularizer: A penalty of magnitudes on entries, such as `mcp` or `log_sum`.
      matrix_axes: Rows and columns; the other axes are a batch of matrices.

    Returns:
      A regularizer for arrays of rank 2 or more, convex if the penalty is; see
      `nuclear_norm` for what its SVD asks.

    Raises:
      TypeError: ``regularizer`` is no such penalty.
      ValueError: there are not two axes; at use, one that does not exist.

    Examples:
      >>> rank = rj.regularizers.on_singular_values(rj.regularizers.l0())
      >>> rank.prox(jnp.diag(jnp.array([3.0, 1.0])), 1.0).round(1)
      Array([[3., 0.],
             [0., 0.]], dtype=float32)
    """
    return _moved(regularizer, as_singular_values(matrix_axes))


def tied_group_lasso(
    group_axes: Sequence[int],
    groups: Sequence[Sequence[int] | None] | None = None,
    *,
    weighted: bool = True,
) -> Regularizer:
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
      A convex regularizer that acts on a tuple of arrays, one per axis. A group is
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
    return MagnitudePenalty(Abs(), as_tied_groups(group_axes, groups, weighted))


def _moved(regularizer: Regularizer, geometry: Geometry) -> Regularizer:
    if not isinstance(regularizer, MagnitudePenalty) or not regularizer.is_separable:
        raise TypeError(
            "`regularizer` must be a penalty of magnitudes on entries, such as mcp(), "
            f"got {regularizer}. Sets, levels and sums of penalties have no "
            "counterpart on groups or singular values."
        )
    return MagnitudePenalty(regularizer.penalty, geometry)
