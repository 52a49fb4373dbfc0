"""What becomes of every group of units, and why those stay that do."""

import dataclasses
from collections import Counter
from collections.abc import Container, Sequence
from typing import TypeAlias

import numpy as np

from rmda_jax.shrink._removal import Removal, Terms
from rmda_jax.shrink._trace import Traced, UnitGroup
from rmda_jax.shrink.interpret._index_sets import IndexSet, UnitMasks

NotKnown: TypeAlias = dict[IndexSet, tuple[np.ndarray, str]]
"""For each atom that is not only in sums: which units must stay for that, and why."""


@dataclasses.dataclass(frozen=True)
class GroupCut:
    """A group of units, and which of them are removed."""

    units: UnitGroup
    removed: np.ndarray  # bool, one per unit
    reasons: tuple[str, ...]  # why the others stay
    all_zero: bool = False  # also that one which stays as the last

    @property
    def left(self) -> int:
        """How many units stay."""
        return int(self.units.size - self.removed.sum())

    @property
    def name(self) -> str:
        """The axes that the units lie along, three at the most."""
        return self.units.name


def zero_groups(cuts: Sequence[GroupCut]) -> list[str]:
    """Return the names of the groups of which all units are zero."""
    return [cut.name for cut in cuts if cut.all_zero]


def cuts_of(
    found: Traced,
    removal: Removal,
    held: UnitMasks,
    kept: Container[IndexSet],
    not_known: NotKnown,
) -> tuple[GroupCut, ...]:
    """Return what becomes of every group of units."""
    terms, cuts = removal.terms(), []
    for atom, units in found.units.items():
        if atom in kept:
            reasons = ("the function computes with their number",)
        else:
            unread = np.zeros(units.size, bool), ""
            unknown = not_known.get(atom, unread)
            held_back = held.get(atom, unread[0])
            reasons = _reasons(
                units, removal, atom, terms.get(atom), unknown, held_back
            )
        removed = removal.removed.get(atom, np.zeros(units.size, bool))
        sums = terms.get(atom)
        all_zero = bool(sums) and all(x.zero.all() for x in sums)
        cuts.append(GroupCut(units, removed, reasons, all_zero))
    return tuple(cuts)


def _reasons(
    units: UnitGroup,
    removal: Removal,
    atom: IndexSet,
    terms: list[Terms] | None,
    not_known: tuple[np.ndarray, str],
    held: np.ndarray,
) -> tuple[str, ...]:
    """Return why the other units stay, and how many for each reason."""
    if units.frozen and (
        atom not in removal.removed or not removal.removed[atom].any()
    ):
        return tuple(sorted(units.frozen))
    if not terms and atom not in removal.read_whole:
        return ("nothing reads them",)
    reasons: Counter[str] = Counter()
    terms = terms or []
    for i in np.flatnonzero(~removal.removed[atom]):
        readers = [t.contraction.label for t in terms if not t.constant[i]]
        takers = [t.contraction.label for t in terms if not t.zero[i]]
        if not_known[0][i]:
            reasons[not_known[1]] += 1
        elif held[i]:
            reasons["kept for the width to be a multiple"] += 1
        elif not removal.candidates[atom][i]:
            reasons["not finite"] += 1
        elif readers:
            reasons[f"read by {readers[0]}"] += 1
        elif takers:
            reasons[f"constant, but no bias takes it behind {takers[0]}"] += 1
        else:
            reasons["stays as the last"] += 1
    return tuple(f"{n} {why}" for why, n in reasons.items())
