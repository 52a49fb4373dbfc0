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
