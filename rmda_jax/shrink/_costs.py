"""What a model would cost without its dead units, as a function of the supports."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from rmda_jax._types import Params, shape_dtype_of
from rmda_jax.shrink._alive_costs import Costs
from rmda_jax.shrink._arithmetic import flops
from rmda_jax.shrink._lengths import (
    Lengths,
    Polynomial,
    Terms,
    constant,
    plus,
    times,
    value_at,
)
from rmda_jax.shrink._plan import atoms_that_may_vanish
from rmda_jax.shrink._rule_units import Removable, RemovableUnits, RuleGroups, removable
from rmda_jax.shrink._trace import Couplings, Traced, traced
from rmda_jax.shrink.interpret._index_sets import IndexSet
from rmda_jax.specs._leaf_rules import LeafRule, active
from rmda_jax.specs._resolve import RegularizerSpec, resolve


def costs(
    fn: Callable[..., Any],
    params: Params,
    *inputs: Any,
    regularizer: RegularizerSpec,
    couplings: Couplings | None = None,
    for_program: bool = False,
    **options: Any,
) -> Costs:
    r"""Find what a model would cost once `apply` has removed the units that died.

    .. math:: \operatorname{weights}(n) = \sum_{\text{leaf}} \prod_{\text{axis}} \ell(n)

    where :math:`n_s` units of group :math:`s` are alive and :math:`\ell(n)` is the
    length of an axis: a constant, some :math:`n_s`, a product of them (heads times
    dimensions), or a sum (a concatenation). So a kernel weighs the product of the alive
    units that it reads and that it makes: costs do not add up over units. Bytes and
    FLOPs are polynomials of the same kind. A training step can ask for them, under jit,
    at its present support or at that of another strength.

    A unit counts as dead when its groups are zero in all leaves that read it, or in all
    that make it, if the rules cover so many that `plan` would remove it then; one of a
    group stays, but for ``for_program``. A layer of a scan goes when all of its groups
    are zero, if it is the identity then. `plan` may remove more: what only dead units
    read, through zeros inside of live groups, and what is behind a group that is dead
    as a whole. Then the costs are a bound from above, else the numbers of weights are
    exact.

    FLOPs are a call's with these inputs, counted on the jaxpr as XLA counts: 2 for each
    term of a contraction, without padding; 1 for each result of elementwise arithmetic
    and each entry reduced; 0 for transcendental functions. The compiler's own count, of
    what it fused, was 1.3 % away for a ResNet-50 and at most 0.3 % for a LeNet-5, a
    VGG19 and two transformers, before and after. A scan's body counts as often as it
    runs, where the compiler counts it once.

    This takes as long as one or two calls of `plan`. Call it once, outside of jit.

    Args:
      fn: As in `trace`.
      params: As in `trace`: shapes are enough.
      *inputs: As in `trace`.
      regularizer: A RegularizerMap or any other spec. What can remove units are groups
        along an axis of their leaves, such as `group_rules` writes.
      couplings: As in `plan`.
      for_program: As in `plan`, whose removals are counted. It must be given for rules
        of whole branches, which ``group_rules(..., depth=True)`` writes: else one unit
        of a branch would stay.
      **options: Given to ``fn`` as they are.

    Returns:
      The costs; ``str`` shows which rules remove units of what.

    Raises:
      ValueError: the rules can remove no unit.
      TypeError: as in `trace`.

    Examples:
      >>> from rmda_jax import shrink
      >>> def mlp(params, x):
      ...     h = jax.nn.relu(x @ params["in"] + params["bias"])
      ...     return h @ params["out"]
      >>> shapes = {"in": (4, 8), "bias": (8,), "out": (8, 3)}
      >>> params = {name: jnp.ones(shape) for name, shape in shapes.items()}
      >>> x = jnp.ones((2, 4))
      >>> rules = shrink.group_rules(mlp, params, x)
      >>> costs = shrink.costs(mlp, params, x, regularizer=rules)
      >>> print(costs)
      units                 number  removable  by rules on
      bias[0] in[1] out[0]  8       8          out
      weights: 64
      bytes: 256
      FLOPs: 256
      >>> counts = costs.alive([jnp.arange(8) < 5])
      >>> costs.weights(counts).item()
      40.0
    """
    options |= {"couplings": couplings, "for_program": for_program}
    return costs_and_trace(fn, params, *inputs, regularizer=regularizer, **options)[0]


def costs_and_trace(
    fn: Callable[..., Any],
    params: Params,
    *inputs: Any,
    regularizer: RegularizerSpec,
    couplings: Couplings | None,
    for_program: bool = False,
    **options: Any,
) -> tuple[Costs, Traced, list[IndexSet]]:
    """Return what `costs` returns, the trace, and the atoms of the costs' units."""
    rules = active(resolve(regularizer, params))
    groups = RuleGroups.of(rules, params)
    options["for_program"] = for_program
    found = traced(fn, params, *inputs, **options)
    sides = removable(
        fn,
        params,
        *inputs,
        coupled=list(found.units.values()),
        groups=groups,
        couplings=couplings,
        **options,
    )
    labels = [_label([found.names[i] for i in rule.leaves]) for rule in rules]
    chosen = [
        (atom, units, [side for side in of_units if side.units.any()])
        for (atom, units), of_units in zip(found.units.items(), sides, strict=True)
        if any(side.units.any() for side in of_units)
    ]
    if not chosen:
        raise ValueError(_no_effect(rules, labels, for_program))
    may_vanish = atoms_that_may_vanish(found) if for_program else set()
    owners = np.repeat(np.arange(len(rules)), groups.sizes)
    owned = [np.unique(owners[_groups_of(several)]) for _, _, several in chosen]
    effective = set(np.concatenate(owned))
    polynomials = _polynomials(
        found, params, Lengths({atom: i for i, (atom, _, _) in enumerate(chosen)})
    )
    sizes = np.array([units.size for _, units, _ in chosen])
    made = Costs(
        units=tuple(units for _, units, _ in chosen),
        removed_by=tuple("; ".join(labels[i] for i in numbers) for numbers in owned),
        without_effect=tuple(
            label for i, label in enumerate(labels) if i not in effective
        ),
        _rule_sizes=groups.sizes,
        _removable=RemovableUnits.of([several for _, _, several in chosen]),
        _terms={k: Terms.of(p, len(chosen)) for k, p in polynomials.items()},
        _totals={k: value_at(p, sizes) for k, p in polynomials.items()},
        _least=np.array([0 if atom in may_vanish else 1 for atom, _, _ in chosen]),
    )
    return made, found, [atom for atom, _, _ in chosen]


def _polynomials(
    found: Traced, params: Params, lengths: Lengths
) -> dict[str, Polynomial]:
    sizes = [lengths.size(leaf.axes) for leaf in found.leaves]
    widths = [shape_dtype_of(x)[1].itemsize for x in jax.tree.leaves(params)]
    n_bytes = (times([constant(n), s]) for n, s in zip(widths, sizes, strict=True))
    return {
        "weights": plus(sizes),
        "bytes": plus(n_bytes),
        "flops": flops(found.axes, lengths),
    }


_OF_BRANCHES = (
    " Groups of whole branches, as with `depth`, go as a whole from a program alone: "
    "for them pass for_program=True."
)


def _groups_of(sides: list[Removable]) -> np.ndarray:
    return np.concatenate([side.pairs[:, 1] for side in sides])


def _label(names: Sequence[str]) -> str:
    """Name the leaves of a rule, three at the most."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _no_effect(
    rules: Sequence[LeafRule], labels: Sequence[str], for_program: bool
) -> str:
    pairs = zip(rules, labels, strict=True)
    given = "; ".join(f"{rule.regularizer} on {label}" for rule, label in pairs)
    return (
        f"`regularizer` can remove no unit of the model, got {given or 'no rule'}: "
        "`shrink` could remove nothing. A unit goes when it is zero in all leaves that "
        "read it, or in all that make it; `shrink.group_rules` writes such rules."
    ) + ("" if for_program else _OF_BRANCHES)
