"""Which units can be removed: a fixpoint iteration, for a removal may allow others.

A unit can go where its terms of every sum over units (a contraction of two arrays, the
input channels of a convolution) are known. If they are zero nothing changes without
them; if not, a bias must take their sum. With a unit go the entries of all leaves that
it indexes, so that fewer entries must be zero for further units.
"""

from collections.abc import Callable, Container, Iterator
from typing import NamedTuple

import numpy as np
from jax import lax

from rmda_jax.shrink.interpret._axes import EqnAxes
from rmda_jax.shrink.interpret._index_sets import (
    Axis,
    IndexSet,
    UnitMasks,
    atoms_of,
    removed_along,
)
from rmda_jax.shrink.interpret._interpreter import Path
from rmda_jax.shrink.interpret._values import BiasAdd, PartialValue, ValueInterpreter

_ROUNDING = 64 * np.finfo(np.float32).eps  # relative: sums in another order


class Terms(NamedTuple):
    """What is known of the terms that the units of one atom have in one contraction."""

    contraction: "Contraction"
    zero: np.ndarray  # bool, per unit
    constant: np.ndarray  # bool, per unit; zero or not


class Contraction:
    """A matrix product or a convolution: a batch of sums over hidden units."""

    def __init__(
        self, found: EqnAxes, operands: tuple[PartialValue, PartialValue] | None
    ) -> None:
        self.eqn, self.operands = found.eqn, operands
        self.axes = tuple(x.axes for x in found.operands[:2])
        self.result = found.results[0].axes
        self.label = (
            " and ".join(x.leaf for x in found.operands[:2] if x.leaf) or "a product"
        )
        if self.is_convolution:
            numbers = self.eqn.params["dimension_numbers"]
            self.summed = (numbers.lhs_spec[1],), (numbers.rhs_spec[1],)
            self.batch = (), ()
        elif self.is_ragged:
            numbers = self.eqn.params["ragged_dot_dimension_numbers"]
            self.summed, self.batch = numbers.dot_dimension_numbers
        else:
            self.summed, self.batch = self.eqn.params["dimension_numbers"]

    @property
    def is_convolution(self) -> bool:
        """Whether it is a convolution."""
        return self.eqn.primitive.name == "conv_general_dilated"

    @property
    def is_ragged(self) -> bool:
        """Whether it is a product of rows with matrices by groups, as of experts."""
        return self.eqn.primitive.name == "ragged_dot_general"

    @property
    def n_groups(self) -> int:
        """The number of groups of a convolution's channels."""
        return self.eqn.params.get("feature_group_count", 1)

    def atoms(self) -> Iterator[tuple[int, IndexSet, np.ndarray]]:
        """Yield the atoms summed over: which summed axis, and where along it."""
        # In a grouped convolution the input channels of the kernel are those of one
        # group; those of the activation are of all groups.
        sides = (1,) if self.n_groups > 1 else (0, 1)
        for n in range(len(self.summed[0])):
            found: dict[IndexSet, list[np.ndarray]] = {}
            for side in sides:
                axis = self.axes[side][self.summed[side][n]]
                for atom, positions in atoms_of(axis):
                    found.setdefault(atom, []).append(positions)
            for atom, positions in found.items():
                yield n, atom, np.concatenate(positions, axis=1)

    def terms(
        self, removed: UnitMasks, *, of_removed: bool = False
    ) -> Iterator[tuple[IndexSet, Terms]]:
        """Yield what is known of the terms of every atom, without removed entries.

        With ``of_removed`` also the terms of the removed units count, as they must be
        known: only the entries of results that are removed are left out.
        """
        # Every statement is true of all entries of an array that has none.
        if self.operands is None or any(x.value.size == 0 for x in self.operands):
            for _, atom, _ in self.atoms():
                nothing = np.zeros(atom.size, bool)
                yield atom, Terms(self, nothing, nothing)
            return
        zero, constant = self._zero_and_constant(removed, of_removed)
        for n, atom, positions in self.atoms():
            others = tuple(i for i in range(zero.ndim) if i != n)
            units = (np.asarray(x.all(others))[positions] for x in (zero, constant))
            yield atom, Terms(self, *(np.asarray(x.all(axis=1)) for x in units))

    def constants(self, removed: UnitMasks) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums of removed terms, and which of them are entries that stay."""
        assert self.operands is not None
        (a, b), axes = self.operands, self.axes[0]
        missing = np.zeros(a.value.shape, bool)
        for i in self.summed[0]:
            missing |= _mask_along(axes[i], i, removed, missing.ndim)
        if self.n_groups > 1:
            of_kernel = _mask_along(self.axes[1][self.summed[1][0]], 0, removed, 1)
            shape = [1] * missing.ndim
            shape[self.summed[0][0]] = -1
            missing |= np.tile(of_kernel, self.n_groups).reshape(shape)
        # The contraction of the removed terms alone. They are zero or constant: where a
        # factor is unknown the other is 0, so that 0 may stand for the unknown one.
        params = self.eqn.params | {"precision": (lax.Precision.HIGHEST,) * 2}
        terms = np.where(missing, a.value, np.zeros((), a.value.dtype))
        if not self.is_ragged and terms.any() and b.value.any():
            out = np.asarray(self.eqn.primitive.bind(terms, b.value, **params))
        else:
            result = self.eqn.outvars[0].aval
            out = np.zeros(result.shape, result.dtype)
        return out, ~removed_entries(self.result, removed, out.shape)

    def _zero_and_constant(
        self, removed: UnitMasks, of_removed: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return which terms are zero, and which are constant; an axis per sum.

        A term is a product of one factor from either operand. It is zero if one of the
        two is zero in all entries that stay. It is constant if both are known and one
        of them is the same everywhere: then its sum is that of one bias, not of a
        different one for each sample or position.
        """
        sides = list(enumerate(self.operands or ()))
        summed = self.summed if of_removed else ((), ())
        absent = [
            removed_entries(self.axes[i], removed, x.value.shape, summed[i])
            for i, x in sides
        ]
        zero = [self._reduced(i, x.zero | absent[i], np.all) for i, x in sides]
        known = [
            self._reduced(i, ~x.unknown_mask | absent[i], np.all) for i, x in sides
        ]
        zero, known = zero[0] | zero[1], known[0] & known[1]
        # A convolution sums windows, which vary at the borders if the activation does:
        # there it must be the activation that is the same everywhere.
        # The groups of a ragged product vary: no bias takes a constant of them.
        sides = sides[:1] if self.is_convolution else () if self.is_ragged else sides
        uniform = np.zeros_like(zero)
        for i, x in sides if (known & ~zero).any() else ():
            wide = x.value.astype(np.promote_types(x.value.dtype, np.float32))
            largest = self._reduced(i, np.where(absent[i], -np.inf, wide), np.max)
            least = self._reduced(i, np.where(absent[i], np.inf, wide), np.min)
            # Less where all entries are removed: max of nothing is below its min.
            uniform |= largest <= least
        batch = tuple(range(zero.ndim - len(self.summed[0])))
        constant = zero | (known & uniform)
        return np.asarray(zero.all(batch)), np.asarray(constant.all(batch))

    def _reduced(
        self, side: int, x: np.ndarray, how: Callable[..., np.ndarray]
    ) -> np.ndarray:
        """Reduce an operand to its axes of the batch and of the sums, in that order."""
        first = (*self.batch[side], *self.summed[side])
        if self.is_convolution:
            # The groups take the place of the batch: (groups, channels of a group).
            if side == 0:
                x = np.moveaxis(x, first[0], 0)
                n_channels = len(x) // self.n_groups
                return how(x.reshape(self.n_groups, n_channels, -1), axis=2)
            filters, inputs = self.eqn.params["dimension_numbers"].rhs_spec[:2]
            x = np.moveaxis(x, (filters, inputs), (0, 1))
            x = x.reshape(self.n_groups, len(x) // self.n_groups, x.shape[1], -1)
            return how(x, axis=(1, 3))
        x = np.moveaxis(x, first, range(len(first)))
        return how(x, axis=tuple(range(len(first), x.ndim)))


def removed_entries(
    axes: tuple[Axis, ...],
    removed: UnitMasks,
    shape: tuple[int, ...],
    but: Container[int] = (),
) -> np.ndarray:
    """Return which entries are removed with the units, but for those of some axes."""
    entries = np.zeros(shape, bool)
    for i, axis in enumerate(axes):
        if i not in but:
            entries |= _mask_along(axis, i, removed, len(shape))
    return entries


def _mask_along(axis: Axis, place: int, removed: UnitMasks, ndim: int) -> np.ndarray:
    """Return which positions along an axis are removed, to be broadcast."""
    shape = [1] * ndim
    shape[place] = -1
    return removed_along(axis, removed).reshape(shape)


class Removal:
    """Finds the units that can be removed, by steps until a step removes none.

    Args:
      contractions: All sums over units.
      values: What is known of all arrays.
      candidates: The units that may go.
      read_whole: Atoms whose units are read otherwise, by equations that know them.
      may_vanish: Atoms of which all units may go; of others one stays.
    """

    def __init__(
        self,
        contractions: dict[Path, Contraction],
        values: ValueInterpreter,
        candidates: UnitMasks,
        read_whole: Container[IndexSet] = (),
        may_vanish: Container[IndexSet] = (),
    ) -> None:
        self.contractions, self.values = contractions, values
        self.candidates, self.read_whole = candidates, read_whole
        self.may_vanish = may_vanish
        self.removed = {a: np.zeros_like(c) for a, c in candidates.items()}
        while any_set(step := self.step()):
            for atom, new in step.items():
                self.removed[atom] |= new

    @property
    def atoms(self) -> list[IndexSet]:
        """The atoms of which units are removed."""
        return [atom for atom, removed in self.removed.items() if removed.any()]

    def terms(self) -> dict[IndexSet, list[Terms]]:
        """Return for every atom the contractions that it has terms in."""
        found: dict[IndexSet, list[Terms]] = {atom: [] for atom in self.candidates}
        for contraction in self.contractions.values():
            if any(atom in found for _, atom, _ in contraction.atoms()):
                for atom, terms in contraction.terms(self.removed):
                    if atom in found:
                        found[atom].append(terms)
        return found

    def folds(self, removed: UnitMasks) -> dict[str, np.ndarray] | Contraction:
        """Return what biases must take, or a contraction that has no bias for it."""
        folds: dict[str, np.ndarray] = {}
        for path, contraction in self.contractions.items():
            if contraction.operands is None or not any(
                removed[atom].any()
                for _, atom, _ in contraction.atoms()
                if atom in removed
            ):
                continue
            constants, staying = contraction.constants(removed)
            if not constants[staying].any():
                continue
            fold = self._fold(path, constants, staying)
            if fold is None:
                return contraction
            leaf = self.values.bias_adds[path].leaf
            folds[leaf] = fold
        return folds

    def _fold(
        self, path: Path, constants: np.ndarray, staying: np.ndarray
    ) -> np.ndarray | None:
        """Return what one bias must take, if there is a bias that can."""
        added: BiasAdd | None = self.values.bias_adds.get(path)
        reads = self.values.reads
        # Another reader of the result would miss the constants, and another reader of
        # the bias would get them in addition.
        if added is None or reads[path] != 1 or reads[added.leaf] != 1:
            return None
        staying = staying.ravel()[added.contraction_positions]
        constants = added.sign * constants.ravel()[added.contraction_positions]
        fold = np.zeros(added.leaf_positions.max() + 1, constants.dtype)
        fold[added.leaf_positions[staying]] = constants[staying]
        # The bias has one entry for many samples and positions: all need the same.
        error = np.abs(constants - fold[added.leaf_positions])[staying].max(initial=0)
        return fold if error <= _ROUNDING * np.abs(constants).max() else None

    def step(self) -> UnitMasks:
        """Return the units that can be removed in addition to those that are."""
        terms = self.terms()
        zero, constant = {}, {}
        for atom, candidates in self.candidates.items():
            is_read = bool(terms[atom]) or atom in self.read_whole
            possible = candidates & ~self.removed[atom] & is_read
            zero[atom] = possible.copy()
            constant[atom] = possible.copy()
            for x in terms[atom]:
                zero[atom] &= x.zero
                constant[atom] &= x.constant
        # Units whose terms are zero need no bias: they go first.
        if any_set(zero := self._keep_one(zero)):
            return zero
        # Then all constant ones at once, less those of a contraction whose constants no
        # bias takes, until biases take all constants that are left.
        constant = self._keep_one(constant)
        while any_set(constant):
            removed = {a: self.removed[a] | new for a, new in constant.items()}
            failing = self.folds(removed)
            if not isinstance(failing, Contraction):
                break
            before = {atom: new.copy() for atom, new in constant.items()}
            for atom, new in constant.items():
                for x in terms[atom]:
                    if x.contraction is failing:
                        new &= x.zero
            if all((before[atom] == new).all() for atom, new in constant.items()):
                # No progress: the remaining constants are zero up to rounding.
                return {}
        return constant

    def _keep_one(self, new: UnitMasks) -> UnitMasks:
        """Keep at least one unit of an atom: most frameworks reject zero widths."""
        for atom, units in new.items():
            if atom not in self.may_vanish and (units | self.removed[atom]).all():
                units[np.flatnonzero(units)[:1]] = False
        return new


def any_set(masks: UnitMasks) -> bool:
    """Return whether any unit is set."""
    return any(units.any() for units in masks.values())
