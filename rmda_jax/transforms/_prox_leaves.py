"""The proximal step on all leaves, which every transformation but `rigl` takes.

A rule of the map may act on one leaf or, as a tie, on several at once. What a rule is,
and of which leaves, is asked here and nowhere else in the transformations.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rmda_jax.regularizers.solvers._group_norm import with_derivative
from rmda_jax.regularizers.solvers._recomputed import recomputed
from rmda_jax.regularizers.solvers._together import norms_together
from rmda_jax.specs._leaf_rules import LeafRule
from rmda_jax.transforms._strength import CriticalStrengths, of_rule

GPUS = ("cuda", "rocm")  # as `jax.lax.platform_dependent` calls them


def prox_each(
    rules: Sequence[LeafRule],
    center: Callable[..., jax.Array],
    operands: Sequence[list[jax.Array]],
    step_size: jax.Array,
    strength: jax.Array | list[jax.Array],
) -> list[jax.Array]:
    r"""Return :math:`\operatorname{prox}_{t\psi}` of the centre of every leaf.

    Args:
      rules: The rule of each leaf, in flattening order.
      center: The centre of one leaf as a function of its operands. The prox computes it
        anew wherever it needs it, instead of writing it to memory (see
        ``docs/performance.md``, "Computed twice, stored never").
      operands: One list for each argument of ``center``, with one array per leaf.
      step_size: The step, without the strength.
      strength: For all leaves, or one for each; :math:`t` is their product, times the
        multiplier of a rule.

    Returns:
      One array per leaf: the centre itself where no regularizer acts.
    """
    rows = list(zip(*operands, strict=True))
    out: list[Any] = [None] * len(rules)
    for rule in _each_once(rules):
        if rule.regularizer is None:
            new = center(*rule.take(rows))
        else:
            t = step_size * of_rule(strength, rule) * rule.multiplier
            new = rule.regularizer.prox_at(center, rule.take(rows), t)
        rule.put(out, new)
    return out


def metric_prox_each(
    rules: Sequence[LeafRule],
    center: Callable[..., jax.Array],
    operands: Sequence[list[jax.Array]],
    metric: Callable[[jax.Array], jax.Array],
    squares: list[jax.Array],
    step_size: jax.Array,
    strength: jax.Array | list[jax.Array],
    *,
    start: list[jax.Array],
    **options: Any,
) -> list[jax.Array]:
    r"""Return the prox of the centre of every leaf in the metric of every leaf.

    .. math:: \arg\min_x \tfrac12\|x - z\|_D^2 + t\psi(x), \quad \|x\|_D^2 = x^T D x

    The form depends on the platform: on a GPU the leaves are taken together, elsewhere
    in turn (``docs/performance.md``, "The roots of all leaves together" and "Leaves in
    turn").

    Args:
      rules: As in `prox_each`.
      center: :math:`z` of one leaf, a function of its operands and, last, its metric.
      operands: As in `prox_each`.
      metric: The diagonal of :math:`D` of one leaf, positive, a function of its
        squares.
      squares: The sum or average of the squared gradients, one array per leaf.
      step_size: As in `prox_each`.
      strength: As in `prox_each`.
      start: Where a solver begins that iterates, one array per leaf.
      **options: Of `Regularizer.metric_prox`.

    Returns:
      One array per leaf: the centre itself where no regularizer acts.
    """
    rows = list(zip(*operands, strict=True))

    def pose(
        rule: LeafRule, rows: Mapping[int, Any], squares: Mapping[int, jax.Array]
    ) -> tuple[Any, jax.Array, Any]:
        several = []
        for i in rule.leaves:
            d = metric(squares[i])
            several.append((center(*rows[i], d), d))
        x, d = zip(*several, strict=True) if rule.is_tied else several[0]
        return x, step_size * of_rule(strength, rule) * rule.multiplier, d

    return lax.platform_dependent(
        _Given(rows, squares, start),
        default=lambda given: _in_turn(rules, pose, given, options),
        **dict.fromkeys(GPUS, lambda given: _together(rules, pose, given, options)),
    )


class _Given(NamedTuple):
    """What the metric prox of all leaves is computed from, a list each."""

    rows: list[tuple[jax.Array, ...]]  # the operands of a leaf's centre
    squares: list[jax.Array]
    start: list[jax.Array]


PoseOfRule = Callable[..., tuple[Any, jax.Array, Any]]
"""From a rule, its rows and its squares to the centre, the step size, the metric."""


def _in_turn(
    rules: Sequence[LeafRule], pose: PoseOfRule, given: _Given, options: Any
) -> list[jax.Array]:
    """Take the metric prox of one leaf after the other, which share temporaries.

    XLA orders only what depends on something: left alone, it computes the metrics of
    all leaves before the first prox, and holds them all. So each metric waits for the
    prox of the leaf before: its squares are increased by a zero that is known only
    then.
    """
    out: list[Any] = [None] * len(rules)
    zero = jnp.zeros((), jnp.int32)
    for rule in _each_once(rules):
        its_rows, its_squares = _of(rule, given.rows), _of(rule, given.squares)
        later = {i: u + zero.astype(u.dtype) for i, u in its_squares.items()}
        new, t, d = pose(rule, its_rows, later)
        if rule.regularizer is not None:
            new, n_steps = rule.regularizer.counted_metric_prox(
                new, t, d, start=rule.take(given.start), **options
            )
            if n_steps is not None:  # a closed form takes none
                zero = jnp.minimum(n_steps, 0)  # always 0, but XLA cannot know
        rule.put(out, new)
    return out


def _together(
    rules: Sequence[LeafRule], pose: PoseOfRule, given: _Given, options: Any
) -> list[jax.Array]:
    """Take the metric prox of all leaves, the roots of all their groups together."""
    out: list[Any] = [None] * len(rules)
    joint: list[LeafRule] = []
    for rule in _each_once(rules):
        x, t, d = pose(rule, _of(rule, given.rows), _of(rule, given.squares))
        if rule.regularizer is None:
            rule.put(out, x)
        elif rule.regularizer.posed_metric_prox(x, t, d) is not None:
            joint.append(rule)
        else:
            start = rule.take(given.start)
            new = rule.regularizer.metric_prox(x, t, d, start=start, **options)
            rule.put(out, new)

    posed = lambda rule, *at: rule.regularizer.posed_metric_prox(*pose(rule, *at))
    poses = [lambda *at, rule=rule: posed(rule, *at)[0] for rule in joint]
    rows = [_of(rule, given.rows) for rule in joint]
    squares = [_of(rule, given.squares) for rule in joint]
    norms, squares = norms_together(poses, rows, squares)
    for rule, *at, r in zip(joint, rows, squares, norms, strict=True):
        problem, finish = posed(rule, *at)
        rule.put(out, finish(with_derivative(*problem, r)))
    return out


def _of(rule: LeafRule, leaves: Sequence[Any]) -> dict[int, Any]:
    return {i: leaves[i] for i in rule.leaves}


def critical_strengths(
    center: Callable[..., jax.Array],
    operands: Sequence[list[jax.Array]],
    step_size: jax.Array,
) -> CriticalStrengths:
    """Return what finds the critical strengths of units, by the rules of their leaves.

    The arguments are those of `prox_each`.
    """
    rows = list(zip(*operands, strict=True))

    def of_rules(rules: Sequence[LeafRule]) -> list[jax.Array]:
        found = []
        for rule in rules:
            several = [center(*recomputed(rows[i])) for i in rule.leaves]
            x = tuple(several) if rule.is_tied else several[0]
            step = step_size * rule.multiplier
            found.append(rule.regularizer.critical_strengths(x, step))
        return found

    return of_rules


def metric_critical_strengths(
    center: Callable[..., jax.Array],
    operands: Sequence[list[jax.Array]],
    metric: Callable[[jax.Array], jax.Array],
    squares: list[jax.Array],
    step_size: jax.Array,
) -> CriticalStrengths:
    """Return the same in a metric; the arguments are those of `metric_prox_each`.

    But on a GPU the leaves are taken in turn, as there.
    """
    rows = list(zip(*operands, squares, strict=True))

    def center_and_metric(zero: jax.Array, *row: jax.Array) -> tuple[Any, Any]:
        *given, u = row
        d = metric(u + zero.astype(u.dtype))
        return center(*given, d), d

    def of_rules(rules: Sequence[LeafRule]) -> list[jax.Array]:
        found, zero = [], jnp.zeros((), jnp.int32)
        for rule in rules:
            several = [_anew(center_and_metric, zero, *rows[i]) for i in rule.leaves]
            x, d = zip(*several, strict=True) if rule.is_tied else several[0]
            step = step_size * rule.multiplier
            found.append(rule.regularizer.critical_strengths(x, step, d))
            zero = _zero_after(jnp.sum(found[-1] > 0, dtype=jnp.int32))
        return found

    return of_rules


def _zero_after(n: jax.Array) -> jax.Array:
    """Return 0, which is known only after a count, but on a GPU before."""
    later = lambda n: jnp.minimum(n, 0)  # always 0, but XLA cannot know
    return lax.platform_dependent(
        n, default=later, **dict.fromkeys(GPUS, jnp.zeros_like)
    )


def _anew(fn: Callable[..., Any], *operands: jax.Array) -> Any:
    """Return what a function gives, computed anew wherever it is used.

    What it closes over counts as an operand: XLA:CPU broadcasts a scalar that several
    leaves use into an array as large as a leaf.
    """
    closed, scalars = jax.closure_convert(fn, *operands)
    *anew, scalars = recomputed(*operands, tuple(scalars))
    return closed(*anew, *scalars)


def _each_once(rules: Sequence[LeafRule]) -> list[LeafRule]:
    """Return the rules in flattening order, that of a tie at its first leaf."""
    return [rule for i, rule in enumerate(rules) if i == min(rule.leaves)]
