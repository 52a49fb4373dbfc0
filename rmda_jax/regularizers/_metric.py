r"""The prox of a group penalty in a diagonal metric, by a scalar root per group.

With centre :math:`z`, metric :math:`d`, level :math:`k` and :math:`b = d z`, the group
lasso :math:`\min_x \tfrac12\sum d (x - z)^2 + k\|x\|` is solved by :math:`x = 0` if
:math:`\|b\| \le k`, and else by :math:`x = r b / (d r + k)` where :math:`r = \|x\|` is
the root of :math:`\phi(r)^{-1/2} = 1`, :math:`\phi(r) = \sum b^2 / (d r + k)^2`. That
function is increasing and concave: Newton from anywhere lands left of the root and
then rises to it, quadratically.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from rmda_jax.regularizers._geometries import Groups
from rmda_jax.regularizers._penalties import AffineSlope

_NEWTON_STEPS = 12


def group_metric_prox(
    groups: Groups, slope: AffineSlope, b: jax.Array, d: jax.Array, level: jax.Array
) -> jax.Array:
    r"""Return the metric prox of a penalty whose derivative is affine to a knee.

    Where :math:`\varphi'(r) = a + \kappa r`, stationarity reads
    :math:`(d + t\kappa)(x - \tilde z) + t a x/\|x\| = 0`: a group lasso with the metric
    :math:`d + t\kappa`, the level :math:`t a` and the same :math:`b`. Beyond the knee
    nothing shrinks. As a function of :math:`r`, the least loss on the sphere
    :math:`\|x\| = r` has a derivative that is concave up to the knee and negative
    beyond. So its minima are 0 or the smaller root, and the centre if that lies beyond
    the knee: the better of the two is the global minimiser, convex or not.

    Args:
      groups: The groups of ``b``.
      slope: The affine derivative of the penalty.
      b: Metric times centre.
      d: Positive metric, of the same shape.
      level: Step size times group weight, broadcastable to the magnitudes.

    Returns:
      The minimiser, of ``b``'s shape.
    """
    shape = b.shape
    k = level * slope.slope
    active = ~(groups.magnitudes(b) <= k)
    if slope.knee == math.inf:
        return _group_lasso(groups, b, d, k, active)
    bent = d + groups.expand(level * slope.curvature, shape)
    x = _group_lasso(groups, b, bent, k, active, slope.knee)
    z = b / d
    r = jnp.minimum(groups.magnitudes(x), slope.knee)
    penalty = level * (slope.slope * r + slope.curvature * r * r / 2)
    loss = groups.reduce(jnp.sum, d * jnp.square(x - z)) / 2 + penalty
    flat = level * slope.slope * slope.knee / 2
    convex = ~groups.reduce(jnp.any, bent <= 0)
    keep = (groups.magnitudes(z) >= slope.knee) & (convex | (loss > flat))
    return jnp.where(groups.expand(keep, shape), z, x)


# Called eagerly, a loop of its own would be compiled anew at every call.
@functools.partial(jax.jit, static_argnames=("groups", "knee"), inline=True)
def _group_lasso(
    groups: Groups,
    b: jax.Array,
    d: jax.Array,
    k: jax.Array,
    active: jax.Array,
    knee: float = math.inf,
) -> jax.Array:
    """Return the smaller stationary point; before a knee ``d`` may be negative."""
    shape = b.shape
    mask = groups.expand(active, shape)
    # Inactive groups take b = d = 1, k = 0: root finite, gradient finite, unused.
    b, d, k = jnp.where(mask, b, 1), jnp.where(mask, d, 1), jnp.where(active, k, 0)

    def total(x: jax.Array) -> jax.Array:
        return groups.reduce(jnp.sum, x)

    def newton(r: jax.Array) -> jax.Array:
        denominator = d * groups.expand(r, shape) + groups.expand(k, shape)
        w = jnp.square(b / denominator)
        m0, m1 = total(w), total(w * d / denominator)
        return jnp.clip(r + (jnp.sqrt(m0) - 1) * m0 / m1, lower, knee)

    norm = groups.magnitudes(b)
    # The first step from 0. Dividing before squaring keeps within float32's range.
    mean = total(d * jnp.square(b / groups.expand(norm, shape)))
    lower = (norm - k) / mean
    if knee == math.inf:
        upper = groups.magnitudes(b / d) * (1 - k / norm)
        start = jnp.sqrt(lower * upper)
    else:
        # Only from the left does Newton rise to the smaller of two roots.
        start = lower = jnp.where(mean <= 0, 0, jnp.minimum(lower, knee))
    r = lax.fori_loop(0, _NEWTON_STEPS, lambda _, r: newton(r), start)
    # One more step from the constant root carries the derivative of the root.
    r = groups.expand(newton(lax.stop_gradient(r)), shape)
    return jnp.where(mask, r * b / (d * r + groups.expand(k, shape)), 0)
