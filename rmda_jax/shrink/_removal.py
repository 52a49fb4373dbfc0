"""Which units can go: marked one after another, until none is left to mark.

A unit can go where its terms of every sum over units (a contraction of two arrays, the
input channels of a convolution) are known. If they are zero they are just missed; if
not, a bias must take them. What goes takes entries of other leaves along, so that more
may go.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jax import lax

from rmda_jax.shrink._flow import Seen
from rmda_jax.shrink._known import Evaluation, Known, Sum
from rmda_jax.shrink._spaces import Axis, Space

Marks = dict[Space, np.ndarray]
"""For every set of units, which of them."""

_ROUNDING = 64 * np.finfo(np.float32).eps  # relative: sums in another order


class Terms(NamedTuple):
    """What is known of the terms of one sum that stem from one set of units."""

    product: "Product"
    zero: np.ndarray  # bool, per unit
    constant: np.ndarray  # bool, per unit; zero or not


class Product:
    """A contraction or a convolution: a batch of sums over hidden units."""

    def __init__(self, seen: Seen, operands: tuple[Known, Known] | None) -> None:
        self.eqn, self.operands = seen.eqn, operands
        self.axes = tuple(x.axes for x in seen.operands)
        self.result = seen.results[0].axes
        self.label = (
            " and ".join(x.leaf for x in seen.operands if x.leaf) or "a product"
        )
        if self.is_convolution:
            numbers = self.eqn.params["dimension_numbers"]
            self.summed = (numbers.lhs_spec[1],), (numbers.rhs_spec[1],)
            self.batch = (), ()
        else:
            self.summed, self.batch = self.eqn.params["dimension_numbers"]

    @property
    def is_convolution(self) -> bool:
        """Whether windows are slid."""
        return self.eqn.primitive.name == "conv_general_dilated"

    @property
    def groups(self) -> int:
        """Of the channels of a convolution."""
        return self.eqn.params.get("feature_group_count", 1)

    def places(self) -> Iterator[tuple[int, Space, np.ndarray]]:
        """Yield the sets of units summed over, and where they lie on which axis."""
        # In groups, the units summed over are those of the kernel.
        sides = (1,) if self.groups > 1 else (0, 1)
        for n in range(len(self.summed[0])):
            found = {}
            for side in sides:
                axis = self.axes[side][self.summed[side][n]]
                for atom, positions in places(axis):
                    found.setdefault(atom, []).append(positions)
            for atom, positions in found.items():
                yield n, atom, np.concatenate(positions, axis=1)

    def terms(self, gone: Marks) -> Iterator[tuple[Space, Terms]]:
        """Yield what is known of the terms of every set of units."""
        # Every statement is true of all entries of an array that has none.
        if self.operands is None or any(x.value.size == 0 for x in self.operands):
            for _, atom, _ in self.places():
                nothing = np.zeros(atom.size, bool)
                yield atom, Terms(self, nothing, nothing)
            return
        zero, constant = self._known(gone)
        for n, atom, positions in self.places():
            others = tuple(i for i in range(zero.ndim) if i != n)
            units = (np.asarray(x.all(others))[positions] for x in (zero, constant))
            yield atom, Terms(self, *(np.asarray(x.all(axis=1)) for x in units))

    def constants(self, gone: Marks) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums of the terms that are gone, and where they still are read."""
        assert self.operands is not None
        (a, b), axes = self.operands, self.axes[0]
        missing = np.zeros(a.value.shape, bool)
        for i in self.summed[0]:
            missing |= _along(axes[i], i, gone, missing.ndim)
        if self.groups > 1:
            of_kernel = _along(self.axes[1][self.summed[1][0]], 0, gone, 1)
            shape = [1] * missing.ndim
            shape[self.summed[0][0]] = -1
            missing |= np.tile(of_kernel, self.groups).reshape(shape)
        params = self.eqn.params | {"precision": (lax.Precision.HIGHEST,) * 2}
        terms = np.where(missing, a.value, np.zeros((), a.value.dtype))
        out = np.asarray(self.eqn.primitive.bind(terms, b.value, **params))
        return out, ~lost(self.result, gone, out.shape)

    def _known(self, gone: Marks) -> tuple[np.ndarray, np.ndarray]:
        """Return which terms are zero, and which are constant; an axis per sum."""
        sides = list(enumerate(self.operands or ()))
        missed = [lost(self.axes[i], gone, x.value.shape) for i, x in sides]
        zero = [self._over(i, x.zero | missed[i], np.all) for i, x in sides]
        known = [self._over(i, ~x.varies | missed[i], np.all) for i, x in sides]
        zero, known = zero[0] | zero[1], known[0] & known[1]
        # A convolution adds up windows, whose sum varies where the activation does.
        sides = sides[:1] if self.is_convolution else sides
        uniform = np.zeros_like(zero)
        for i, x in sides if (known & ~zero).any() else ():
            wide = x.value.astype(np.promote_types(x.value.dtype, np.float32))
            most = self._over(i, np.where(missed[i], -np.inf, wide), np.max)
            least = self._over(i, np.where(missed[i], np.inf, wide), np.min)
            uniform |= most <= least
        batch = tuple(range(zero.ndim - len(self.summed[0])))
        constant = zero | (known & uniform)
        return np.asarray(zero.all(batch)), np.asarray(constant.all(batch))

    def _over(self, side: int, x: np.ndarray, how: Any) -> np.ndarray:
        """Reduce what is neither a batch nor summed; those come first, in order."""
        first = (*self.batch[side], *self.summed[side])
        if self.is_convolution:
            if side == 0:
                x = np.moveaxis(x, first[0], 0)
                return how(x.reshape(self.groups, len(x) // self.groups, -1), axis=2)
            filters, inputs = self.eqn.params["dimension_numbers"].rhs_spec[:2]
            x = np.moveaxis(x, (filters, inputs), (0, 1))
            x = x.reshape(self.groups, len(x) // self.groups, x.shape[1], -1)
            return how(x, axis=(1, 3))
        x = np.moveaxis(x, first, range(len(first)))
        return how(x, axis=tuple(range(len(first), x.ndim)))


def places(axis: Axis) -> Iterator[tuple[Space, np.ndarray]]:
    """Yield the sets of units of an axis, and where along it they lie."""
    parts = tuple(space or Space(n) for space, n in axis)
    whole = Space(math.prod(n for _, n in axis), "product", parts)
    return whole.atoms()


def lost(axes: tuple[Axis, ...], gone: Marks, shape: tuple[int, ...]) -> np.ndarray:
    """Return which entries of an array go with the units that are gone."""
    entries = np.zeros(shape, bool)
    for i, axis in enumerate(axes):
        entries |= _along(axis, i, gone, len(shape))
    return entries


def _along(axis: Axis, place: int, gone: Marks, ndim: int) -> np.ndarray:
    mask = np.zeros(math.prod(n for _, n in axis), bool)
    for atom, positions in places(axis):
        if atom in gone:
            mask[positions[gone[atom]]] = True
    shape = [1] * ndim
    shape[place] = -1
    return mask.reshape(shape)


class Removal:
    """Marks the units that can go."""

    def __init__(
        self, products: dict[Any, Product], found: Evaluation, candidates: Marks
    ) -> None:
        self.products, self.found, self.candidates = products, found, candidates
        self.gone: Marks = {a: np.zeros_like(c) for a, c in candidates.items()}
        while _some(more := self._more()):
            for atom, new in more.items():
                self.gone[atom] |= new

    @property
    def cut(self) -> list[Space]:
        """The sets of which units go."""
        return [atom for atom, gone in self.gone.items() if gone.any()]

    def terms(self) -> dict[Space, list[Terms]]:
        """Return for every set of units the sums that it has terms in."""
        found: dict[Space, list[Terms]] = {atom: [] for atom in self.candidates}
        for product in self.products.values():
            if any(atom in found for _, atom, _ in product.places()):
                for atom, terms in product.terms(self.gone):
                    if atom in found:
                        found[atom].append(terms)
        return found

    def folds(self, gone: Marks) -> dict[str, np.ndarray] | Product:
        """Return what biases must take, or a product that has none for it."""
        folds: dict[str, np.ndarray] = {}
        for path, product in self.products.items():
            if product.operands is None or not any(
                gone[atom].any() for _, atom, _ in product.places() if atom in gone
            ):
                continue
            constants, live = product.constants(gone)
            if not constants[live].any():
                continue
            fold = self._fold(path, constants, live)
            if fold is None:
                return product
            leaf = self.found.sums[path].leaf
            folds[leaf] = fold
        return folds

    def _fold(
        self, path: Any, constants: np.ndarray, live: np.ndarray
    ) -> np.ndarray | None:
        """Return what one bias must take, if it can."""
        added: Sum | None = self.found.sums.get(path)
        reads = self.found.reads
        if added is None or reads[path] != 1 or reads[added.leaf] != 1:
            return None
        live = live.ravel()[added.site_index]
        constants = added.sign * constants.ravel()[added.site_index]
        fold = np.zeros(added.leaf_index.max() + 1, constants.dtype)
        fold[added.leaf_index[live]] = constants[live]
        error = np.abs(constants - fold[added.leaf_index])[live].max(initial=0)
        return fold if error <= _ROUNDING * np.abs(constants).max() else None

    def _more(self) -> Marks:
        """Return the units that can go by what is gone already."""
        terms = self.terms()
        zero, constant = {}, {}
        for atom, candidates in self.candidates.items():
            possible = candidates & ~self.gone[atom] & bool(terms[atom])
            zero[atom] = possible.copy()
            constant[atom] = possible.copy()
            for x in terms[atom]:
                zero[atom] &= x.zero
                constant[atom] &= x.constant
        if _some(zero := self._but_one(zero)):
            return zero
        constant = self._but_one(constant)
        while _some(constant):
            gone = {atom: self.gone[atom] | new for atom, new in constant.items()}
            failing = self.folds(gone)
            if not isinstance(failing, Product):
                break
            before = {atom: new.copy() for atom, new in constant.items()}
            for atom, new in constant.items():
                for x in terms[atom]:
                    if x.product is failing:
                        new &= x.zero
            if all((before[atom] == new).all() for atom, new in constant.items()):
                return {}  # at the edge of what rounding allows
        return constant

    def _but_one(self, new: Marks) -> Marks:
        """Leave one unit of every set: a layer of none is none."""
        for atom, units in new.items():
            if (units | self.gone[atom]).all():
                units[np.flatnonzero(units)[:1]] = False
        return new


def _some(marks: Marks) -> bool:
    return any(units.any() for units in marks.values())
