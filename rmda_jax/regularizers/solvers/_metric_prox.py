"""The prox of a group penalty in a diagonal metric, by a scalar root per group."""

import math

import jax
import jax.numpy as jnp

from rmda_jax._types import Arrays
from rmda_jax.regularizers._penalties import AffineSlope
from rmda_jax.regularizers.solvers._group_norm import first_norms, group_norms
from rmda_jax.regularizers.solvers._layout import GroupLayout
from rmda_jax.regularizers.solvers._together import GroupLasso


def as_group_lasso(
    groups: GroupLayout, slope: AffineSlope, z: Arrays, d: Arrays, level: jax.Array
) -> GroupLasso | None:
    """Return the group lasso that has the metric prox of a penalty, if one has.

    Takes what `group_metric_prox` does.
    """
    if slope.knee != math.inf:
        return None
    if slope.curvature != 0:
        # The quadratic part joins the loss: sum d (x - z)^2 + c x^2 is a square of
        # the metric d + c around d z / (d + c), but for a constant.
        c = groups.expand(level * slope.curvature, groups.each(jnp.shape, z))
        z = groups.each(lambda d, z, c: d / (d + c) * z, d, z, c)
        d = groups.each(jnp.add, d, c)
    return GroupLasso(groups, z, d, level * slope.slope)


def group_metric_prox(
    groups: GroupLayout, slope: AffineSlope, z: Arrays, d: Arrays, level: jax.Array
) -> tuple[Arrays, jax.Array | None]:
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
    problem = as_group_lasso(groups, slope, z, d, level)
    if problem is not None:
        r, n_steps = group_norms(*problem)
        return minimiser(problem, r), n_steps
    return _concave_metric_prox(groups, slope, z, d, level, level * slope.slope), None


def group_l0_metric_prox(
    groups: GroupLayout, z: Arrays, d: Arrays, level: jax.Array
) -> Arrays:
    """Return the metric prox of a count: a group costs its level, or its energy.

    Args:
      groups: The groups of ``z``.
      z: Centre.
      d: Positive metric, of the same shape.
      level: What a group that is kept costs.

    Returns:
      ``z``, 0 where half the sum of ``d z^2`` over the group is at most its level.
    """
    energy = groups.total(lambda d, z: d * jnp.square(z), d, z)
    # NaN keeps its group. What belongs to no group keeps its centre.
    keep = groups.expand(~(energy / 2 <= level), groups.each(jnp.shape, z), True)
    return groups.each(lambda keep, z: jnp.where(keep, z, 0), keep, z)


def minimiser(problem: GroupLasso, r: jax.Array) -> Arrays:
    """Return the minimiser whose groups have the norms ``r``."""
    groups, z, d, k = problem
    shift = jnp.where(r == 0, jnp.inf, k / jnp.where(r == 0, 1, r))
    # Level 0 keeps even entries so small that their squares sum to 0.
    shift = groups.expand(jnp.where(k == 0, 0, shift), groups.each(jnp.shape, z))
    x = lambda shift, d, z: jnp.where(shift == jnp.inf, 0, d / (d + shift) * z)
    return groups.each(x, shift, d, z)


def _concave_metric_prox(
    groups: GroupLayout,
    slope: AffineSlope,
    z: Arrays,
    d: Arrays,
    level: jax.Array,
    k: jax.Array,
) -> Arrays:
    r"""Return the metric prox of a penalty that is constant beyond its knee.

    Where :math:`\varphi'(r) = a + \kappa r`, stationarity reads
    :math:`(d + t\kappa)(x - \tilde z) + t a x/\|x\| = 0`: a group lasso with the metric
    :math:`d + t\kappa`, the level :math:`t a` and the same :math:`d z`. As a function
    of :math:`r`, the least loss on the sphere :math:`\|x\| = r` has a derivative that
    is concave up to the knee and negative beyond. So its minima are 0 or the smaller
    root, and the centre if that lies beyond the knee: the better of the two is the
    global minimiser, convex or not.
    """
    shapes = groups.each(jnp.shape, z)
    b = groups.each(jnp.multiply, d, z)
    curvature = groups.expand(level * slope.curvature, shapes)
    shifted = groups.each(jnp.add, d, curvature)  # the metric d + t kappa
    active = ~(groups.magnitudes(b) <= k)
    mask = groups.expand(active, shapes, False)
    # Inactive groups take b = d = 1, k = 0: root finite, gradient finite, unused.
    safe = lambda mask, x: jnp.where(mask, x, 1)
    b, safe_shifted = groups.each(safe, mask, b), groups.each(safe, mask, shifted)
    k = jnp.where(active, k, 0)
    r = first_norms(groups, b, safe_shifted, k, slope.knee)

    def point(mask, b, metric, r, k):
        return jnp.where(mask, r * b / (metric * r + k), 0)

    expanded = groups.expand(r, shapes, 1.0), groups.expand(k, shapes)
    x = groups.each(point, mask, b, safe_shifted, *expanded)

    r = jnp.minimum(groups.magnitudes(x), slope.knee)
    penalty = level * (slope.slope * r + slope.curvature * r * r / 2)
    loss = groups.total(lambda d, x, z: d * jnp.square(x - z), d, x, z) / 2 + penalty
    flat = level * slope.slope * slope.knee / 2
    is_concave = lambda metric: (metric <= 0).astype(metric.dtype)
    convex = ~groups.any_nonzero(groups.each(is_concave, shifted))
    keep = (groups.magnitudes(z) >= slope.knee) & (convex | (loss > flat))
    # What belongs to no group keeps its centre.
    return groups.each(jnp.where, groups.expand(keep, shapes, True), z, x)
