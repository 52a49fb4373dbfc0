"""Groups for depth: whole branches, and layers of a scan, in place of units.

A branch is what the function computes beside other ways from its inputs to its outputs.
If no weight reads its hidden units it can go as a whole. Layers of a scan share their
shapes: one can only go as a whole, which takes that it is the identity.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rmda_jax.shrink._evaluated import evaluated
from rmda_jax.shrink._rule_units import generic_values
from rmda_jax.shrink._trace import Traced, UnitGroup
from rmda_jax.shrink._unit_places import Place
from rmda_jax.shrink.interpret._index_sets import IndexSet
from rmda_jax.shrink.interpret._values import ValueInterpreter


def branches_and_layers(
    traces: Traced,
    leaves: Sequence[Any],
    found: Sequence[list[Place] | str],
    allowed: set[str],
) -> list[list[Place] | str]:
    """Return for each group of units the places of one group for all, or for a layer.

    Args:
      traces: The trace.
      leaves: The params; of floating leaves the values do not count.
      found: For each group of units the places that remove a unit, or why it stays.
      allowed: The leaves that may be regularized.

    Returns:
      For each group of units its places: of branches all units are one. Or why it has
      none; "" if it lies in a branch or in layers that go as a whole.
    """
    values = dict(zip(traces.names, generic_values(leaves), strict=True))
    stacked = {
        member.leaf
        for atom, units in traces.units.items()
        if traces.may_lose_layers(atom)
        for member in units.members
    }
    several = {
        number: _as_one(places)
        for number, places in enumerate(found)
        if isinstance(places, list) and not stacked & {p.leaf for p in places}
    }
    branches = _passable(traces, values, several)
    result: list[list[Place] | str] = []
    known: list[set[str]] = []  # heads, and the dimensions inside them, are one branch
    for number, (atom, units) in enumerate(traces.units.items()):
        leaves_of = {place.leaf for place in several.get(number, [])}
        if traces.may_lose_layers(atom):
            result.append(_of_layers(traces, values, atom, units, allowed))
        elif number not in several or leaves_of in known:
            result.append("")
        elif number in branches:
            result.append(several[number])
            known.append(leaves_of)
        else:
            result.append("without them the output is constant")
    return result


def layers_among(
    traces: Traced, found: Sequence[list[Place] | str]
) -> list[list[Place]]:
    """Return the places of layers of scans alone, an empty list for other units."""
    rows = zip(traces.units, found, strict=True)
    return [
        x if isinstance(x, list) and traces.may_lose_layers(atom) else []
        for atom, x in rows
    ]


def _as_one(places: list[Place]) -> list[Place]:
    """Return places in which all units of a group are a single one."""
    return [
        Place(
            dataclasses.replace(member, positions=member.positions.reshape(1, -1)),
            shape,
        )
        for member, shape in places
    ]


def _passable(
    traces: Traced, values: dict[str, Any], several: dict[int, list[Place]]
) -> set[int]:
    """Return the groups without which every output depends on the inputs as before.

    Most are: all are tried at once, and in halves if that fails.
    """
    masks = lambda found: [x.unknown_mask for x in found.outputs]
    before = masks(evaluated(traces, list(values.values())))

    def passing(numbers: list[int]) -> set[int]:
        if not numbers:
            return set()
        zeros = [place for number in numbers for place in several[number]]
        after = masks(_evaluated_with_zeros(traces, values, zeros))
        if all(map(np.array_equal, before, after)):
            return set(numbers)
        if len(numbers) == 1:
            return set()
        half = len(numbers) // 2
        return passing(numbers[:half]) | passing(numbers[half:])

    return passing(list(several))


def _of_layers(
    traces: Traced,
    values: dict[str, Any],
    atom: IndexSet,
    units: UnitGroup,
    allowed: set[str],
) -> list[Place] | str:
    """Return the last leaves that make a layer of a scan the identity, or why none do.

    Leaves are left out in the order in which they act, while the others are enough.
    """
    paths = [
        p for p, atoms in traces.layers.items() if any(a is atom for a, _ in atoms)
    ]
    identity: Callable[[list[Place]], bool] = lambda zeros: all(
        _evaluated_with_zeros(traces, values, zeros).unchanged[path][0]
        for path in paths
    )
    acting = [role.leaf for role in traces.axes.roles]
    first_use = lambda p: acting.index(p.leaf) if p.leaf in acting else -1
    places = [
        Place(member, values[member.leaf].shape)
        for member in units.members
        if member.leaf in allowed
    ]
    if not identity(places):
        return "zeros in all of their weights do not make a layer the identity"
    for place in sorted(places, key=first_use):
        others = [other for other in places if other is not place]
        if identity(others):
            places = others
    return places or "the scan carries nothing"


def _evaluated_with_zeros(
    traces: Traced, values: dict[str, Any], places: Sequence[Place]
) -> ValueInterpreter:
    """Evaluate the jaxpr with zeros where the first unit of some places lies."""
    zeroed = dict(values)
    for member, _ in places:
        if zeroed[member.leaf] is values[member.leaf]:
            zeroed[member.leaf] = values[member.leaf].copy()
        np.moveaxis(zeroed[member.leaf], member.axis, 0)[member.positions[0]] = 0
    return evaluated(traces, list(zeroed.values()))
