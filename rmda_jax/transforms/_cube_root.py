r"""A cube root that costs a few multiplications.

`jax.numpy.cbrt` is slow on CPU, one library call per entry (``docs/performance.md``).
Here the bits of a float32, read as an integer, approximate its logarithm: a third of
it, negated, is a first guess of :math:`y = x^{-1/3}`, within 3.5 %. Two steps of third
order, without a division, leave only rounding errors; then :math:`\sqrt[3] x = x y^2`,
and a Newton step corrects the last bits.
"""

import jax
import jax.numpy as jnp
from jax import lax

# 4/3 of the bits of 1.0, less an offset that minimises the largest error of the guess.
_GUESS = 0x54A2329C


@jax.custom_jvp
def cube_root(x: jax.Array) -> jax.Array:
    r"""Return :math:`\sqrt[3]x` of :math:`x \ge 0`, to one unit in the last place.

    Below 1e-30, whose remainders are subnormal, to four.
    """
    if x.dtype != jnp.float32:
        return jnp.cbrt(x)
    third = lax.bitcast_convert_type(x, jnp.int32).astype(x.dtype) / 3
    y = lax.bitcast_convert_type(_GUESS - third.astype(jnp.int32), x.dtype)
    for _ in range(2):
        # y <- y (1 - gap)^(-1/3), to second order in the gap
        gap = 1 - x * y * y * y
        y += y * gap * (1 / 3 + gap * (2 / 9))
    root = x * y * y
    # Newton's step for root^3 = x, with 1 / (3 root^2) = y^2 / 3
    root += (x - root * root * root) * (y * y) / 3
    return jnp.where((x == 0) | (x == jnp.inf), x, root)


@cube_root.defjvp
def _cube_root_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    root = cube_root(x)
    return root, dx / (3 * root * root)
