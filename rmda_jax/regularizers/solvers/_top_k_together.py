r"""The k largest of each of several arrays, found together: the form for GPUs.

What a kernel costs there is to be launched, and to read its array. So each pass tries
all 15 values of the next four bits at once, on all arrays, where ``_top_k.py`` tries
one bit of one array: for float32 8 passes, not 31, with one decision for all arrays.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rmda_jax.regularizers.solvers._top_k import Cut, position

_BITS = 4  # that a pass finds
_DIGITS = 2**_BITS
Flags = Callable[[jax.Array, int], jax.Array]
"""From the numbers of an array and its place in the list to a flag for each."""


def cuts_after(
    numbers: Callable[..., jax.Array], given: Sequence[Any], ks: Sequence[jax.Array]
) -> Cut:
    """Return where the ``ks`` largest numbers of each array end.

    Args:
      numbers: One array of nonnegative int32 or int64, a function of what is given. It
        is called again for every pass, so that none of the arrays is written to memory.
      given: Its arguments, a tuple for each array.
      ks: How many of each array; int32.

    Returns:
      The cuts of `_top_k.cut_after` over all axes, as vectors with an entry an array.
    """
    word = jnp.result_type(*(jax.eval_shape(numbers, *row) for row in given))
    k = jnp.stack(ks)

    def count(flags: Flags, given: Sequence[Any]) -> jax.Array:
        """Count over the axes of each array; an axis that the flags add is the last."""
        rows = [numbers(*row).astype(word) for row in given]
        found = []
        for i, x in enumerate(rows):
            axes = tuple(range(x.ndim))
            found.append(jnp.sum(flags(x, i), axis=axes, dtype=jnp.int32))
        return jnp.stack(found)

    def largest(flags: Callable[[jax.Array], Flags], fits: Any, start: jax.Array):
        def turn(n: jax.Array, found: jax.Array) -> jax.Array:
            # To XLA the arrays are those of this turn: what no turn changes, it would
            # compute before the loop, and write out.
            here, found = lax.optimization_barrier((given, found))
            one = jnp.ones((), found.dtype) << _BITS * (n_turns - 1 - n)
            digits = jnp.arange(1, _DIGITS, dtype=found.dtype)
            tried = found[:, None] + digits[None] * one
            those = fits(count(flags(tried), here)) & (tried > found[:, None])
            return found + jnp.sum(those, axis=1, dtype=found.dtype) * one

        n_turns = -(-(8 * start.dtype.itemsize - 1) // _BITS)
        return lax.fori_loop(0, n_turns, turn, start)

    # An axis for what is tried, after those of an array.
    after = lambda x, tried: jnp.expand_dims(tried, tuple(range(x.ndim)))
    at_least = lambda tried: lambda x, i: x[..., None] >= after(x, tried[i])
    values = largest(at_least, lambda n: n >= k[:, None], jnp.zeros_like(k, dtype=word))
    room = k - count(lambda x, i: x > values[i], given)
    tied = count(lambda x, i: x == values[i], given)

    def among_ties() -> jax.Array:
        def before(tried: jax.Array) -> Flags:
            place = lambda x: position(x.shape, tuple(range(x.ndim)))[..., None]
            first = lambda x, i: place(x) < after(x, tried[i])
            return lambda x, i: (x == values[i])[..., None] & first(x, i)

        return largest(before, lambda n: n <= room[:, None], jnp.zeros_like(k))

    # Usually there are no ties at the k-th largest.
    everywhere = lambda: jnp.full_like(k, jnp.iinfo(jnp.int32).max)
    return Cut(values, lax.cond(jnp.any(tied > room), among_ties, everywhere))
