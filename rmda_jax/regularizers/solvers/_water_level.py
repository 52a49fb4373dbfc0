"""The water level of a group: what the projections on l1 balls and simplices share."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from rmda_jax.regularizers.solvers._layout import GroupLayout


# Under `jit`, because an eager call would compile the loop anew every time.
@functools.partial(jax.jit, static_argnames="groups", inline=True)
def water_level(groups: GroupLayout, a: jax.Array, total: jax.Array) -> jax.Array:
    r"""Return the level above which every group holds ``total``.

    .. math:: \theta_g: \quad \sum_{i\in g} \max(a_i - \theta_g, 0) = \text{total}

    The left side is convex, piecewise linear and falling, so Newton from the level that
    counts every entry as active rises to the root in finitely many steps, without a
    sort (Michelot, 1986).

    Args:
      groups: One level per group.
      a: Array of any shape.
      total: Positive, broadcastable to the groups' magnitudes.

    Returns:
      The level of every group, shaped like the groups' magnitudes.
    """

    def newton(theta: jax.Array) -> jax.Array:
        active = a > groups.expand(theta, a.shape)
        count = groups.total(lambda flags: flags.astype(a.dtype), active)
        mass = groups.total(lambda a, flags: jnp.where(flags, a, 0), a, active)
        return jnp.where(count > 0, (mass - total) / jnp.maximum(count, 1), theta)

    def rises(state: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jnp.any(state[1] > state[0])

    size = groups.total(jnp.ones_like, a)
    start = (groups.total(lambda a: a, a) - total) / jnp.maximum(size, 1)
    constant = lax.stop_gradient((start, newton(start)))
    _, theta = lax.while_loop(
        rises, lambda s: (s[1], jnp.maximum(s[1], newton(s[1]))), constant
    )
    # One more step from the constant root carries the derivative of the root.
    return newton(lax.stop_gradient(theta))
