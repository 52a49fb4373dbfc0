r"""The least step size at which a prox is 0, where no formula says it.

A unit of magnitude r is 0 from the t on at which no :math:`y > 0` is better than 0:

.. math:: t(r) = \sup_{0 < y \le r} \frac{r y - y^2/2}{\varphi(y)}

Dinkelbach's algorithm (1967) raises a ratio by maximising its numerator minus t times
its denominator, and that maximiser is the prox at t. It is Newton's method on a convex
function of t, from the left: it rises to the root and, once near, doubles the digits.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from rmda_jax.regularizers.solvers._layout import GroupLayout

# The hardest known magnitudes need 4 in float64: `log_sum` near and far beyond the one
# from which on its prox jumps.
_RATIOS = 5
_MAX_STEPS = 32  # the hardest known groups take 11


def critical_level(
    value: Callable[[jax.Array], jax.Array],
    slope: Callable[[jax.Array], jax.Array],
    prox: Callable[[jax.Array, jax.Array], jax.Array],
    r: jax.Array,
) -> jax.Array:
    """Return the least step size at which the prox of a magnitude is 0.

    Args:
      value: The penalty of a magnitude.
      slope: Its derivative from the right.
      prox: Its prox, a global minimiser.
      r: Magnitudes.

    Returns:
      Array of ``r``'s shape; 0 where ``r`` is.
    """
    zero = r == 0
    r = jnp.where(zero, 1, r)

    def ratio(y: jax.Array) -> jax.Array:
        below = value(y)  # 0 where it underflows, as then the numerator does
        return y * (r - y / 2) / jnp.where(below == 0, 1, below)

    # The two ends: y near 0, and y = r.
    t = jnp.maximum(r / slope(jnp.zeros_like(r)), ratio(r))
    for _ in range(_RATIOS):
        y = prox(r, t)
        # At y = 0 the end is reached. Rounding may bring a ratio an ulp below t.
        t = jnp.maximum(t, ratio(jnp.where(y > 0, y, r)))
    return jnp.where(zero, 0, t)


# Under `jit`, because an eager call would compile the loop anew every time.
@functools.partial(jax.jit, static_argnames=("groups", "l1_ratio"), inline=True)
def sparse_group_level(
    groups: GroupLayout, pull: jax.Array, weights: jax.Array, l1_ratio: float
) -> jax.Array:
    r"""Return the least t at which the sparse group lasso makes each group 0.

    With the pull :math:`b = |d x|` it is the root of

    .. math:: h(t) = \|\max(b - t\rho, 0)\| - t (1 - \rho) w,

    which is convex and falls: Newton from the left rises to it.

    Args:
      groups: One root per group.
      pull: :math:`b`, not negative.
      weights: :math:`w`, positive where a group has entries.
      l1_ratio: :math:`\rho`, less than 1.

    Returns:
      One number per group, shaped like its magnitude; 0 where the group is 0.
    """
    shape = pull.shape

    def newton(t: jax.Array) -> jax.Array:
        level = groups.expand(t * l1_ratio, shape)
        left = lambda b, level: jnp.maximum(b - level, 0)
        total = groups.total(left, pull, level)
        squares = groups.total(lambda b, level: jnp.square(left(b, level)), pull, level)
        none = squares == 0
        norm = jnp.sqrt(jnp.where(none, 1, squares))
        fall = l1_ratio * total / norm + (1 - l1_ratio) * weights
        step = (norm - t * (1 - l1_ratio) * weights) / jnp.where(none, 1, fall)
        return jnp.where(none, t, t + step)

    def rises(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        t, new, n_steps = state
        ulp = jnp.finfo(t.dtype).eps
        return jnp.any(new - t > 2 * ulp * new) & (n_steps < _MAX_STEPS)

    def step(
        state: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        _, t, n_steps = state
        return t, jnp.maximum(t, newton(t)), n_steps + 1

    start = groups.total(jnp.zeros_like, pull)
    constant = lax.stop_gradient((start, newton(start)))
    _, t, _ = lax.while_loop(rises, step, (*constant, jnp.zeros((), jnp.int32)))
    # One more step from the constant root carries the derivative of the root.
    return newton(lax.stop_gradient(t))
