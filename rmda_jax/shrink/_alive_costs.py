"""Costs of a model as functions of how many of its units are alive."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._text import table_lines
from rmda_jax._types import Scalar
from rmda_jax.shrink._lengths import Terms
from rmda_jax.shrink._plan import GroupCut
from rmda_jax.shrink._rule_units import RemovableUnits
from rmda_jax.shrink._timing import Timing
from rmda_jax.shrink._trace import UnitGroup

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
    _least: np.ndarray  # of each group of units how many stay: 1, or 0 of a program
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
          Vector of integers, one for each of ``units``; at least 1, as in `plan`,
          or 0 with ``for_program``.
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
        return self.at_least(counts + jnp.asarray(staying, jnp.int32))

    def at_least(self, counts: jax.Array) -> jax.Array:
        """Return how many units stay: of a group one, unless it may vanish."""
        return jnp.maximum(counts, jnp.asarray(self._least, counts.dtype))

    @property
    def group_of_rules(self) -> np.ndarray:
        """For each rule, the number of the group of units that it removes; -1 if none.

        Raises:
          ValueError: a rule removes units of several groups.
        """
        pairs, n_rules = self._removable, len(self._rule_sizes)
        rules = np.repeat(np.arange(n_rules), self._rule_sizes)[pairs.groups]
        numbers = self.unit_set[pairs.slots // 2]
        found = np.full(n_rules, -1)
        for rule, number in sorted({*zip(rules, numbers, strict=True)}):
            if found[rule] >= 0:
                names = [self.units[i].name for i in (found[rule], number)]
                raise ValueError(
                    "`multiple_of` of a budget needs a rule for every group of units, "
                    f"got one for {' and '.join(names)}. `shrink.group_rules` writes "
                    "one for each."
                )
            found[rule] = number
        return found

    def levels_by_group(self, unit_levels: jax.Array) -> list[jax.Array]:
        """Return the levels of all units of each group; infinity of those that stay.

        Args:
          unit_levels: What `unit_levels` returned.
        """
        found = []
        for number, units in enumerate(self.units):
            own = unit_levels[self.unit_set == number]
            found.append(jnp.append(own, jnp.full(units.size - own.size, jnp.inf)))
        return found

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
        return float(self.share(kind, self.at_least(jnp.asarray(sizes - removable))))

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
