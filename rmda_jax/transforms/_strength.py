"""The strength of a step: the one that was given, or the one that keeps a budget."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._types import Params, Shape
from rmda_jax.schedules._budget import Budget
from rmda_jax.specs._leaf_rules import LeafRule, active
from rmda_jax.specs._resolve import RegularizerSpec, resolve
from rmda_jax.transforms._arguments import check_hyperparameter, evaluate
from rmda_jax.transforms._multiples_of_units import strengths_in_multiples
from rmda_jax.transforms._order_statistic import above_floors, strengths_within
from rmda_jax.transforms._within_costs import strengths_within_costs

CriticalStrengths: TypeAlias = Callable[[Sequence[LeafRule]], list[jax.Array]]
"""From rules to the critical strengths of their units."""


def check_strength(strength: Any) -> None:
    """Raise unless it is a budget, or a hyperparameter that is not negative."""
    if not isinstance(strength, Budget):
        check_hyperparameter("strength", strength)


def initial_strength(
    strength: Any, regularizer: RegularizerSpec, params: Params, *, metric: bool
) -> Any:
    """Return what a state holds before the first update: 0, or a tree of zeros.

    Args:
      strength: What the user gave.
      regularizer: What it acts through.
      params: The params.
      metric: Whether the prox is one in a metric.

    Raises:
      NotImplementedError: a regularizer has no critical strengths, so that it cannot
        keep a budget.
      ValueError: the costs of the budget are those of other rules, or its floors keep
        every unit.
    """
    rules, real = resolve(regularizer, params), jnp.result_type(float)
    if not isinstance(strength, Budget):
        return jnp.zeros((), real)
    leaves, treedef = jax.tree.flatten(params)
    _check_floors(strength, active(rules), leaves)

    def first(*leaves: jax.Array) -> Any:
        def of_rules(rules: Sequence[LeafRule]) -> list[jax.Array]:
            pairs = [(rule.regularizer, rule.take(leaves)) for rule in rules]
            return [
                r.critical_strengths(x, 1.0, x if metric else None) for r, x in pairs
            ]

        count = jnp.zeros((), jnp.int32)
        return strength_now(strength, count, rules, of_rules, leaves)

    _ = jax.eval_shape(first, *leaves)
    return treedef.unflatten([jnp.zeros((), real) for _ in leaves])


def _check_floors(
    budget: Budget, rules: Sequence[LeafRule], leaves: Sequence[jax.Array]
) -> None:
    """Raise if every set of units is no larger than what every rule keeps."""
    shapes, largest = [x.shape for x in leaves], 0
    for rule in rules:
        support = jax.eval_shape(rule.regularizer.support, rule.take(leaves))
        sets = np.broadcast_to(rule.unit_sets(shapes), support.shape)
        largest = max(largest, *np.unique(sets, return_counts=True)[1])
    if 0 < largest <= budget.at_least:
        raise ValueError(
            f"`at_least` of the budget is {budget.at_least}, and no rule has more "
            "units than that, so that none could go. For groups of branches pass "
            "at_least=0."
        )


def strength_now(
    strength: Any,
    count: jax.Array,
    rules: Sequence[LeafRule],
    critical_strengths: CriticalStrengths,
    leaves: Sequence[jax.Array],
) -> jax.Array | list[jax.Array]:
    """Return the strength of a step: a scalar, or for a budget one for each leaf.

    Args:
      strength: A budget, or a number, array or schedule.
      count: Updates so far.
      rules: The rule of each leaf, in flattening order.
      critical_strengths: Of the units of some rules, at the centre of this step.
      leaves: Arrays of the shapes of the params.
    """
    if not isinstance(strength, Budget):
        return evaluate(strength, count)
    acting, shapes = active(rules), [x.shape for x in leaves]
    each = [jnp.zeros((), jnp.result_type(float)) for _ in rules]
    if not acting:
        return each
    levels = critical_strengths(acting)
    found = strengths_of_rules(strength, count, acting, levels, shapes)
    for rule, its_strength in zip(acting, found, strict=True):
        for i in rule.leaves:
            each[i] = its_strength
    return each


def strengths_of_rules(
    budget: Budget,
    count: jax.Array,
    rules: Sequence[LeafRule],
    levels: Sequence[jax.Array],
    shapes: Sequence[Shape],
) -> jax.Array:
    """Return the strength of each rule with which a budget and its floors are kept.

    Args:
      budget: What is kept.
      count: Updates so far.
      rules: The rules that act.
      levels: For each, the critical strengths of its units.
      shapes: Of all leaves, in flattening order.

    Returns:
      Vector with an entry for each rule. They differ where a rule has no more units
      than it must keep at least, if the budget is one per rule, with costs, and in
      multiples.
    """
    free, floors = above_floors(budget, rules, levels, shapes)
    if budget.multiple_of > 1:
        found = strengths_in_multiples(budget, count, rules, free, shapes)
    elif budget.costs is not None:
        found = strengths_within_costs(budget, count, free)
    else:
        found = strengths_within(budget, count, rules, free, shapes)
    return jnp.minimum(found, jnp.stack(floors))


def of_rule(strength: jax.Array | list[jax.Array], rule: LeafRule) -> jax.Array:
    """Return the strength for a rule: the only one, or that of its leaves."""
    return strength[min(rule.leaves)] if isinstance(strength, list) else strength


def as_state(strength: jax.Array | list[jax.Array], params: Params) -> Any:
    """Return what a state holds of it: a scalar, or a tree like the params."""
    if isinstance(strength, list):
        return jax.tree.structure(params).unflatten(strength)
    return strength
