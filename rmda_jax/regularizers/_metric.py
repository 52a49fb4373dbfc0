"""The prox of a group penalty in a diagonal metric, by a scalar root per group."""

import math

import jax
import jax.numpy as jnp

from rmda_jax.regularizers._geometries import Groups
from rmda_jax.regularizers._penalties import AffineSlope
from rmda_jax.regularizers._secular import Arrays, Tied, first_radius, radius


def group_metric_prox(
    groups: Groups, slope: AffineSlope, z: jax.Array, d: jax.Array, level: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    r"""Return the metric prox of a penalty whose derivative is affine to a knee.

    Args:
      groups: The groups of ``z``.
      slope: The affine derivative of the penalty.
      z: Centre.
      d: Positive metric, of the same shape.
      level: Step size times group weight, broadcastable to the magnitudes.

    Returns:
      The minimiser, of ``z``'s shape, and after how many steps it was found; None if
      that is fixed.
    """
    k = level * slope.slope
    if slope.knee == math.inf:
        return group_lasso_metric_prox(groups, z, d, k)
    return _bent(groups, slope, z, d, level, k), None


def group_lasso_metric_prox(
    groups: Tied, z: Arrays, d: Arrays, k: jax.Array
) -> tuple[Arrays, jax.Array]:
    """Return the metric prox of the group lasso with levels ``k``, and the steps."""
    r, n_steps = radius(groups, z, d, k)
    shift = jnp.where(r == 0, jnp.inf, k / jnp.where(r == 0, 1, r))
    # Level 0 keeps even entries so small that their squares sum to 0.
    shift = groups.expand(jnp.where(k == 0, 0, shift), jax.tree.map(jnp.shape, z))
    x = lambda shift, d, z: jnp.where(shift == jnp.inf, 0, d / (d + shift) * z)
    return groups.each(x, shift, d, z), n_steps


def _bent(
    groups: Groups,
    slope: AffineSlope,
    z: jax.Array,
    d: jax.Array,
    level: jax.Array,
    k: jax.Array,
) -> jax.Array:
    r"""Return the metric prox of a penalty that is constant beyond its knee.

    Where :math:`\varphi'(r) = a + \kappa r`, stationarity reads
    :math:`(d + t\kappa)(x - \tilde z) + t a x/\|x\| = 0`: a group lasso with the metric
    :math:`d + t\kappa`, the level :math:`t a` and the same :math:`d z`. As a function
    of :math:`r`, the least loss on the sphere :math:`\|x\| = r` has a derivative that
    is concave up to the knee and negative beyond. So its minima are 0 or the smaller
    root, and the centre if that lies beyond the knee: the better of the two is the
    global minimiser, convex or not.
    """
    shape = z.shape
    b, bent = d * z, d + groups.expand(level * slope.curvature, shape)
    active = ~(groups.magnitudes(b) <= k)
    mask = groups.expand(active, shape)
    # Inactive groups take b = d = 1, k = 0: root finite, gradient finite, unused.
    b, bent_ = jnp.where(mask, b, 1), jnp.where(mask, bent, 1)
    k = jnp.where(active, k, 0)
    r = groups.expand(first_radius(groups, b, bent_, k, slope.knee), shape)
    x = jnp.where(mask, r * b / (bent_ * r + groups.expand(k, shape)), 0)

    r = jnp.minimum(groups.magnitudes(x), slope.knee)
    penalty = level * (slope.slope * r + slope.curvature * r * r / 2)
    loss = groups.reduce(jnp.sum, d * jnp.square(x - z)) / 2 + penalty
    flat = level * slope.slope * slope.knee / 2
    convex = ~groups.reduce(jnp.any, bent <= 0)
    keep = (groups.magnitudes(z) >= slope.knee) & (convex | (loss > flat))
    return jnp.where(groups.expand(keep, shape), z, x)
