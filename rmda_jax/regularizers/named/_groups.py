"""The named penalties on groups of one array."""

from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._group_max import GroupMax
from rmda_jax.regularizers._groups import as_groups
from rmda_jax.regularizers._magnitude import MagnitudePenalty
from rmda_jax.regularizers._penalties import L0, MCP, SCAD, Abs, LogSum, Lq
from rmda_jax.regularizers._sparse_group import SparseGroup

GroupAxes = int | tuple[int, ...]


def group_lasso(
    group_axes: GroupAxes = -2,
    *,
    weighted: bool = True,
    block: int | tuple[int, ...] | None = None,
) -> Regularizer:
    r"""Group lasso, :math:`\psi(x) = \sum_g w_g \|x_g\|_2`: whole groups vanish.

    Groups are axes. ``-2`` is one group per input channel or input neuron of a Flax
    kernel ``(..., in, out)``, ``-1`` one per filter or output neuron, ``(-2, -1)`` one
    per convolution kernel; 0 is a row of an embedding, 1 a head of a query kernel
    ``(features, heads, head_dim)``. ``block=(16, 16)`` cuts the group axes into tiles.
    ``group_lasso((), weighted=False)`` is the Euclidean norm of the whole array.

    Args:
      group_axes: The axes that enumerate the groups; every other axis is reduced.
        ``()``: the whole array is one group.
      weighted: :math:`w_g = \sqrt{|g|}`, or 1 if False.
      block: Tile lengths along ``group_axes``; the last tile may be shorter.

    Returns:
      A convex regularizer. Prox scales each group by :math:`(1 - t w_g/\|x_g\|)_+`; a
      group is exactly zero iff :math:`\|x_g\| \le t w_g`, also where both are 0.

    Raises:
      ValueError: ``block`` does not fit ``group_axes``; at use, a missing axis.

    Examples:
      >>> x = jnp.array([[3.0, 4.0], [0.3, 0.4]])
      >>> rj.group_lasso(0, weighted=False).prox(x, 2.5)
      Array([[1.5, 2. ],
             [0. , 0. ]], dtype=float32)

    References:
      Yuan & Lin, `Model selection and estimation in regression with grouped variables
      <https://doi.org/10.1111/j.1467-9868.2005.00532.x>`_, 2006.
    """
    return MagnitudePenalty(Abs(), as_groups(group_axes, weighted, block))


def sparse_group_lasso(
    group_axes: GroupAxes = -2, *, l1_ratio: float = 0.5, weighted: bool = True
) -> Regularizer:
    r"""Sparse group lasso, :math:`\rho\|x\|_1 + (1-\rho)\sum_g w_g\|x_g\|_2`.

    Args:
      group_axes: The axes that enumerate the groups; every other axis is reduced.
      l1_ratio: :math:`\rho \in [0, 1]`.
      weighted: :math:`w_g = \sqrt{|g|}`, or 1 if False.

    Returns:
      A convex regularizer; prox soft-thresholds, then shrinks the groups. Its units
      (`support`) are the groups.

    Raises:
      ValueError: ``l1_ratio`` outside [0, 1]; at use, a missing axis.

    Examples:
      >>> x = jnp.array([[3.5, 0.2], [0.3, 0.4]])
      >>> rj.sparse_group_lasso(0, weighted=False).prox(x, 1.0)
      Array([[2.5, 0. ],
             [0. , 0. ]], dtype=float32)

    References:
      Simon et al., `A sparse-group lasso
      <https://doi.org/10.1080/10618600.2012.681250>`_, 2013.
    """
    return SparseGroup(l1_ratio, as_groups(group_axes, weighted))


def group_linf(group_axes: GroupAxes = -2, *, weighted: bool = True) -> Regularizer:
    r"""The l1/linf norm, :math:`\sum_g w_g \max_{i \in g} |x_i|`.

    Args:
      group_axes: The axes that enumerate the groups; every other axis is reduced.
      weighted: :math:`w_g = \sqrt{|g|}`, or 1 if False.

    Returns:
      A convex regularizer. A group is exactly zero iff its l1 norm is at most
      :math:`t w_g`; survivors are capped at one level.

    Raises:
      ValueError: at use, a missing axis.

    Examples:
      >>> x = jnp.array([[3.0, 1.0], [0.3, -0.4]])
      >>> rj.regularizers.group_linf(0, weighted=False).prox(x, 1.0)
      Array([[2., 1.],
             [0., 0.]], dtype=float32)

    References:
      Quattoni et al., `An efficient projection for l1,infinity regularization
      <https://doi.org/10.1145/1553374.1553484>`_, 2009.
    """
    return GroupMax(as_groups(group_axes, weighted))


def group_mcp(
    group_axes: GroupAxes = -2,
    *,
    lam: float = 1.0,
    gamma: float = 3.0,
    weighted: bool = True,
) -> Regularizer:
    r"""Group MCP, :math:`\sum_g w_g\,\mathrm{mcp}(\|x_g\|_2)`; see `mcp`.

    Args:
      group_axes: The axes that enumerate the groups; every other axis is reduced.
      lam: Slope at zero.
      gamma: A group is free beyond the norm ``gamma * lam``.
      weighted: :math:`w_g = \sqrt{|g|}`, or 1 if False.

    Returns:
      A nonconvex regularizer; groups vanish as a whole, and exactly.

    Raises:
      ValueError: ``lam`` or ``gamma`` not positive; at use, a missing axis.

    Examples:
      >>> x = jnp.array([[3.0, 4.0], [0.3, 0.4]])
      >>> rj.group_mcp(0, weighted=False).prox(x, 1.0)
      Array([[3., 4.],
             [0., 0.]], dtype=float32)

    References:
      Breheny & Huang, `Group descent algorithms for nonconvex penalized linear and
      logistic regression <https://arxiv.org/abs/1209.2160>`_, 2015.
    """
    return MagnitudePenalty(MCP(lam, gamma), as_groups(group_axes, weighted))


def group_scad(
    group_axes: GroupAxes = -2,
    *,
    lam: float = 1.0,
    a: float = 3.7,
    weighted: bool = True,
) -> Regularizer:
    r"""Group SCAD, :math:`\sum_g w_g\,\mathrm{scad}(\|x_g\|_2)`; see `scad`.

    Args:
      group_axes: The axes that enumerate the groups; every other axis is reduced.
      lam: Slope at zero.
      a: A group is free beyond the norm ``a * lam``; more than 2.
      weighted: :math:`w_g = \sqrt{|g|}`, or 1 if False.

    Returns:
      A nonconvex regularizer; groups vanish as a whole, and exactly.

    Raises:
      ValueError: ``lam`` not positive or ``a`` not above 2; at use, a missing axis.
    """
    return MagnitudePenalty(SCAD(lam, a), as_groups(group_axes, weighted))


def group_l0(group_axes: GroupAxes = -2, *, weighted: bool = True) -> Regularizer:
    r"""The (weighted) number of nonzero groups; prox is a hard threshold on norms.

    Args:
      group_axes: The axes that enumerate the groups; every other axis is reduced.
      weighted: :math:`w_g = \sqrt{|g|}`, or 1 if False.

    Returns:
      A nonconvex regularizer; a group survives untouched iff
      :math:`\|x_g\|^2 > 2 t w_g`, in a metric iff :math:`\sum d x_g^2 > 2 t w_g`.

    Raises:
      ValueError: at use, a missing axis.
    """
    return MagnitudePenalty(L0(), as_groups(group_axes, weighted))


def group_lq(
    group_axes: GroupAxes = -2, *, q: float = 0.5, weighted: bool = True
) -> Regularizer:
    r"""Powers of group norms, :math:`\sum_g w_g\|x_g\|_2^q`; see `lq`.

    Args:
      group_axes: The axes that enumerate the groups; every other axis is reduced.
      q: The power, in (0, 1).
      weighted: :math:`w_g = \sqrt{|g|}`, or 1 if False.

    Returns:
      A nonconvex regularizer; groups vanish as a whole, and exactly.

    Raises:
      ValueError: ``q`` outside (0, 1); at use, a missing axis.
    """
    return MagnitudePenalty(Lq(q), as_groups(group_axes, weighted))


def group_log_sum(
    group_axes: GroupAxes = -2, *, eps: float = 0.1, weighted: bool = True
) -> Regularizer:
    r"""Group log-sum, :math:`\sum_g w_g\log(1 + \|x_g\|_2/\epsilon)`; see `log_sum`.

    Args:
      group_axes: The axes that enumerate the groups; every other axis is reduced.
      eps: :math:`\epsilon > 0`.
      weighted: :math:`w_g = \sqrt{|g|}`, or 1 if False.

    Returns:
      A nonconvex regularizer; groups vanish as a whole, and exactly.

    Raises:
      ValueError: ``eps`` not positive; at use, a missing axis.
    """
    return MagnitudePenalty(LogSum(eps), as_groups(group_axes, weighted))
