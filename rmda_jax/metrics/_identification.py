"""Has the structure settled, and is it the right one?"""

from typing import Any

import jax
import jax.numpy as jnp

from rmda_jax._types import wide_dtype
from rmda_jax.specs._names import leaf_names, leaves_in_order_of
from rmda_jax.specs._resolve import RegularizerSpec
from rmda_jax.transforms._structured import iterate_parts

_NO_MEAN_GRADIENT = (
    "this state holds no averaged gradient, which the certificate is about: only those "
    "of rmda and ramda do. Compute a gradient at the params, on as much data as you "
    "can, and ask `Regularizer.subgradient_distance(x, -gradient, strength)` or "
    "`Regularizer.margin`."
)


def support_distance(first: Any, second: Any) -> jax.Array:
    """Return how many units are active in one support and not in the other.

    Args:
      first: Tree of boolean arrays, as `RegularizerMap.support` gives it.
      second: Another of the same params; leaves are matched by name.

    Returns:
      Scalar, int32: the Hamming distance, 0 iff the structures are the same.

    Raises:
      ValueError: the trees differ in a name or in a shape.

    Examples:
      >>> rj.metrics.support_distance(jnp.array([True, False]), jnp.array([True, True]))
      Array(1, dtype=int32)
    """
    remedy = "Pass supports of the same params."
    demand = "both supports must have the same names"
    others = leaves_in_order_of(first, second, demand, remedy)
    total = jnp.zeros((), jnp.int32)
    for name, a, b in zip(
        leaf_names(first), jax.tree.leaves(first), others, strict=True
    ):
        if jnp.shape(a) != jnp.shape(b):
            raise ValueError(
                f"both supports must have as many units, got {jnp.shape(a)} and "
                f"{jnp.shape(b)} for parameter '{name}'. {remedy}"
            )
        total += jnp.sum(a != b, dtype=jnp.int32)
    return total


def stable_since(supports: Any) -> jax.Array:
    """Return the first index from which on a recorded support equals its last one.

    Args:
      supports: Tree of boolean arrays with a leading axis of time, for instance the
        stacked outputs of a scan.

    Returns:
      Scalar, int32; 0 if it never changed.

    Raises:
      ValueError: there is nothing recorded.

    Examples:
      >>> supports = jnp.array([[True, True], [True, False], [True, False]])
      >>> rj.metrics.stable_since(supports)
      Array(1, dtype=int32)
    """
    leaves = jax.tree.leaves(supports)
    if not leaves or not leaves[0].shape[0]:
        raise ValueError("`supports` must hold at least one support, got none.")
    length = leaves[0].shape[0]
    differs = jnp.zeros(length, bool)
    for leaf in leaves:
        differs |= jnp.any(leaf != leaf[-1:], axis=tuple(range(1, leaf.ndim)))
    return jnp.max(jnp.where(differs, jnp.arange(1, length + 1), 0)).astype(jnp.int32)


def update_stable_since(
    previous: Any, current: Any, since: jax.Array, step: jax.Array
) -> jax.Array:
    """Update the step since which the support has not changed, by the supports of two.

    For a loop or a scan that keeps only the previous support. `stable_since` takes all
    supports at once.

    Args:
      previous: Support at the step before, as `structured_support` gives it.
      current: Support now.
      since: The value so far; start with 0.
      step: The current step.

    Returns:
      ``step`` if the support changed, else ``since``; int32.

    Raises:
      ValueError: as in `support_distance`.

    Examples:
      >>> before, now = jnp.array([True, False]), jnp.array([True, True])
      >>> rj.metrics.update_stable_since(before, now, since=0, step=7)
      Array(7, dtype=int32)
    """
    changed = support_distance(previous, current) > 0
    return jnp.where(changed, step, since).astype(jnp.int32)


def stationarity(opt_state: Any, regularizer: RegularizerSpec) -> jax.Array:
    r"""Return how far the structured iterate is from stationary.

    .. math:: \operatorname{dist}(-\bar G_t, \lambda\,\partial\psi(\hat W_t))

    with the averaged gradient :math:`\bar G_t = V_t/\alpha_t`, which converges to the
    gradient at the limit: a certificate from the optimizer state alone, without another
    pass over data. Leaves without a regularizer contribute :math:`\|\bar G_t\|`.

    For the true gradient the distance is at most this plus
    :math:`\|\bar G_t - \nabla f(\hat W_t)\|`. The average remembers where the stage
    began: in a long stage at a constant learning rate the certificate goes to zero,
    like one over the growing step, before the iterate has come to rest; after a restart
    it forgets.

    Args:
      opt_state: State of `rmda` after at least one update, wrapped or not.
      regularizer: The one the transformation was built with.

    Returns:
      Scalar. Exact or a lower bound, leaf by leaf or tie by tie, as
      `Regularizer.subgradient_distance` says.

    Raises:
      TypeError, ValueError: as in `structured_params`.
    """
    total = jnp.zeros(())
    for acting, x, v, strength in _certificates(opt_state, regularizer):
        if acting is None:
            square = jnp.sum(jnp.square(v))
        else:
            square = jnp.square(acting.subgradient_distance(x, v, strength))
        total += square.astype(total.dtype)
    return jnp.sqrt(total)


def margin(opt_state: Any, regularizer: RegularizerSpec) -> jax.Array:
    r"""Return how safely the zero groups stay zero, by the averaged gradient.

    .. math:: \min_{g:\, \hat W_g = 0} 1 - \frac{\|\bar G_g\|}{\lambda w_g\varphi'(0)}

    Positive: the nondegeneracy condition of the identification theorem holds at the
    averaged gradient. Near 0: some group may come back.

    Args:
      opt_state: State of `rmda` after at least one update, wrapped or not.
      regularizer: The one the transformation was built with.

    Returns:
      Scalar, at most 1; infinite when no unit is zero.

    Raises:
      NotImplementedError: a regularizer has no zero units.
      TypeError, ValueError: as in `structured_params`.
    """
    margins = [
        acting.margin(x, v, strength)
        for acting, x, v, strength in _certificates(opt_state, regularizer)
        if acting is not None
    ]
    return jnp.min(jnp.stack([jnp.asarray(jnp.inf), *margins]))


def _certificates(opt_state: Any, regularizer: RegularizerSpec):
    """Yield per part: what acts, the structured iterate, minus gradient, strength."""
    for part in iterate_parts(opt_state, regularizer)[0]:
        if not jax.tree.leaves(part.mean_gradient):
            raise TypeError(_NO_MEAN_GRADIENT)
        x = part.structured()
        v = jax.tree.map(
            lambda g, x: -g.astype(wide_dtype(x.dtype)), part.mean_gradient, x
        )
        yield part.rule.regularizer, x, v, part.strength
