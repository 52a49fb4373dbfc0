"""The k largest of many, by reductions alone: no sort, no ravel, any sharding."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike


class Cut(NamedTuple):
    """Where the k largest of many numbers end, in C order among equals."""

    value: jax.Array  # the k-th largest number
    end: jax.Array  # int32: of its equals, those at positions before this are taken


# Under `jit`, because an eager call would compile the loop anew every time.
@functools.partial(jax.jit, static_argnames="axes", inline=True)
def keep_largest(score: jax.Array, k: ArrayLike, axes: tuple[int, ...]) -> jax.Array:
    """Flag the ``k`` largest scores over ``axes``; of equal ones the first in C order.

    Args:
      score: Nonnegative float32 or float64 array.
      k: How many to keep for every index of the other axes.
      axes: Nonnegative axes to select over.

    Returns:
      Boolean array of ``score``'s shape with exactly ``min(k, n)`` flags per selection.
    """
    word = jnp.int64 if score.dtype == jnp.float64 else jnp.int32
    bits = lax.bitcast_convert_type(score, word)
    return before(cut_after(bits, k, axes), bits, axes)


def before(cut: Cut, numbers: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Flag the numbers before a cut over ``axes``."""
    first = position(numbers.shape, axes) < cut.end
    return (numbers > cut.value) | ((numbers == cut.value) & first)


def cut_after(numbers: jax.Array, k: ArrayLike, axes: tuple[int, ...]) -> Cut:
    """Return where the ``k`` largest end, of length 1 along ``axes``.

    The k-th largest is found by bisection on the bits, one counting pass each; a second
    bisection on the position shares the last places among ties.

    Args:
      numbers: Nonnegative array of int32 or int64; the bits of nonnegative floats order
        like these.
      k: As in `keep_largest`.
      axes: As in `keep_largest`.
    """

    def count(flags: jax.Array) -> jax.Array:
        return jnp.sum(flags, axis=axes, keepdims=True, dtype=jnp.int32)

    def largest(fits, bound: jax.Array, steps: int) -> jax.Array:
        """Bisect from the top bit for the largest number that still ``fits``."""

        def step(i, found):
            candidate = found | (jnp.ones((), found.dtype) << (steps - 1 - i))
            return jnp.where(fits(candidate), candidate, found)

        return lax.fori_loop(0, steps, step, bound)

    start = jnp.zeros_like(count(numbers >= 0))
    width = 8 * numbers.dtype.itemsize - 1
    fits = lambda b: count(numbers >= b) >= k
    threshold = largest(fits, start.astype(numbers.dtype), width)
    tied = numbers == threshold
    room = k - count(numbers > threshold)
    length = math.prod(numbers.shape[axis] for axis in axes)

    def among_ties(_):
        place = position(numbers.shape, axes)
        fits = lambda p: count(tied & (place < p)) <= room
        return largest(fits, start, length.bit_length())

    # Usually there are no ties at the threshold.
    everywhere = lambda _: jnp.full_like(start, length)
    choose = jnp.any(count(tied) > room)
    return Cut(threshold, lax.cond(choose, among_ties, everywhere, None))


def position(shape: tuple[int, ...], axes: tuple[int, ...]) -> jax.Array:
    """Number the entries of every selection in C order, without reshaping."""
    place = jnp.zeros(shape, jnp.int32)
    for axis in axes:
        place = place * shape[axis] + lax.broadcasted_iota(jnp.int32, shape, axis)
    return place
