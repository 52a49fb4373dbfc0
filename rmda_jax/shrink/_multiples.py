"""Widths that fit the tiles of the hardware: units stay that could have gone.

A matrix unit multiplies tiles, of 8, 16 or 128 numbers along an axis. A width of 97
takes as long there as one of 128, and a width of 96 is what it pays for.
"""

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from rmda_jax.regularizers._checks import check_parameter
from rmda_jax.shrink._removal import Removal
from rmda_jax.shrink._trace import UnitGroup
from rmda_jax.shrink.interpret._axes import SCAN
from rmda_jax.shrink.interpret._index_sets import IndexSet, UnitMasks

MultipleOf: TypeAlias = int | Mapping[str, int]
"""What widths are to be multiples of: everywhere, or by patterns of leaves."""


def multiples_of_leaves(
    multiple_of: MultipleOf, names: Sequence[str]
) -> dict[str, int]:
    """Return for each leaf what its widths are to be multiples of, if not of 1.

    Raises:
      ValueError: a number is not a positive integer, or a pattern matches no leaf.
    """
    by_pattern = (
        dict(multiple_of) if isinstance(multiple_of, Mapping) else {"*": multiple_of}
    )
    found: dict[str, int] = {}
    for pattern, multiple in by_pattern.items():
        check_parameter("multiple_of", multiple, at_least=1, integer=True)
        leaves = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not leaves:
            raise ValueError(
                f"`multiple_of` has the pattern {pattern!r}, which matches no "
                f"parameter. The names are: {', '.join(names)}."
            )
        for name in leaves:
            _ = found.setdefault(name, int(multiple))
    return {name: multiple for name, multiple in found.items() if multiple > 1}


def fitted(
    remove: Callable[[UnitMasks], Removal],
    candidates: UnitMasks,
    units: Mapping[IndexSet, UnitGroup],
    multiples: Mapping[str, int],
) -> tuple[Removal, UnitMasks]:
    """Return a removal that leaves multiples, and the units that stay for them.

    A unit that stays may be what others needed to go, so it is done again until all
    widths fit. A group that is no multiple as it is may stay whole.

    Args:
      remove: Which units of some candidates can be removed.
      candidates: The units that may go.
      units: The group of units of each atom.
      multiples: As `multiples_of_leaves` returns them.
    """
    held = {atom: np.zeros_like(given) for atom, given in candidates.items()}
    while True:
        removal = remove({a: given & ~held[a] for a, given in candidates.items()})
        if not multiples or not _hold_more(removal.removed, units, multiples, held):
            return removal, held


def _hold_more(
    removed: UnitMasks,
    units: Mapping[IndexSet, UnitGroup],
    multiples: Mapping[str, int],
    held: UnitMasks,
) -> bool:
    """Add to the units that stay, and return whether there were any to add."""
    removed, more = {atom: gone.copy() for atom, gone in removed.items()}, False
    # Heads before the dimensions inside of them, whose number is then known.
    for atom in sorted(removed, key=lambda atom: _spread(units[atom])):
        if SCAN in units[atom].frozen:
            continue  # layers are no width
        gone, positions = removed[atom], _removed_positions(removed, units)
        step = _step(units[atom], positions, gone, multiples)
        left = int(gone.size - gone.sum())
        wanted = min(gone.size, math.ceil(left / step) * step)
        stay = np.flatnonzero(gone)[: wanted - left]
        held[atom][stay], gone[stay] = True, False
        more |= stay.size > 0
    return more


def _spread(group: UnitGroup) -> int:
    """Return how far the positions of one unit lie apart, at the most."""
    spans = (np.ptp(member.positions[:1]) for member in group.members if group.size)
    return max(map(int, spans), default=0)


def _removed_positions(
    removed: UnitMasks, units: Mapping[IndexSet, UnitGroup]
) -> dict[tuple[str, int], set[int]]:
    """Return which positions are removed along the axes of the leaves."""
    found: dict[tuple[str, int], set[int]] = {}
    for atom, gone in removed.items():
        for member in units[atom].members:
            along = found.setdefault((member.leaf, member.axis), set())
            along |= set(member.positions[gone].ravel().tolist())
    return found


def _step(
    group: UnitGroup,
    removed: Mapping[tuple[str, int], set[int]],
    gone: np.ndarray,
    multiples: Mapping[str, int],
) -> int:
    """Return in which steps the units of a group may go, for widths to be multiples."""
    step = 1
    for member in group.members:
        multiple = multiples.get(member.leaf, 1)
        # A unit may have several positions, as a head has: those that other units, such
        # as the dimensions inside of heads, have not removed.
        staying = np.flatnonzero(~gone)[:1]
        of_one = set(member.positions[staying].ravel().tolist())
        width = len(of_one - removed[member.leaf, member.axis])
        step = math.lcm(step, multiple // math.gcd(multiple, width))
    return step
