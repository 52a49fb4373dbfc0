"""The strength of a step: what was given, or what keeps a budget."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

M = 1.5

from rmda_jax._types import Params
from rmda_jax.schedules._budget import Budget
from rmda_jax.specs._leaf_rules import LeafRule, active
from rmda_jax.transforms._arguments import check_hyperparameter, evaluate


def check_strength(strength):
    if not isinstance(strength, Budget):
        check_hyperparameter("strength", strength)


def initial_strength(strength, params):
    shape = (len(jax.tree.leaves(params)),) if isinstance(strength, Budget) else ()
    return jnp.zeros(shape, jnp.result_type(float))


def of_rule(strength: jax.Array, rule: LeafRule) -> jax.Array:
    """Return the strength of one rule: the only one, or that of its first leaf."""
    return strength if strength.ndim == 0 else strength[min(rule.leaves)]


def strength_now(strength, count, rules, critical, previous, smoothing=1.0):
    if not isinstance(strength, Budget):
        return evaluate(strength, count)
    acting = active(rules)
    levels = [critical(rule) for rule in acting]
    before = jnp.stack([previous[min(rule.leaves)] for rule in acting])
    found = keep_to(strength, count, acting, levels, before, smoothing)
    at = {i: n for n, rule in enumerate(acting) for i in rule.leaves}
    index = np.array([at.get(i, len(acting)) for i in range(len(rules))])
    return jnp.append(found, 0)[index]


def keep_to(budget: Budget, count, rules, levels, previous, smoothing):
    real = jnp.result_type(float)
    n = len(rules)
    if budget.costs is None:
        units = jnp.concatenate([x.ravel().astype(real) for x in levels])
        sets = np.repeat(np.arange(n), [x.size for x in levels])
        rule_of_set = np.arange(n)
    else:
        units, sets, rule_of_set = budget.costs.unit_levels(levels)
    rule_of_unit = rule_of_set[sets]
    scope_of_rule = np.arange(n) if budget.per_rule else np.zeros(n, int)
    n_scopes = n if budget.per_rule else 1
    scopes = scope_of_rule[rule_of_unit]
    cost, total = _cost(budget, rules, levels, sets, scopes, n_scopes)
    target = budget.kept(count, total)
    if budget.kind in ("groups", "n_groups"):
        target = jnp.round(target)
    floor = _floors(units, sets, len(rule_of_set), budget.at_least)
    floor_of_rule = jax.ops.segment_min(floor, rule_of_set, n)

    def spent(lam):
        level = jnp.minimum(lam[scope_of_rule], floor_of_rule)[rule_of_unit]
        return cost(~(units <= level))

    low = _least(spent, target, n_scopes, real)
    # Where even nothing is too much, only the floors stay.
    most = _largest(units, jnp.isfinite(units), scopes, n_scopes)
    low = jnp.minimum(low, most)
    below = _largest(units, units < low[scopes], scopes, n_scopes)
    if budget.kind not in ("groups", "n_groups"):
        nearer = jnp.abs(spent(below) - target) < jnp.abs(spent(low) - target)
        low = jnp.where(nearer, below, low)
    high = -_largest(-units, units > low[scopes], scopes, n_scopes, none=-jnp.inf)
    wanted = _between(low, high)
    before = jax.ops.segment_max(previous, scope_of_rule, n_scopes)
    lam = jnp.clip(
        before + smoothing * (wanted - before),
        jnp.minimum(low * 1.001, wanted),
        jnp.maximum(wanted, 0.999 * high),
    )
    lam = jnp.where(wanted == 0, 0, lam)
    return jnp.minimum(lam[scope_of_rule], floor_of_rule)


def _cost(budget, rules, levels, sets, scopes, n_scopes):
    add = lambda x: jax.ops.segment_sum(x, scopes, n_scopes)
    if budget.costs is not None and budget.kind not in ("groups", "n_groups"):
        n_sets = int(sets.max()) + 1

        def share(alive):
            counts = jax.ops.segment_sum(alive.astype(jnp.int32), sets, n_sets)
            return budget.costs.share(budget.kind, counts)[None]

        return share, 1.0
    if budget.kind == "weights":
        sizes = np.concatenate(
            [
                np.broadcast_to(r.regularizer.unit_sizes(r.take_shapes()), x.shape)
                for r, x in zip(rules, levels)
            ]
        )
    else:
        sizes = np.ones(len(sets))
    total = np.bincount(scopes, sizes, n_scopes)
    return lambda alive: add(jnp.where(alive, sizes.astype(np.float32), 0)), total


def _floors(units, sets, n_sets, at_least):
    """Return for every set a level with which it keeps ``at_least`` units."""
    if at_least == 0:
        return jnp.full(n_sets, jnp.inf, units.dtype)
    kept = jnp.full(n_sets, jnp.inf, units.dtype)
    for _ in range(at_least):
        kept = _largest(units, units < kept[sets], sets, n_sets)
    rest = _largest(units, units < kept[sets], sets, n_sets)
    return _between(rest, kept)


def _largest(units, among, sets, n_sets, none=0.0):
    found = jax.ops.segment_max(jnp.where(among, units, -jnp.inf), sets, n_sets)
    return jnp.maximum(found, none)


def _between(low, high):
    middle = jnp.sqrt(low) * jnp.sqrt(jnp.where(low == 0, 0, high))
    return jnp.minimum(M * low, jnp.maximum(middle, 0.999 * high))


def _least(spent, target, n_scopes, real):
    """Return the least level that spends no more than the target, by bisection.

    Floats of one sign are ordered as their bits are.
    """
    integer = jnp.int32 if jnp.finfo(real).bits == 32 else jnp.int64
    value = lambda bits: lax.bitcast_convert_type(bits, real)
    top = lax.bitcast_convert_type(jnp.full(n_scopes, jnp.inf, real), integer)

    def halve(_, bracket):
        low, high = bracket
        middle = jnp.maximum(low + (high - low) // 2, 0)
        fits = spent(value(middle)) <= target
        return jnp.where(fits, low, middle), jnp.where(fits, middle, high)

    _, high = lax.fori_loop(
        0, jnp.finfo(real).bits - 1, halve, (jnp.full_like(top, -1), top)
    )
    return value(high)
