r"""The strengths that keep a budget of costs: one for all rules, then corrections.

One strength for all rules misses the budget by up to half of the unit that costs most.
The rules with finer units make up for that, in rounds of ever fewer rules:

.. math:: R_1 \supset R_2 \supset \ldots \supset \{\text{the rule with the finest}\}

In round :math:`i` the rules of :math:`R_i` share one strength. It is one of the two
neighbours between which the budget lies: the nearer one, unless only from the other one
the rules of :math:`R_{i+1}` can reach the budget. The other rules of :math:`R_i` keep
it, and the next round begins.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax.schedules._budget import Budget
from rmda_jax.transforms._order_statistic import (
    between,
    largest,
    least_within,
    next_above,
    next_below,
)

N_ROUNDS = 3  # each is a bisection over one number per unit


def strengths_within_costs(
    budget: Budget, count: jax.Array, levels: list[jax.Array]
) -> jax.Array:
    """Return the strength of each rule with which the model costs what it may.

    ``levels`` are what `above_floors` returned; the rest is as in `strengths_of_rules`.
    """
    target = budget.kept(count, 1.0)
    found = _within(budget.costs, budget.kind, levels, target)
    return jnp.where(target < 1, found, 0)


# Under `jit`, because an eager call would compile the loops anew every time.
@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def _within(
    costs: Any, kind: str, levels: list[jax.Array], target: jax.Array
) -> jax.Array:
    """Return the strength of each rule; the target is the share that may be left."""
    rounds = _rounds(costs, kind, levels)
    state = list(levels)  # of rules that are settled: infinity or 0, for alive or dead
    found = [jnp.zeros_like(target) for _ in levels]
    for now, finer in zip(rounds, [*rounds[1:], []], strict=True):
        strength = _strength_of_round(costs, kind, state, (now, finer), target)
        above = next_above(_together(levels, now), strength)
        for i in now:
            found[i] = between(strength, above)
            if i not in finer:
                state[i] = _settled(levels[i], strength)
    return jnp.stack(found)


def _strength_of_round(
    costs: Any,
    kind: str,
    state: list[jax.Array],
    rules: tuple[list[int], list[int]],
    target: jax.Array,
) -> jax.Array:
    """Return the level of the last unit that goes, for the rules of a round.

    Args:
      costs: What `shrink.costs` returned.
      kind: Of which cost.
      state: Per rule its levels, or what `_settled` returned.
      rules: The numbers of those of this round, and of those of the next.
      target: The share that may be left.
    """
    now, finer = rules
    units = costs.unit_levels(state)
    share = lambda units, s: costs.share(kind, costs.alive_above(units, s))
    (low,) = least_within(lambda s: share(units, s[0])[None], target[None])
    of_now = _together(state, now)
    low = jnp.minimum(low, largest(of_now))
    below = next_below(of_now, low)

    def beyond(strength: jax.Array, of_finer: float) -> jax.Array:
        """Return the share at a strength, where the finer rules have another one."""
        of_rule = {i: of_finer if i in finer else strength for i in now}
        settled = [
            _settled(x, of_rule[i]) if i in of_rule else x for i, x in enumerate(state)
        ]
        return share(costs.unit_levels(settled), 0)

    missing, too_much = target - share(units, low), share(units, below) - target
    can_fill = beyond(low, 0) >= target
    can_give = beyond(below, math.inf) <= target
    nearer = too_much < jnp.abs(missing)
    return jnp.where(jnp.where(can_fill == can_give, nearer, can_give), below, low)


def _rounds(costs: Any, kind: str, levels: Sequence[jax.Array]) -> list[list[int]]:
    """Return the rules of each round, by what one of their units costs.

    A rule that removes nothing without others takes part in the first one alone.
    """
    with jax.ensure_compile_time_eval():
        whole = [np.ones(x.shape, bool) for x in levels]
        price = []
        for i, alive in enumerate(whole):
            without = [*whole[:i], np.zeros_like(alive), *whole[i + 1 :]]
            left = float(costs.share(kind, costs.alive(without)))
            # Layers of one shape cost the same but for rounding: the first comes first.
            price.append(float(f"{(1 - left) / alive.size:.3g}"))
    finest = sorted((i for i, x in enumerate(price) if x > 0), key=lambda i: price[i])
    powers = np.arange(N_ROUNDS - 2, -1, -1) / (N_ROUNDS - 1)
    sizes = {math.ceil(len(finest) ** power) for power in powers}
    rounds = [finest[:n] for n in sorted(sizes, reverse=True) if n < len(levels)]
    return [list(range(len(levels))), *filter(None, rounds)]


def _settled(levels: jax.Array, strength: Any) -> jax.Array:
    """Return levels of units of which nothing changes any more."""
    return jnp.where(
        levels > strength, jnp.inf, jnp.where(jnp.isinf(levels), levels, 0)
    )


def _together(levels: Sequence[jax.Array], numbers: list[int]) -> jax.Array:
    return jnp.concatenate([levels[i].ravel() for i in numbers])
