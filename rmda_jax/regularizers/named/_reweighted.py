"""The group lasso whose weights are chosen anew: one convex problem after another."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from rmda_jax.regularizers._axes import as_axes
from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._checks import check_parameter
from rmda_jax.regularizers._groups import as_groups
from rmda_jax.regularizers._magnitude import MagnitudePenalty
from rmda_jax.regularizers._penalties import Abs
from rmda_jax.regularizers._weighted_groups import WeightedGroups
from rmda_jax.regularizers.named._groups import GroupAxes


def weighted_group_lasso(weights: Any, group_axes: GroupAxes = -2) -> Regularizer:
    r"""Group lasso with given weights, :math:`\psi(x) = \sum_g w_g \|x_g\|_2`.

    With `reweighting` it is the group lasso that is reweighted after every round of
    training, which shrinks large groups less.

    Args:
      weights: :math:`w_g > 0`: an array of the support's shape, which is the lengths
        of the group axes in the array's order. Traced weights are for regularizers that
        are made inside of a compiled function: another round then compiles nothing.
        They cannot be checked or hashed.
      group_axes: As in `group_lasso`; ``(-1,)`` on vectors makes every entry a group.

    Returns:
      A convex regularizer.

    Raises:
      ValueError: a weight is not positive and finite; at use, a missing axis or another
        number of groups.

    Examples:
      >>> x = jnp.array([[3.0, 4.0], [0.3, 0.4]])
      >>> rj.regularizers.weighted_group_lasso([2.5, 0.25], 0).prox(x, 1.0)
      Array([[1.5 , 2.  ],
             [0.15, 0.2 ]], dtype=float32)
    """
    axes = as_axes(group_axes)
    if isinstance(weights, Tracer):
        return MagnitudePenalty(Abs(), WeightedGroups(axes, given=weights))
    table = np.asarray(weights, float)
    if not (np.isfinite(table) & (table > 0)).all():
        raise ValueError(f"`weights` must be positive and finite, got {weights}.")
    given = WeightedGroups(axes, given=_as_tuples(table.tolist()))
    return MagnitudePenalty(Abs(), given)


def reweighting(
    x: jax.Array, group_axes: GroupAxes = -2, *, eps: float = 0.1, weighted: bool = True
) -> jax.Array:
    r"""Return the weights of the next round of the reweighted group lasso.

    .. math:: w_g = \frac{v_g}{\|x_g\|_2 + \epsilon}, \quad
        v_g = \sqrt{|g|} \text{ or } 1

    The weighted group lasso with them is, up to a constant, the tangent at x of
    `group_log_sum`, :math:`\sum_g v_g \log(1 + \|x_g\|_2/\epsilon)`. That is concave in
    the norms, and so nowhere above: a round that lowers the loss plus this lasso lowers
    the loss plus that penalty as well. The strength is the same.

    Args:
      x: Real floating array: what the last round found.
      group_axes: As in `group_lasso`.
      eps: :math:`\epsilon > 0`, about the norm from which on a group counts as large.
      weighted: :math:`v_g = \sqrt{|g|}`, or 1 if False.

    Returns:
      Array of the support's shape. May be called under `jax.jit`.

    Raises:
      ValueError: ``eps`` is not positive; a missing axis.

    Examples:
      >>> x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
      >>> rj.regularizers.reweighting(x, 0, eps=1.0, weighted=False)
      Array([0.16666667, 1.        ], dtype=float32)

    References:
      Candès, Wakin & Boyd, `Enhancing sparsity by reweighted l1 minimization
      <https://arxiv.org/abs/0711.1612>`_, 2008: of entries, without the factor v.
    """
    check_parameter("eps", eps, above=0, finite=True)
    groups = as_groups(group_axes, weighted)
    groups.check(x.shape)
    weights = jnp.asarray(groups.weights(x.shape), x.dtype)
    return groups.squeezed(weights / (groups.magnitudes(x) + eps), x.shape)


def _as_tuples(rows: Any) -> Any:
    return tuple(map(_as_tuples, rows)) if isinstance(rows, list) else rows
