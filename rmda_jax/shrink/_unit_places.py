"""Where the weights of a unit lie that have to be zero for the unit to go.

The roles of leaves propose them, and `plan` is asked: about params with zeros there,
for one unit of each group. It knows what roles do not tell: that another product reads
the unit, too, that an activation makes 1/2 of zero, that a kernel is put together so
that zeros in a leaf are none in the kernel.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from rmda_jax._types import Params
from rmda_jax.shrink._plan import GroupCut, plan
from rmda_jax.shrink._rule_units import generic_values
from rmda_jax.shrink._trace import Couplings, UnitMember
from rmda_jax.specs._names import leaf_names

Side = Literal["consumers", "producers", "all"]


class Place(NamedTuple):
    """Where the units of one group lie in one leaf."""

    member: UnitMember
    shape: tuple[int, ...]

    @property
    def leaf(self) -> str:
        """The name of the leaf."""
        return self.member.leaf

    @property
    def unit_size(self) -> int:
        """How many weights of the leaf a unit has."""
        n_positions = self.member.positions.shape[1]
        return n_positions * math.prod(self.shape) // self.shape[self.member.axis]


def is_on(side: Side, member: UnitMember) -> bool:
    """Return whether the roles of a leaf put it on this side of its units."""
    if side == "all":
        return True
    if side == "consumers":
        return "consumes" in member.roles
    return bool(member.roles - {"consumes"})


def removing(
    fn: Callable[..., Any],
    params: Params,
    *inputs: Any,
    places: Sequence[list[Place]],
    couplings: Couplings | None,
    for_program: bool,
    **options: Any,
) -> list[list[Place] | str]:
    """Return for each group of units the places that remove a unit if they are zero.

    Units may lie along two axes of one leaf, as those of a recurrent state do: its
    kernel reads them along one, and makes them along the other. A group has one of the
    two, the first if zeros there are enough.

    Args:
      fn: As in `trace`, as are inputs and options.
      params: As in `trace`: of floating leaves the values do not count.
      *inputs: See ``fn``.
      places: For each group that `trace` finds the places that are proposed.
      couplings: As in `plan`.
      for_program: As in `plan`.
      **options: See ``fn``.

    Returns:
      For each group its places, or why its units stay.
    """
    leaves, treedef = jax.tree.flatten(params)
    generic = dict(zip(leaf_names(params), generic_values(leaves), strict=True))
    nothing = "no weights to set to zero on this side"
    found: list[list[Place] | str] = [nothing for _ in places]
    left = {i for i, group in enumerate(places) if group}
    for pick in (min, max) if left else ():
        tried = {i: _one_axis_each(places[i], pick) for i in left}
        values = generic | _with_zeros(generic, tried.values())
        probe = treedef.unflatten(values.values())
        how = {"couplings": couplings, "for_program": for_program}
        cuts = plan(fn, probe, *inputs, **how, **options).cuts
        for i, group in tried.items():
            if cuts[i].removed[0]:
                found[i] = group
            elif pick is min:
                found[i] = _reason(cuts[i])
        left = {i for i in left if len(tried[i]) < len(places[i])}
        left = {i for i in left if isinstance(found[i], str)}
        if not left:
            break
    return found


def _one_axis_each(places: list[Place], pick: Callable[..., int]) -> list[Place]:
    """Return the places along the first axis of each leaf, or along the last."""
    chosen: dict[str, int] = {}
    for place in places:
        axis = place.member.axis
        chosen[place.leaf] = pick(axis, chosen.get(place.leaf, axis))
    return [place for place in places if place.member.axis == chosen[place.leaf]]


def _with_zeros(generic: dict[str, Any], groups: Any) -> dict[str, np.ndarray]:
    """Return the leaves in which the first unit of some groups has weights: zeros."""
    zeroed: dict[str, np.ndarray] = {}
    for member, _ in (place for group in groups for place in group):
        values = zeroed.setdefault(member.leaf, generic[member.leaf].copy())
        np.moveaxis(values, member.axis, 0)[member.positions[0]] = 0
    return zeroed


def _reason(cut: GroupCut) -> str:
    """Return why the first unit of a group stays: the first of the reasons."""
    return re.sub(r"^\d+ ", "", cut.reasons[0])
