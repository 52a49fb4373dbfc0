r"""The strength that keeps a budget: it lies between two neighbours in an order.

At strength :math:`\lambda` those units are alive whose critical strength is above it.
What they cost falls as :math:`\lambda` grows, so that bisection finds the least one
whose cost is within the budget. Only numbers per unit are touched, never the params.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rmda_jax._types import Shape
from rmda_jax.schedules._budget import Budget
from rmda_jax.specs._leaf_rules import LeafRule

MARGIN = 0.1  # how far above the units that are zero, where there is room


def strengths_within(
    budget: Budget,
    count: jax.Array,
    rules: Sequence[LeafRule],
    levels: Sequence[jax.Array],
    shapes: Sequence[Shape],
) -> jax.Array:
    """Return the strength of each rule with which a budget without costs is kept.

    ``levels`` are what `above_floors` returned; the rest is as in `strengths_of_rules`.
    """
    of_rule, units, sizes = _scopes(budget, rules, levels, shapes)
    whole = np.array([size.sum() for size in sizes])
    target = budget.kept(count, whole)
    found = _within_sizes(units, sizes, target, budget.counts_groups)
    return jnp.where(target < whole, found, 0)[of_rule]


def above_floors(
    budget: Budget,
    rules: Sequence[LeafRule],
    levels: Sequence[jax.Array],
    shapes: Sequence[Shape],
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Return the critical strengths, infinite of what the floors keep, and the floors.

    The floor of a rule is a strength that as many of its units survive as it must keep.
    The arguments are those of `strengths_of_rules`.
    """
    levels = [x.astype(jnp.result_type(float)) for x in levels]
    floors = [
        _floor(x, rule.unit_sets(shapes), budget.at_least)
        for rule, x in zip(rules, levels, strict=True)
    ]
    free = [
        jnp.where((x > floor) | jnp.isnan(x), jnp.inf, x)
        for x, floor in zip(levels, floors, strict=True)
    ]
    return free, floors


# Under `jit`, because an eager call would compile the loop anew every time.
@functools.partial(jax.jit, static_argnums=3, inline=True)
def _within_sizes(
    units: list[jax.Array],
    sizes: list[jax.Array],
    target: jax.Array,
    counts_groups: bool,
) -> jax.Array:
    """Return the strength of each scope with which its units are as large as they may.

    Args:
      units: Per scope, what strength each of its units survives.
      sizes: Per scope, what each of its units adds.
      target: Per scope, what may be kept.
      counts_groups: Whether all sizes are 1.
    """
    if counts_groups:
        target = jnp.round(target)

    def spent(strength: jax.Array) -> jax.Array:
        alive = lambda x, size, s: jnp.sum(jnp.where(x > s, size, 0), dtype=x.dtype)
        return _each(alive, units, sizes, strength)

    low = least_within(spent, target)
    if not counts_groups:
        low = _nearer(spent, target, low, _each(next_below, units, low))
    low = jnp.minimum(low, _each(largest, units))
    return between(low, _each(next_above, units, low))


def _nearer(
    spent: Callable[[jax.Array], jax.Array],
    target: jax.Array,
    low: jax.Array,
    below: jax.Array,
) -> jax.Array:
    """Return the lower strengths where they spend less beyond than is missing else."""
    too_much, missing = spent(below) - target, target - spent(low)
    return jnp.where(too_much < jnp.abs(missing), below, low)


def between(low: jax.Array, high: jax.Array) -> jax.Array:
    """Return the strength between the last unit that goes and the first that stays.

    It is a tenth above the lower one; where that is too near the higher one, just below
    that; and in the middle where the two are all but equal. Above 0 it is all but 0:
    norms so small that their squares underflow have the level 0, and are to go, too.
    """
    middle = jnp.sqrt(low) * jnp.sqrt(jnp.where(low == 0, 0, high))
    room = jnp.maximum(middle, jnp.where(jnp.isinf(high), high, 0.999 * high))
    least = jnp.minimum(jnp.sqrt(jnp.finfo(low.dtype).tiny), 0.5 * high)
    return jnp.where(low == 0, least, jnp.minimum((1 + MARGIN) * low, room))


def least_within(
    spent: Callable[[jax.Array], jax.Array], target: jax.Array
) -> jax.Array:
    """Return the least strengths at which no more is spent than the target.

    Bisection on the bits: floats that are not negative are ordered as their bits are.
    So it takes as many steps as a float has bits, and is exact.

    Args:
      spent: Decreasing functions of a vector of strengths, one for each entry.
      target: Vector of what may be spent.

    Returns:
      Vector of strengths; infinity where all strengths spend too much.
    """
    real = jnp.result_type(float)
    n_bits = jnp.finfo(real).bits
    integer = jnp.int32 if n_bits == 32 else jnp.int64
    as_float = lambda bits: lax.bitcast_convert_type(bits, real)
    top = lax.bitcast_convert_type(jnp.full(target.shape, jnp.inf, real), integer)

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends  # too much is spent at the lower end, not at the higher
        middle = jnp.maximum(low + (high - low) // 2, 0)
        fits = spent(as_float(middle)) <= target
        return jnp.where(fits, low, middle), jnp.where(fits, middle, high)

    _, high = lax.fori_loop(0, n_bits - 1, halve, (jnp.full_like(top, -1), top))
    return as_float(high)


def _scopes(
    budget: Budget,
    rules: Sequence[LeafRule],
    levels: Sequence[jax.Array],
    shapes: Sequence[Shape],
) -> tuple[np.ndarray, list[jax.Array], list[np.ndarray]]:
    """Return what shares one strength: all rules together, or each rule alone.

    Returns:
      The scope of each rule; per scope, what strength each of its units survives, and
      the size of each.
    """
    units = [x.ravel() for x in levels]
    sizes = unit_sizes(budget, rules, levels, shapes)
    if budget.per_rule:
        return np.arange(len(units)), units, sizes
    together = [jnp.concatenate(units)], [np.concatenate(sizes)]
    return np.zeros(len(units), int), *together


def unit_sizes(
    budget: Budget,
    rules: Sequence[LeafRule],
    levels: Sequence[jax.Array],
    shapes: Sequence[Shape],
) -> list[np.ndarray]:
    """Return what the units of each rule add to what a budget without costs counts."""
    if budget.kind != "weights":
        return [np.ones(x.size) for x in levels]
    return [
        np.broadcast_to(rule.regularizer.unit_sizes(rule.take(shapes)), x.shape).ravel()
        for rule, x in zip(rules, levels, strict=True)
    ]


def _floor(levels: jax.Array, sets: np.ndarray, at_least: int) -> jax.Array:
    """Return a strength that so many units of every set survive.

    More survive if some are equal, and in all sets but one.
    """
    floor = jnp.full((), jnp.inf, levels.dtype)
    sets = np.broadcast_to(sets, levels.shape)
    for number in np.unique(sets) if at_least else ():
        # What is 0 survives nothing, and so takes no part.
        of_set = jnp.where(sets == number, levels, 0)
        kept = jnp.full_like(floor, jnp.inf)
        for _ in range(at_least):
            kept = next_below(of_set, kept)
        floor = jnp.minimum(floor, between(next_below(of_set, kept), kept))
    return floor


def next_below(levels: jax.Array, strength: jax.Array) -> jax.Array:
    """Return the largest level below a strength, or 0."""
    return jnp.max(jnp.where(levels < strength, levels, 0), initial=0)


def next_above(levels: jax.Array, strength: jax.Array) -> jax.Array:
    """Return the least level above a strength, or infinity."""
    above = jnp.where(levels > strength, levels, jnp.inf)
    return jnp.min(above, initial=jnp.inf)


def largest(levels: jax.Array) -> jax.Array:
    """Return the largest finite level: from it on only the floors stay."""
    return next_below(levels, jnp.full((), jnp.inf, levels.dtype))


def _each(fn: Callable[..., jax.Array], *operands: Any) -> jax.Array:
    """Return what a function gives for each scope."""
    return jnp.stack([fn(*row) for row in zip(*operands, strict=True)])
