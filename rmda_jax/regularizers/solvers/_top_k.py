"""The k largest of many, by reductions alone: no sort, no ravel, any sharding."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike


# Under `jit`, because an eager call would compile the loop anew every time.
@functools.partial(jax.jit, static_argnames="axes", inline=True)
def keep_largest(score: jax.Array, k: ArrayLike, axes: tuple[int, ...]) -> jax.Array:
    """Flag the ``k`` largest scores over ``axes``; of equal ones the first in C order.

    The bits of nonnegative floats order like integers, so the k-th largest is found by
    bisection on the bits, one counting pass each; a second bisection on the position
    shares the last places among ties.

    Args:
      score: Nonnegative float32 or float64 array.
      k: How many to keep for every index of the other axes.
      axes: Nonnegative axes to select over.

    Returns:
      Boolean array of ``score``'s shape with exactly ``min(k, n)`` flags per selection.
    """
    word = jnp.int64 if score.dtype == jnp.float64 else jnp.int32
    width = 8 * score.dtype.itemsize
    bits = lax.bitcast_convert_type(score, word)

    def count(flags: jax.Array) -> jax.Array:
        return jnp.sum(flags, axis=axes, keepdims=True, dtype=jnp.int32)

    def largest(fits, bound: jax.Array, steps: int) -> jax.Array:
        """Bisect from the top bit for the largest number that still ``fits``."""

        def step(i, found):
            candidate = found | (jnp.ones((), found.dtype) << (steps - 1 - i))
            return jnp.where(fits(candidate), candidate, found)

        return lax.fori_loop(0, steps, step, bound)

    start = jnp.zeros_like(count(bits >= 0))
    threshold = largest(lambda b: count(bits >= b) >= k, start.astype(word), width - 1)
    above, tied = bits > threshold, bits == threshold
    position = _position(score.shape, axes)
    room = k - count(above)
    length = math.prod(score.shape[axis] for axis in axes)

    def among_ties(_):
        fits = lambda p: count(tied & (position < p)) <= room
        return largest(fits, start, length.bit_length())

    # Usually there are no ties at the threshold.
    everywhere = lambda _: jnp.full_like(start, length)
    choose = jnp.any(count(tied) > room)
    cut = lax.cond(choose, among_ties, everywhere, None)
    return above | (tied & (position < cut))


def _position(shape: tuple[int, ...], axes: tuple[int, ...]) -> jax.Array:
    """Number the entries of every selection in C order, without reshaping."""
    position = jnp.zeros(shape, jnp.int32)
    for axis in axes:
        position = position * shape[axis] + lax.broadcasted_iota(jnp.int32, shape, axis)
    return position
