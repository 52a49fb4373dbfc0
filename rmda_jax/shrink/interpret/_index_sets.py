"""Index sets: what the positions along an axis stand for, and which are the same.

An index set is found in a model, such as the channels between two layers. Axes whose
entries must be removed together share one, which `_unification` establishes.
An axis may be a product of index sets (channels flattened with pixels; heads times head
dimension) or a sum of them (a concatenation, also with its elements in another order).
Such an index set has parts; one that has none is an atom, and units are elements of
atoms. A sum that is reshaped has digits: see `IndexSet`.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import numpy as np


@dataclasses.dataclass(eq=False)
class IndexSet:
    """A node of the union-find forest; only its `root` says what it is.

    A digit is what a sum becomes along one axis of several that it is reshaped into:
    the element i of the sum, its only part, lies at (i // stride) % size. Elements of
    the sum go one by one, and those of a digit do not: along a digit nothing is removed
    before all digits of the sum are one axis again. If one is something else as well,
    they become the factors of a product.
    """

    size: int
    kind: Literal["atom", "product", "sum", "digit"] = "atom"
    parts: "tuple[IndexSet, ...]" = ()
    # Of a sum: which element of its parts, one after the other, lies at each position.
    order: np.ndarray | None = None
    stride: int = 1  # of a digit
    digits: "list[IndexSet]" = dataclasses.field(default_factory=list)  # of a sum
    reasons: set[str] = dataclasses.field(default_factory=set)  # why it is frozen
    parent: "IndexSet | None" = None

    @property
    def root(self) -> "IndexSet":
        """The representative of all index sets that are known to be the same."""
        node = self
        while node.parent is not None:
            node = node.parent
        return node

    def freeze(self, reason: str) -> None:
        """Forbid to remove units of this index set and of all its parts."""
        root = self.root
        root.reasons.add(reason)
        for part in root.parts:
            part.freeze(reason)

    def atoms(self) -> "Iterator[tuple[IndexSet, np.ndarray]]":
        """Yield the atoms, each with the positions of its elements in this index set.

        The positions have one row per element of the atom. An element has several
        where the atom is one part of a product: a channel that is flattened with
        pixels lies at as many positions as there are pixels.
        """
        root = self.root
        if root.kind == "atom":
            yield root, np.arange(root.size)[:, None]
            return
        if root.size == 0 or root.kind == "digit":
            return
        place = None if root.order is None else np.argsort(root.order)
        stride, offset = root.size, 0
        for part in root.parts:
            if root.kind == "sum":
                for atom, positions in part.atoms():
                    positions = offset + positions
                    yield atom, positions if place is None else place[positions]
                offset += part.size
                continue
            # In C order, an index of this part is repeated for each index of the parts
            # before it (`outer`), and is a block of `stride` positions, one for each
            # index of the parts after it.
            outer, stride = root.size // stride, stride // part.size
            repeats = np.arange(outer)[:, None] * stride * part.size
            rest = (repeats + np.arange(stride)).ravel()
            for atom, positions in part.atoms():
                scaled = positions[:, :, None] * stride + rest
                yield atom, scaled.reshape(atom.size, -1)


Dim: TypeAlias = "tuple[IndexSet | None, int]"
"""An index set and its size; None where the values do not depend on the index."""

Axis: TypeAlias = "tuple[Dim, ...]"
"""The dims whose product an axis is, the slowest first."""

UnitMasks: TypeAlias = dict[IndexSet, np.ndarray]
"""For every atom, which of its units: an array of booleans."""

EMPTY = "an array of length 0"
SUM_AND_PRODUCT = "a sum that is a product elsewhere"


def uniform(size: int) -> Axis:
    """Return an axis along which all values are the same."""
    return ((None, size),)


def is_uniform(axis: Axis) -> bool:
    """Return whether all values along an axis are the same."""
    return all(index_set is None for index_set, _ in axis)


def fresh(size: int, reason: str | None = None) -> Axis:
    """Return an axis with an index set of its own, frozen if there is a reason."""
    if size <= 1:
        return uniform(size)
    index_set = IndexSet(size)
    if reason is not None:
        index_set.freeze(reason)
    return ((index_set, size),)


def length(axis: Axis) -> int:
    """Return the length of an axis."""
    return math.prod(size for _, size in axis)


def atoms_of(axis: Axis) -> Iterator[tuple[IndexSet, np.ndarray]]:
    """Yield the atoms of an axis, and where along it their units lie."""
    parts = tuple(index_set or IndexSet(n) for index_set, n in axis)
    whole = IndexSet(length(axis), "product", parts)
    return whole.atoms()


def removed_along(axis: Axis, removed: UnitMasks) -> np.ndarray:
    """Return which positions along an axis are removed with the units."""
    mask = np.zeros(length(axis), bool)
    for atom, positions in atoms_of(axis):
        if atom in removed:
            mask[positions[removed[atom]]] = True
    return mask


def freeze(axis: Axis, reason: str) -> None:
    """Forbid to remove units along an axis."""
    for index_set, _ in axis:
        if index_set is not None:
            index_set.freeze(reason)


def frozen_if_uniform(axis: Axis, reason: str) -> Axis:
    """Return an axis that has frozen index sets in place of uniform dims.

    Uniform dims fit an axis of any length. Where the length counts, as that of the
    sum in a mean, they must not.
    """
    return tuple((s or IndexSet(n, reasons={reason}), n) for s, n in axis)


def digits_of(sum_: IndexSet, sizes: Sequence[int]) -> list[IndexSet]:
    """Return the digits of an index set, or of a digit, the slowest first."""
    root, stride = sum_.root, 1
    if root.kind == "digit":
        (whole,), stride = root.parts, root.stride
    else:
        whole = root
    digits = []
    for size in reversed(sizes):
        digits.append(IndexSet(size, "digit", (whole,), stride=stride))
        stride *= size
    whole.root.digits += digits
    return digits[::-1]


def sum_of_digits(dims: Sequence[Dim]) -> IndexSet | None:
    """Return the sum that dims are all the digits of, in the order of the dims."""
    digits = [s.root for s, _ in dims if s is not None]
    if len(digits) < len(dims) or any(digit.kind != "digit" for digit in digits):
        return None
    whole = digits[0].parts[0].root
    slowest_first = sorted(range(len(digits)), key=lambda i: -digits[i].stride)
    stride = whole.size
    for digit in (digits[i] for i in slowest_first):
        stride //= digit.size
        if digit.parts[0].root is not whole or digit.stride != stride:
            return None
    if stride != 1:
        return None
    if slowest_first == sorted(slowest_first):
        return whole
    elements = np.arange(whole.size).reshape([digits[i].size for i in slowest_first])
    order = elements.transpose(np.argsort(slowest_first)).ravel()
    return IndexSet(whole.size, "sum", (whole,), order=order)
