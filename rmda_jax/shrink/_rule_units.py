"""Which units of a model the groups of a regularizer can remove.

Roles do not tell: a zero scale and shift remove a unit whatever a normalization's mean
is, and producers that are zero remove none where an activation makes 1/2 of them. So
`plan` is asked, about params with zeros where the groups can make them.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._types import Params, Shape, shape_dtype_of
from rmda_jax.regularizers._groups import EuclideanGroups
from rmda_jax.shrink._plan import plan
from rmda_jax.shrink._trace import Couplings, UnitGroup, UnitMember
from rmda_jax.shrink.interpret._axes import SCAN
from rmda_jax.specs._leaf_rules import LeafRule
from rmda_jax.specs._names import leaf_names


class RuleGroups(NamedTuple):
    """The groups of all active rules, numbered through."""

    sizes: tuple[int, ...]  # how many units the support of each rule has
    ids: dict[str, np.ndarray]  # leaf -> numbers that broadcast to it; -1 for none

    @classmethod
    def of(cls, rules: Sequence[LeafRule], params: Params) -> "RuleGroups":
        """Number the groups; a rule whose units are no groups has none."""
        names, leaves = leaf_names(params), jax.tree.leaves(params)
        specs = [jax.ShapeDtypeStruct(*shape_dtype_of(x)) for x in leaves]
        sizes: list[int] = []
        ids: dict[str, np.ndarray] = {}
        for rule in rules:
            acting, x = rule.regularizer, rule.take(specs)
            units = jax.eval_shape(acting.support, x)
            first = sum(sizes)
            sizes.append(units.size)
            layout = getattr(acting, "geometry", getattr(acting, "groups", None))
            if not isinstance(layout, EuclideanGroups):
                continue
            # Some have groups, and count the entries inside of them.
            if jax.eval_shape(layout.units, x).shape != units.shape:
                continue
            per_group = jax.eval_shape(layout.any_nonzero, x).shape
            numbers = jnp.arange(first, first + units.size).reshape(per_group)
            found = layout.expand(numbers, layout.each(lambda x: x.shape, x), -1)
            for i, one in zip(
                rule.leaves, found if rule.is_tied else (found,), strict=True
            ):
                ids[names[i]] = np.asarray(one)
        return cls(tuple(sizes), ids)

    def of_units(
        self, member: UnitMember, shape: Shape, whole: bool
    ) -> np.ndarray | None:
        """Return the groups that hold the weights of each unit, a row for each.

        None if all units have the same: those of units along another axis, or, unless
        ``whole``, the only group that the units have together.
        """
        ids = self.ids.get(member.leaf)
        if ids is None or ids.shape[member.axis] != shape[member.axis]:
            return None
        ids = np.moveaxis(ids, member.axis, 0)
        rows = ids[member.positions].reshape(len(member.positions), -1)
        if whole and rows.min() == rows.max():
            return rows
        return None if (rows == rows[:1]).all() else rows


class Removable(NamedTuple):
    """Which of some units go when all of their groups on one side are zero."""

    units: np.ndarray  # bool, per unit
    pairs: np.ndarray  # (pairs, 2): a unit that can go, and a group of its side


def removable(
    fn: Callable[..., Any],
    params: Params,
    *inputs: Any,
    coupled: Sequence[UnitGroup],
    groups: RuleGroups,
    couplings: Couplings | None,
    for_program: bool,
    **options: Any,
) -> list[list[Removable]]:
    """Return for all groups of units what goes by zero consumers, by zero producers.

    Sides are left out that no rule is on. Layers of a scan have one side: they go when
    all of their groups are zero.

    Args:
      fn: As in `trace`, as are inputs and options.
      params: As in `trace`: of floating leaves the values do not count.
      *inputs: See ``fn``.
      coupled: The groups of units that `trace` finds.
      groups: Those of the rules.
      couplings: As in `plan`.
      for_program: As in `plan`. Then a group may hold all units, as of a branch.
      **options: See ``fn``.
    """
    leaves, treedef = jax.tree.flatten(params)
    names, generic = leaf_names(params), generic_values(leaves)
    options |= {"couplings": couplings, "for_program": for_program}
    sides: list[list[Removable]] = [[] for _ in coupled]
    for consuming in (True, False):
        values = dict(zip(names, map(copy.copy, generic), strict=True))
        found = [
            _Side.of(units, consuming, groups, values, whole=for_program)
            for units in coupled
        ]
        if not any(side.probed.any() for side in found):
            continue
        for side in found:
            side.set_zero(values)
        probe = treedef.unflatten(values.values())
        cuts = plan(fn, probe, *inputs, **options).cuts
        for several, side, cut in zip(sides, found, cuts, strict=True):
            if side.probed.any():
                several.append(side.removable(cut.removed))
    return sides


class RemovableUnits(NamedTuple):
    """The units of several groups that can go, numbered through, and what does it."""

    unit_set: np.ndarray  # (units,): which group of units each is of
    groups: np.ndarray  # (pairs,): a group of a rule
    slots: np.ndarray  # (pairs,): 2 * unit + side, ascending
    exists: np.ndarray  # (units, 2): whether zeros on that side remove the unit

    @classmethod
    def of(cls, sides: Sequence[Sequence[Removable]]) -> "RemovableUnits":
        """Number the units through, given the sides of each group of units."""
        unit_set, groups, slots, exists = [], [], [], []
        for number, of_units in enumerate(sides):
            can_go = np.any([side.units for side in of_units], axis=0)
            place = len(unit_set) + np.cumsum(can_go) - 1
            unit_set += [number] * int(can_go.sum())
            of_both = np.zeros((len(can_go), 2), bool)
            for i, side in enumerate(of_units):
                units, its_groups = side.pairs.T
                of_both[:, i] = side.units
                slots.append(2 * place[units] + i)
                groups.append(its_groups)
            exists.append(of_both[can_go])
        order = np.argsort(np.concatenate(slots), kind="stable")
        return cls(
            np.array(unit_set),
            np.concatenate(groups)[order],
            np.concatenate(slots)[order],
            np.concatenate(exists),
        )

    def levels(self, of_groups: jax.Array) -> jax.Array:
        """Return the level of each unit: of its last group, on the side that is first.

        Args:
          of_groups: Up to which strength each group of the rules is alive.
        """
        of_sides = jax.ops.segment_max(
            of_groups[self.groups],
            self.slots,
            2 * len(self.unit_set),
            indices_are_sorted=True,
        ).reshape(-1, 2)
        return jnp.min(jnp.where(self.exists, of_sides, jnp.inf), axis=1)


class _Side(NamedTuple):
    """The consumers, or the producers, of one group of units."""

    members: tuple[UnitMember, ...]
    groups: tuple[np.ndarray, ...]  # of each member, a row for each unit
    kinds: np.ndarray  # per unit; units of a kind can be zero in the same members
    probed: np.ndarray  # bool: one unit of each kind that can be zero somewhere

    @classmethod
    def of(
        cls,
        units: UnitGroup,
        consuming: bool,
        groups: RuleGroups,
        values: dict[str, np.ndarray],
        *,
        whole: bool,
    ) -> "_Side":
        # A leaf that reads a unit and also makes it, as a tied embedding, is on both.
        is_on = lambda roles: bool(
            roles & {"consumes"} if consuming else roles - {"consumes"}
        )
        if units.frozen:
            members = units.members if consuming and units.frozen == {SCAN} else ()
        else:
            members = [member for member in units.members if is_on(member.roles)]
        of_member = lambda m: groups.of_units(m, values[m.leaf].shape, whole)
        found = [(m, rows) for m in members if (rows := of_member(m)) is not None]
        probed, kinds = np.zeros(units.size, bool), np.zeros(units.size, int)
        if found:
            zero = np.stack([rows.min(axis=1) >= 0 for _, rows in found])
            _, first, kinds = np.unique(
                zero, axis=1, return_index=True, return_inverse=True
            )
            probed[first] = zero[:, first].any(axis=0)
        members, rows = zip(*found, strict=True) if found else ((), ())
        return cls(members, rows, kinds.ravel(), probed)

    def set_zero(self, values: dict[str, np.ndarray]) -> None:
        """Set the weights of the probed units to zero in all members that can be."""
        for member, rows in zip(self.members, self.groups, strict=True):
            gone = member.positions[self.probed & (rows.min(axis=1) >= 0)]
            np.moveaxis(values[member.leaf], member.axis, 0)[gone] = 0

    def removable(self, removed: np.ndarray) -> Removable:
        """Return which units go, given which of the probed ones did."""
        units = np.isin(self.kinds, self.kinds[self.probed & removed])
        pairs = [np.zeros((0, 2), int)]
        for rows in self.groups:
            chosen = units & (rows.min(axis=1) >= 0)
            of_units = np.broadcast_to(
                np.flatnonzero(chosen)[:, None], rows[chosen].shape
            )
            pairs.append(np.stack([of_units.ravel(), rows[chosen].ravel()], axis=1))
        return Removable(units, np.unique(np.concatenate(pairs), axis=0))


def generic_values(leaves: Sequence[Any]) -> list[Any]:
    """Return leaves with values that are different, positive and nowhere special.

    Other leaves than floating ones, such as masks, keep theirs if they have any.
    """
    rng = np.random.default_rng(0)
    values = []
    for leaf in leaves:
        shape, dtype = shape_dtype_of(leaf)
        if jnp.issubdtype(dtype, jnp.inexact):
            values.append(np.asarray(rng.uniform(0.5, 1.5, shape), dtype))
        elif jnp.issubdtype(dtype, jax.dtypes.extended):  # a key
            is_abstract = isinstance(leaf, jax.ShapeDtypeStruct)
            values.append(jnp.zeros(shape, dtype) if is_abstract else leaf)
        elif isinstance(leaf, jax.ShapeDtypeStruct):
            values.append(np.ones(shape, dtype))
        else:
            values.append(np.array(leaf))
    return values
