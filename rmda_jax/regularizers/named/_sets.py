"""The named feasible sets: convex ones, and bounds on the number of units."""

import numbers

from rmda_jax.regularizers._axes import as_axes
from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._counts import NM, MaxRank, TopGroups, TopK
from rmda_jax.regularizers._geometries import as_singular_values
from rmda_jax.regularizers._groups import as_groups
from rmda_jax.regularizers._l_half_ball import LHalfBall
from rmda_jax.regularizers._sets import Ball, Box


def box(lower: float, upper: float) -> Regularizer:
    r"""Indicator of the box: every entry lies in [lower, upper].

    ``box(0, jnp.inf)`` is the nonnegative orthant.

    .. math:: \psi(x) = 0 \text{ if } l \le x_i \le u \text{ for all } i,
        \ \infty \text{ otherwise}

    Args:
      lower: l; may be minus infinity.
      upper: u; may be infinity.

    Returns:
      A convex, separable indicator for arrays of any shape; prox clips.

    Raises:
      ValueError: ``upper`` is below ``lower``.

    Examples:
      >>> rj.box(-1.0, 1.0).prox(jnp.array([0.5, -3.0]), 0.1)
      Array([ 0.5, -1. ], dtype=float32)
    """
    return Box(float(lower), float(upper))


def l1_ball(radius: float = 1.0, group_axes: int | tuple[int, ...] = ()) -> Regularizer:
    r"""Indicator of :math:`\|x_g\|_1 \le r` for every group g.

    Args:
      radius: r > 0.
      group_axes: Axes that enumerate the groups; ``()``: the whole array is one.

    Returns:
      A convex indicator. Prox is a soft threshold whose level meets the radius.

    Raises:
      ValueError: ``radius`` is not positive.

    Examples:
      >>> rj.regularizers.l1_ball(1.0).prox(jnp.array([2.0, -1.0]), 0.1)
      Array([1., 0.], dtype=float32)

    References:
      Duchi et al., `Efficient projections onto the l1-ball
      <https://doi.org/10.1145/1390156.1390191>`_, 2008.
    """
    return Ball("l1_ball", radius, as_groups(group_axes, weighted=False))


def l2_ball(radius: float = 1.0, group_axes: int | tuple[int, ...] = ()) -> Regularizer:
    r"""Indicator of :math:`\|x_g\|_2 \le r` for every group g.

    Args:
      radius: r > 0.
      group_axes: Axes that enumerate the groups; ``()``: the whole array is one.

    Returns:
      A convex indicator. Prox scales the groups outside back to the sphere.

    Raises:
      ValueError: ``radius`` is not positive.

    Examples:
      >>> rj.regularizers.l2_ball(1.0).prox(jnp.array([3.0, -4.0]), 0.1)
      Array([ 0.6, -0.8], dtype=float32)
    """
    return Ball("l2_ball", radius, as_groups(group_axes, weighted=False))


def simplex(radius: float = 1.0, group_axes: int | tuple[int, ...] = ()) -> Regularizer:
    r"""Indicator of :math:`\{x_g \ge 0, \sum x_g = r\}` for every group g.

    Args:
      radius: r > 0.
      group_axes: Axes that enumerate the groups; ``()``: the whole array is one.

    Returns:
      A convex indicator. Prox is :math:`\max(x - \theta, 0)`.

    Raises:
      ValueError: ``radius`` is not positive.

    Examples:
      >>> rj.regularizers.simplex().prox(jnp.array([2.0, 0.5, 1.5]), 0.1)
      Array([0.75, 0.  , 0.25], dtype=float32)

    References:
      Duchi et al., `Efficient projections onto the l1-ball
      <https://doi.org/10.1145/1390156.1390191>`_, 2008.
    """
    return Ball("simplex", radius, as_groups(group_axes, weighted=False))


def top_k(k: int, group_axes: int | tuple[int, ...] = ()) -> Regularizer:
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


def top_groups(
    k: int | float,
    group_axes: int | tuple[int, ...] = -2,
    *,
    block: int | tuple[int, ...] | None = None,
) -> Regularizer:
    r"""Indicator of at most k nonzero groups in the array.

    .. math:: \psi(x) = 0 \text{ if } |\{g : x_g \ne 0\}| \le k,
        \ \infty \text{ otherwise}

    Args:
      k: How many groups survive, an int; or a float, the share of the groups in
        (0, 1], rounded to the nearest number but to no less than one group: 1 is one
        group, 1.0 are all. Of ties the first in C order survive.
      group_axes: The axes that enumerate the groups, as in `group_lasso`.
      block: Tile lengths along ``group_axes``; the last tile may be shorter.

    Returns:
      A nonconvex indicator. Prox keeps the k groups of the largest norm as they are
      and zeros the rest; in a metric those of the largest :math:`\sum d x_g^2`, which
      is exact as well. Sizes do not weigh: the nearest point is sought.

    Raises:
      TypeError: ``k`` is no number.
      ValueError: ``k`` is negative, or a share outside (0, 1]; ``block`` does not fit
        ``group_axes``; at use, a missing axis.

    Examples:
      >>> x = jnp.array([[3.0, 4.0], [0.3, 0.4], [1.0, 0.0]])
      >>> rj.regularizers.top_groups(1, 0).prox(x, 0.1)
      Array([[3., 4.],
             [0., 0.],
             [0., 0.]], dtype=float32)
      >>> two_thirds = rj.regularizers.top_groups(2 / 3, 0)
      >>> two_thirds.support(two_thirds.prox(x, 0.1))
      Array([ True, False,  True], dtype=bool)
    """
    is_share = isinstance(k, numbers.Real) and not isinstance(k, numbers.Integral)
    return TopGroups(k, is_share, as_groups(group_axes, block=block))


def max_rank(k: int, matrix_axes: tuple[int, int] = (-2, -1)) -> Regularizer:
    r"""Indicator of rank at most k.

    .. math:: \psi(X) = 0 \text{ if } \operatorname{rank} X \le k,
        \ \infty \text{ otherwise}

    Args:
      k: How many singular values survive, of every matrix.
      matrix_axes: Rows and columns; the other axes are a batch of matrices.

    Returns:
      A nonconvex indicator for arrays of rank 2 or more. Prox keeps the k largest
      singular values, by an SVD of the whole matrix at every step: both matrix axes
      must be unsharded, and gradients through it may be NaN. In a metric the nearest
      matrix is NP-hard to find; `Regularizer.metric_prox` iterates, and promises a
      matrix of rank at most k that is stationary up to its tolerance.

    Raises:
      TypeError: ``k`` is no integer.
      ValueError: ``k`` is negative, there are not two axes; at use, a missing axis.

    Examples:
      >>> rj.regularizers.max_rank(1).prox(jnp.diag(jnp.array([3.0, 1.0])), 0.1)
      Array([[3., 0.],
             [0., 0.]], dtype=float32)

    References:
      Eckart & Young, `The approximation of one matrix by another of lower rank
      <https://doi.org/10.1007/BF02288367>`_, 1936. Gillis & Glineur, `Low-rank matrix
      approximation with weights or missing data is NP-hard
      <https://arxiv.org/abs/1012.0197>`_, 2011.
    """
    return MaxRank(k, as_singular_values(matrix_axes))


def n_m(n: int, m: int, axis: int = -1) -> Regularizer:
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


def l_half_ball(radius: float = 1.0) -> Regularizer:
    r"""Indicator of :math:`\{\sum_i |x_i|^{1/2} \le r\}` over the whole array.

    Args:
      radius: r > 0.

    Returns:
      A nonconvex indicator; prox is the nearest point of the set, in a time quadratic
      in the size of the array, with linear memory. It ravels the array: keep it
      unsharded.

    Raises:
      ValueError: ``radius`` is not positive.

    Examples:
      >>> rj.regularizers.l_half_ball(1.0).prox(jnp.array([2.0, 0.1]), 0.1).round(3)
      Array([1., 0.], dtype=float32)
    """
    return LHalfBall(radius)
