"""The loop over the leaves of a tree that every transformation shares.

A step of one leaf is a generator: it computes up to its prox, asks for that with a
``yield``, and gets back the structured leaf. What acts on a leaf it need not know. That
is how groups that span leaves are possible: all of their leaves get as far as asking
before any of them goes on.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from rmda_jax.specs._leaf_rules import LeafRule
from rmda_jax.transforms._common import state_leaves


class Prox(NamedTuple):
    """What a leaf asks for: the prox of ``center(*operands)``."""

    center: Callable[..., jax.Array]
    operands: tuple[jax.Array, ...]
    step_size: jax.Array  # without the multiplier of a rule
    metric: jax.Array | None = None
    options: Mapping[str, Any] = MappingProxyType({})  # of `Regularizer.metric_prox`


Step: TypeAlias = Generator[Prox, jax.Array, tuple[jax.Array, ...]]


def map_leaves(
    step: Callable[..., Step],
    n_out: int,
    bounds: Sequence[LeafRule],
    *trees: Any,
    then: Callable[[jax.Array | None], None] = lambda n_steps: None,
) -> list[Any]:
    """Take ``step(*leaves)`` for every leaf and sort what it returns into trees.

    Args:
      step: Yields one `Prox`, is sent the result, and returns ``n_out`` arrays. Where
        no regularizer acts the result is the centre.
      n_out: How many; a tree may have no leaves to tell.
      bounds: What acts on each leaf, in flattening order.
      *trees: The params, and trees like them: what they hold of one leaf is found by
        its name. The results take the structure of the params.
      then: Called after each prox with the steps that it took, None if it took none.

    Returns:
      ``n_out`` trees.

    Raises:
      ValueError: the trees differ in a name or in a shape.
    """
    columns = [state_leaves(trees[0], tree) for tree in trees]
    leaves = list(zip(*columns, strict=True))
    rows: list[Any] = [None] * len(leaves)
    for i, bound in enumerate(bounds):
        if i != min(bound.leaves):
            continue  # the first leaf of a tie has seen to it
        steps = [step(*leaves[j]) for j in bound.leaves]
        results, n_steps = _answer(bound, [next(one) for one in steps])
        for j, one, result in zip(bound.leaves, steps, results, strict=True):
            rows[j] = _finish(one, result)
        then(n_steps)
    treedef = jax.tree.structure(trees[0])
    return [treedef.unflatten([row[i] for row in rows]) for i in range(n_out)]


def map_leaves_in_turn(
    step: Callable[..., Step], n_out: int, bounds: Sequence[LeafRule], *trees: Any
) -> list[Any]:
    """As `map_leaves`, one leaf after another, so that they share temporaries.

    XLA orders only what depends on something. Left alone it computes the metrics of all
    leaves before the first prox, and holds them all: 8 bytes per parameter, whose fresh
    pages take longer to map than everything else to compute. So each leaf is given a
    zero that is known only once the prox of the leaf before is done.

    Args:
      step: Called as ``step(zero, *leaves)``. It adds the zero to something that all
        its temporaries depend on.
      n_out: As in `map_leaves`.
      bounds: As in `map_leaves`.
      *trees: As in `map_leaves`.

    Returns:
      ``n_out`` trees.
    """
    zero = jnp.zeros((), jnp.int32)

    def wait(n_steps: jax.Array | None) -> None:
        nonlocal zero
        if n_steps is not None:
            zero = jnp.minimum(n_steps, 0)  # which XLA cannot know to be 0

    return map_leaves(lambda *x: step(zero, *x), n_out, bounds, *trees, then=wait)


def _answer(
    bound: LeafRule, asked: Sequence[Prox]
) -> tuple[Sequence[jax.Array], jax.Array | None]:
    """Return the prox of one leaf, or of all leaves of a tie, and its steps."""
    acting, first = bound.regularizer, asked[0]
    centers = lambda: [one.center(*one.operands) for one in asked]
    if acting is None:
        return centers(), None
    tied = bound.is_tied
    pack = tuple if tied else lambda several: several[0]
    step_size = first.step_size * bound.multiplier
    if first.metric is None:
        operands = pack([one.operands for one in asked])
        result, n_steps = acting.prox_at(first.center, operands, step_size), None
    else:
        metric = pack([one.metric for one in asked])
        options = dict(first.options)
        if "start" in options:
            options["start"] = pack([one.options["start"] for one in asked])
        result, n_steps = acting.counted_metric_prox(
            pack(centers()), step_size, metric, **options
        )
    return result if tied else [result], n_steps


def _finish(step: Step, result: jax.Array) -> tuple[jax.Array, ...]:
    try:
        _ = step.send(result)
    except StopIteration as done:
        return done.value
    raise RuntimeError("a step must ask for one prox only.")
