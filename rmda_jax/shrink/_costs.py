"""What a model would cost without its dead units, as a function of the supports."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._text import table_lines
from rmda_jax._types import Params, Scalar, shape_dtype_of
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
from rmda_jax.shrink._plan import GroupCut
from rmda_jax.shrink._rule_units import Removable, RemovableUnits, RuleGroups, removable
from rmda_jax.shrink._timing import Timing
from rmda_jax.shrink._trace import Couplings, Traced, UnitGroup, traced
from rmda_jax.shrink.interpret._index_sets import IndexSet
from rmda_jax.specs._leaf_rules import LeafRule, active
from rmda_jax.specs._resolve import RegularizerSpec, resolve

Kind = Literal["weights", "bytes", "flops", "latency"]


@dataclasses.dataclass(frozen=True, eq=False)
class Costs:
    """Costs of a model as functions of how many units of every set are alive.

    Made by `costs` and `latency`. Its methods run under `jax.jit` and `jax.vmap`, in a
    few operations on vectors; its ``str`` is a table. Two are equal if they are the
    same object.

    Attributes:
      units: The groups of units that the rules can remove units of.
      removed_by: For each, the leaves of the rules that do.
      without_effect: The leaves of the rules that can remove nothing.
      timings: What `latency` measured; of `costs` there are none.
    """

    units: tuple[UnitGroup, ...]
    removed_by: tuple[str, ...]
    without_effect: tuple[str, ...]
    _rule_sizes: tuple[int, ...]
    _removable: RemovableUnits
    _terms: Mapping[str, Terms]
    _totals: Mapping[str, float]
    timings: tuple[Timing, ...] = ()

    @property
    def unit_set(self) -> np.ndarray:
        """For each unit that the rules can remove, the number of its group."""
        return self._removable.unit_set

    def unit_levels(self, levels: Any) -> jax.Array:
        """Return up to which strength each unit is alive that the rules can remove.

        A unit whose consumers are several dies with the last of them; if zero producers
        remove it as well, it dies with the first of the two sides.

        Args:
          levels: For every rule that acts, in the order of the leaves, an array of the
            size of its support: up to which strength each of its units is alive.

        Returns:
          Vector as long as ``unit_set``.

        Raises:
          ValueError: the arrays are not those of the rules.
        """
        arrays = [jnp.asarray(x) for x in jax.tree.leaves(levels)]
        sizes = tuple(x.size for x in arrays)
        if sizes != self._rule_sizes:
            raise ValueError(
                "there must be an array for each rule that acts, with a number for "
                f"each unit: sizes {self._rule_sizes}, got {sizes}. Pass what "
                "`structured_support` returns, or arrays of the shapes of its leaves."
            )
        dtype = jnp.zeros(()).dtype
        flat = jnp.concatenate([x.ravel().astype(dtype) for x in arrays])
        return self._removable.levels(flat)

    def alive_above(self, unit_levels: jax.Array, strength: Scalar) -> jax.Array:
        """Return how many units of each group are alive at a strength.

        Args:
          unit_levels: What `unit_levels` returned.
          strength: Units are alive whose level is above it.

        Returns:
          Vector of integers, one for each of ``units``; at least 1, as in `plan`.
        """
        alive = unit_levels > jnp.asarray(strength, unit_levels.dtype)
        counts = jax.ops.segment_sum(
            alive.astype(jnp.int32),
            self.unit_set,
            len(self.units),
            indices_are_sorted=True,
        )
        sizes = np.array([units.size for units in self.units])
        staying = sizes - np.bincount(self.unit_set, minlength=len(sizes))
        return jnp.maximum(counts + jnp.asarray(staying, jnp.int32), 1)

    def alive(self, supports: Any) -> jax.Array:
        """Return how many units of each group are alive, given the supports.

        Args:
          supports: What `structured_support` returns, or a list of the supports of the
            rules that act, in the order of the leaves.

        Returns:
          As `alive_above`.

        Raises:
          ValueError: as `unit_levels`.
        """
        return self.alive_above(self.unit_levels(supports), 0)

    def counts_of(self, cuts: Sequence[GroupCut]) -> np.ndarray:
        """Return how many units of each group a plan leaves, as `alive` does.

        Args:
          cuts: Those of the plan.

        Raises:
          ValueError: the plan does not have the groups of units of these costs.
        """
        left = {cut.units.places: cut.left for cut in cuts}
        missing = [units.name for units in self.units if units.places not in left]
        if missing:
            raise ValueError(
                "`plan` must have the groups of units of `costs`, and has no "
                f"{missing[0]}. Make both with the same function, params and inputs."
            )
        return np.array([left[units.places] for units in self.units])

    def weights(self, counts: jax.Array) -> jax.Array:
        """Return how many entries the leaves have; ``counts`` are of `alive`."""
        return self._at("weights", counts)

    def bytes(self, counts: jax.Array) -> jax.Array:
        """Return how many bytes the leaves take; ``counts`` are of `alive`."""
        return self._at("bytes", counts)

    def flops(self, counts: jax.Array) -> jax.Array:
        """Return how many FLOPs a call is; ``counts`` are of `alive`."""
        return self._at("flops", counts)

    def latency(self, counts: jax.Array) -> jax.Array:
        """Return the seconds of a call by the model of `latency`, which made this.

        Args:
          counts: Those of `alive`.

        Raises:
          ValueError: `costs` made this, which measures no latency.
        """
        return self._at("latency", counts)

    @property
    def latency_error(self) -> float:
        """How far the latency is off at the most, at widths that were not fitted."""
        return max((x.error for x in self.timings if not x.fitted), default=math.nan)

    def share(self, kind: Kind, counts: jax.Array) -> jax.Array:
        """Return which share of the whole model's cost is left.

        Args:
          kind: ``"weights"``, ``"bytes"`` or ``"flops"``; ``"latency"`` of `latency`.
          counts: What `alive` returned.

        Returns:
          Scalar.

        Raises:
          ValueError: there is no such cost.
        """
        return self._at(kind, counts) / float(self.total(kind))

    def least_share(self, kind: Kind) -> float:
        """Return the share that is left of the cost if all goes that can go."""
        sizes = np.array([units.size for units in self.units])
        removable = np.bincount(self.unit_set, minlength=len(sizes))
        return float(self.share(kind, jnp.asarray(np.maximum(sizes - removable, 1))))

    def total(self, kind: Kind) -> float:
        """Return what the whole model costs; ``kind`` as in `share`."""
        return self._totals[self._checked(kind)]

    def __str__(self) -> str:
        rows = [
            (units.name, str(units.size), str(n), rules)
            for units, n, rules in zip(
                self.units, np.bincount(self.unit_set), self.removed_by, strict=True
            )
        ]
        header = ("units", "number", "removable", "by rules on")
        lines, _ = table_lines(header, rows)
        for name, kind in (
            ("weights", "weights"),
            ("bytes", "bytes"),
            ("FLOPs", "flops"),
        ):
            lines.append(f"{name}: {self._totals[kind]:,}")
        if self.timings:
            n = sum(not x.fitted for x in self.timings)
            lines.append(
                f"latency: {self._totals['latency']:.2e} seconds, off by at most "
                f"{self.latency_error:.0%} at {n} widths that were not fitted"
            )
        if self.without_effect:
            lines.append(f"rules that remove nothing: {'; '.join(self.without_effect)}")
        return "\n".join(lines)

    def _at(self, kind: str, counts: jax.Array) -> jax.Array:
        return self._terms[self._checked(kind)].at(jnp.asarray(counts))

    def _checked(self, kind: str) -> str:
        if kind not in self._totals:
            raise ValueError(
                f"`kind` must be {' or '.join(map(repr, self._totals))}, got {kind!r}. "
                "Latencies are measured by `shrink.latency`."
            )
        return kind


def costs(
    fn: Callable[..., Any],
    params: Params,
    *inputs: Any,
    regularizer: RegularizerSpec,
    couplings: Couplings | None = None,
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
    group stays. `plan` may remove more: what only dead units read, through zeros inside
    of live groups, and what is behind a group that is dead as a whole. Then the costs
    are a bound from above, else the numbers of weights are exact.

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
    found = costs_and_trace(
        fn, params, *inputs, regularizer=regularizer, couplings=couplings, **options
    )
    return found[0]


def costs_and_trace(
    fn: Callable[..., Any],
    params: Params,
    *inputs: Any,
    regularizer: RegularizerSpec,
    couplings: Couplings | None,
    **options: Any,
) -> tuple[Costs, Traced, list[IndexSet]]:
    """Return what `costs` returns, the trace, and the atoms of the costs' units."""
    rules = active(resolve(regularizer, params))
    groups = RuleGroups.of(rules, params)
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
        raise ValueError(_no_effect(rules, labels))
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


def _groups_of(sides: list[Removable]) -> np.ndarray:
    return np.concatenate([side.pairs[:, 1] for side in sides])


def _label(names: Sequence[str]) -> str:
    """Name the leaves of a rule, three at the most."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _no_effect(rules: Sequence[LeafRule], labels: Sequence[str]) -> str:
    pairs = zip(rules, labels, strict=True)
    given = "; ".join(f"{rule.regularizer} on {label}" for rule, label in pairs)
    return (
        f"`regularizer` can remove no unit of the model, got {given or 'no rule'}: "
        "`shrink` could remove nothing. A unit goes when it is zero in all leaves that "
        "read it, or in all that make it; `shrink.group_rules` writes such rules."
    )
