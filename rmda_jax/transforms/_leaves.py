"""The loop over the leaves of a tree that every transformation shares."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rmda_jax.specs._rules import Bound


def map_leaves(
    fn: Callable[..., tuple[jax.Array, ...]],
    n_out: int,
    bounds: Sequence[Bound],
    *trees: Any,
) -> list[Any]:
    """Call ``fn(bound, *leaves)`` for every leaf and sort what it returns into trees.

    Args:
      fn: Returns a tuple of ``n_out`` arrays.
      n_out: How many; a tree may have no leaves to tell.
      bounds: What acts on each leaf, in flattening order.
      *trees: Trees with as many leaves as there are bounds; the results take the
        structure of the first.

    Returns:
      ``n_out`` trees.
    """
    columns = ([jnp.asarray(x) for x in jax.tree.leaves(tree)] for tree in trees)
    rows = [fn(bound, *row) for bound, *row in zip(bounds, *columns, strict=True)]
    treedef = jax.tree.structure(trees[0])
    return [treedef.unflatten([row[i] for row in rows]) for i in range(n_out)]


def map_leaves_in_turn(
    fn: Callable[..., tuple[jax.Array | None, *tuple[jax.Array, ...]]],
    n_out: int,
    bounds: Sequence[Bound],
    *trees: Any,
) -> list[Any]:
    """As `map_leaves`, one leaf after another, so that they share temporaries.

    XLA orders only what depends on something. Left alone it computes the metrics of all
    leaves before the first prox, and holds them all: 8 bytes per parameter, whose fresh
    pages take longer to map than everything else to compute. So each leaf is given a
    zero that is known only once the prox of the leaf before is done.

    Args:
      fn: Called as ``fn(zero, bound, *leaves)``, returns a count of steps that is known
        when the work is done (None: no need to wait for it) and ``n_out`` arrays. It
        adds the zero to something that all its temporaries depend on.
      n_out: As in `map_leaves`.
      bounds: As in `map_leaves`.
      *trees: As in `map_leaves`.

    Returns:
      ``n_out`` trees.
    """
    zero = jnp.zeros((), jnp.int32)

    def in_turn(bound: Bound, *leaves: jax.Array) -> tuple[jax.Array, ...]:
        nonlocal zero
        n_steps, *arrays = fn(zero, bound, *leaves)
        if n_steps is not None:
            zero = jnp.minimum(n_steps, 0)  # which XLA cannot know to be 0
        return tuple(arrays)

    return map_leaves(in_turn, n_out, bounds, *trees)
