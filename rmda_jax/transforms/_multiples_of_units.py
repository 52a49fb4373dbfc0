"""The strengths that keep a budget in multiples of units, for widths that fit.

Where a width is to be a multiple of 8, 41 alive units of a layer are as many as 48. So
what is alive at a strength is rounded up in every set of units before it is compared
with the budget, and then each set gets a strength of its own, which so many survive.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._types import Shape
from rmda_jax.schedules._budget import Budget
from rmda_jax.specs._leaf_rules import LeafRule
from rmda_jax.transforms._order_statistic import (
    between,
    largest,
    least_within,
    unit_sizes,
)

Spent = Callable[[list[jax.Array]], jax.Array]
"""From how many units of every set are alive to what is spent, a vector."""


def strengths_in_multiples(
    budget: Budget,
    count: jax.Array,
    rules: Sequence[LeafRule],
    levels: Sequence[jax.Array],
    shapes: Sequence[Shape],
) -> jax.Array:
    """Return the strength of each rule with which the budget is kept, in multiples.

    No more is kept than the budget, but for what the floors keep. ``levels`` are what
    `above_floors` returned; the rest is as in `strengths_of_rules`.

    Raises:
      ValueError: a rule has several sets of units: one strength is not enough for them.
    """
    if budget.costs is None:
        pairs = zip(rules, levels, strict=True)
        sets = [_only_set(rule, shapes, x) for rule, x in pairs]
        of_rule = np.arange(len(rules))
        sizes = unit_sizes(budget, rules, levels, shapes)
        scopes = of_rule if budget.per_rule else np.zeros(len(rules), int)
        whole = np.bincount(scopes, [x.sum() for x in sizes])
        target = budget.kept(count, whole)
        if budget.counts_groups:
            target = jnp.round(target)
        spent = _spent_by_size(sets, sizes, scopes)
    else:
        costs = budget.costs
        of_rule = costs.group_of_rules
        sets = costs.levels_by_group(costs.unit_levels(levels))
        scopes = np.zeros(len(sets), int)
        target = budget.kept(count, np.ones(1))
        spent = lambda alive: costs.share(
            budget.kind, costs.at_least(jnp.stack(alive))
        )[None]
    found, low = strengths_of_sets(budget.multiple_of, sets, scopes, target, spent)
    # A rule that removes nothing is in no set.
    return jnp.where(of_rule < 0, low[0], found[of_rule])


def strengths_of_sets(
    multiple_of: int,
    sets: Sequence[jax.Array],
    scopes: np.ndarray,
    target: jax.Array,
    spent: Spent,
) -> tuple[jax.Array, jax.Array]:
    """Return a strength for every set, which a multiple of its units survives.

    And before they are rounded, that of each scope.

    Args:
      multiple_of: What the numbers of units are multiples of; all of a set may stay.
      sets: Per set, up to which strength each of its units is alive.
      scopes: Which entry of the target each set counts towards.
      target: Vector of what may be spent.
      spent: What units cost, for each scope.
    """

    def alive(strength: jax.Array) -> list[jax.Array]:
        return [
            _rounded_up(jnp.sum(x > strength[scope]), multiple_of, x.size)
            for x, scope in zip(sets, scopes, strict=True)
        ]

    low = least_within(lambda strength: spent(alive(strength)), target)
    highest = jnp.stack([largest(x) for x in sets])
    low = jnp.minimum(low, jax.ops.segment_max(highest, scopes, len(target)))
    each = [_keeping(x, n) for x, n in zip(sets, alive(low), strict=True)]
    return jnp.stack(each), low


def _rounded_up(n: jax.Array, multiple_of: int, size: int) -> jax.Array:
    """Return the next multiple, or all that there are."""
    return jnp.minimum(-(-n // multiple_of) * multiple_of, size)


def _keeping(levels: jax.Array, n: jax.Array) -> jax.Array:
    """Return a strength that n units survive; fewer do if some survive none."""
    ends = jnp.array([jnp.inf, 0], levels.dtype)
    falling = jnp.sort(jnp.concatenate([levels, ends]), descending=True)
    return between(falling[n + 1], falling[n])


def _spent_by_size(
    sets: Sequence[jax.Array], sizes: Sequence[np.ndarray], scopes: np.ndarray
) -> Spent:
    """Return what sums the sizes of the units that stay: the last to go."""
    sums = []
    for levels, size in zip(sets, sizes, strict=True):
        falling = jnp.asarray(size, levels.dtype)
        if (size != size[0]).any():  # else their order does not matter
            falling = falling[jnp.argsort(-levels)]
        sums.append(jnp.append(0, jnp.cumsum(falling)))
    n_scopes = int(scopes.max()) + 1

    def spent(alive: list[jax.Array]) -> jax.Array:
        each = [x[n] for x, n in zip(sums, alive, strict=True)]
        return jax.ops.segment_sum(jnp.stack(each), scopes, n_scopes)

    return spent


def _only_set(rule: LeafRule, shapes: Sequence[Shape], levels: jax.Array) -> jax.Array:
    """Return the levels of the units of a rule, which must be one set."""
    n_sets = len(np.unique(rule.unit_sets(shapes)))
    if n_sets > 1:
        raise ValueError(
            "`multiple_of` needs a rule for every set of units, got one of "
            f"{n_sets}: {rule.regularizer}. Give each set a rule of its own."
        )
    return levels.ravel()
