"""Index spaces: what the positions along an axis stand for, and which are the same.

A space is an index set found in a model, such as the channels between two layers. Axes
that must be cut together have one space, found by unification. An axis may be a product
of spaces (channels flattened with pixels; heads times head dimension) or a sum of them
(a concatenation); its space then has parts, and what can be cut is an atom.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import numpy as np


@dataclasses.dataclass(eq=False)
class Space:
    """A node of the unification; only its `root` says what it is."""

    size: int
    kind: Literal["atom", "product", "sum"] = "atom"
    parts: "tuple[Space, ...]" = ()
    reasons: set[str] = dataclasses.field(default_factory=set)
    parent: "Space | None" = None

    @property
    def root(self) -> "Space":
        """The representative of all spaces that are known to be the same."""
        space = self
        while space.parent is not None:
            space = space.parent
        return space

    def freeze(self, reason: str) -> None:
        """Forbid to cut this space, and all that it consists of."""
        root = self.root
        root.reasons.add(reason)
        for part in root.parts:
            part.freeze(reason)

    def atoms(self) -> "Iterator[tuple[Space, np.ndarray]]":
        """Yield the atoms, each with the positions of every index of it.

        The positions are an array of one row per index of the atom.
        """
        root = self.root
        if root.kind == "atom":
            yield root, np.arange(root.size)[:, None]
            return
        if root.size == 0:
            return
        stride, offset = root.size, 0
        for part in root.parts:
            if root.kind == "sum":
                for atom, positions in part.atoms():
                    yield atom, offset + positions
                offset += part.size
                continue
            outer, stride = root.size // stride, stride // part.size
            repeats = np.arange(outer)[:, None] * stride * part.size
            rest = (repeats + np.arange(stride)).ravel()
            for atom, positions in part.atoms():
                scaled = positions[:, :, None] * stride + rest
                yield atom, scaled.reshape(atom.size, -1)


Factor: TypeAlias = "tuple[Space | None, int]"
"""A space and its size; None where the values do not depend on the index."""

Axis: TypeAlias = "tuple[Factor, ...]"
"""The factors of an axis, the slowest first."""

EMPTY = "an array of length 0"


def uniform(size: int) -> Axis:
    """Return an axis along which all values are the same."""
    return ((None, size),)


def fresh(size: int, reason: str | None = None) -> Axis:
    """Return an axis with a space of its own, frozen if there is a reason."""
    if size <= 1:
        return uniform(size)
    space = Space(size)
    if reason is not None:
        space.freeze(reason)
    return ((space, size),)


def length(axis: Axis) -> int:
    """Return the length of an axis."""
    return math.prod(size for _, size in axis)


def freeze(axis: Axis, reason: str) -> None:
    """Forbid to cut what an axis consists of."""
    for space, _ in axis:
        if space is not None:
            space.freeze(reason)


def pinned(axis: Axis, reason: str) -> Axis:
    """Return an axis that cannot be cut where it is the same everywhere."""
    return tuple((space or Space(n, reasons={reason}), n) for space, n in axis)


def join(a: Axis, b: Axis) -> Axis:
    """Unify two axes of one length, and return what both are then."""
    if length(a) == 0:
        return _empty(a, b)
    joined, left, right = [], list(reversed(a)), list(reversed(b))
    while left and right:
        (x, n), (y, m) = left.pop(), right.pop()
        if n != m:
            small, large = min(n, m), max(n, m)
            if large % small:
                reason = "factors that do not match"
                freeze(((x, n), (y, m), *left, *right, *joined), reason)
                return fresh(length(a), reason)
            # The larger one comes apart; its slower part stands against the smaller.
            longer, rest = (left, x) if n > m else (right, y)
            first, second = _halves(rest, small, large // small)
            longer.append((second, large // small))
            x, y = (first, y) if n > m else (x, first)
        joined.append((_unified(x, y), min(n, m)))
    return tuple(joined)


def reshaped(axes: Sequence[Axis], shape: Sequence[int]) -> list[Axis]:
    """Return the axes after a reshape, which cuts and merges factors in C order."""
    if 0 in shape:
        # No entry tells which index of the result is which of the operand.
        _ = _empty(*axes)
        return [fresh(n, EMPTY) for n in shape]
    factors = [f for axis in axes for f in axis if f[1] != 1][::-1]
    out: list[Axis] = []
    for length in shape:
        found: list[Factor] = []
        missing = length
        while missing > 1:
            space, size = factors.pop()
            if missing % size == 0:
                found.append((space, size))
                missing //= size
            elif size % missing == 0:
                first, second = _halves(space, missing, size // missing)
                factors.append((second, size // missing))
                found.append((first, missing))
                missing = 1
            else:
                reason = "a reshape across factors"
                freeze(((space, size), *factors, *found), reason)
                for axis in out:
                    freeze(axis, reason)
                return [fresh(n, reason) for n in shape]
        out.append(tuple(found) or uniform(length))
    return out


def concatenated(axes: Sequence[Axis]) -> Axis:
    """Return an axis that is several ones, one after another."""
    axes = [axis for axis in axes if length(axis) > 0]
    if not axes:
        return uniform(0)
    # A part that no leaf indexes, as zeros are, has a length that is not for us to cut.
    parts = tuple(_as_space(pinned(axis, "concatenate")) for axis in axes)
    size = sum(part.size for part in parts)
    return ((Space(size, "sum", parts), size),)


def cut(axis: Axis, start: int, stop: int) -> Axis:
    """Return a part of an axis, whose space comes apart at its ends."""
    size = length(axis)
    if (start, stop) == (0, size):
        return axis
    if all(space is None for space, _ in axis):
        return uniform(stop - start)
    if start == stop:
        freeze(axis, EMPTY)
        return uniform(0)
    ends = [0, start, stop, size]
    lengths = [b - a for a, b in itertools.pairwise(ends)]
    parts = tuple(Space(n) for n in lengths if n)
    whole = Space(size, "sum", parts)
    _ = join(axis, ((whole, size),))
    chosen = parts[1 if start else 0]
    if chosen.size == 1:
        # An index: it counts what stands before it.
        for part in parts[: 2 if start else 1]:
            part.freeze("an index")
    return ((chosen, chosen.size),)


def _empty(*axes: Axis) -> Axis:
    """Freeze what axes of length 0 consist of, and return one of them."""
    for axis in axes:
        freeze(axis, EMPTY)
    return uniform(0)


def _as_space(axis: Axis) -> Space:
    parts = tuple(space for space, _ in axis if space is not None)
    if len(parts) == 1:
        return parts[0]
    return Space(math.prod(part.size for part in parts), "product", parts)


def _halves(space: Space | None, slow: int, fast: int) -> tuple[Space, Space] | tuple:
    """Cut a space into a product of two."""
    if space is None:
        return None, None
    halves = Space(slow), Space(fast)
    _ = _unified(space, Space(slow * fast, "product", halves))
    return halves


def _unified(x: Space | None, y: Space | None) -> Space | None:
    """Make two spaces one, with the structure of both."""
    if x is None or y is None:
        return x or y
    x, y = x.root, y.root
    if x is y:
        return x
    if y.kind == "atom":
        x, y = y, x
    # Now x is an atom, or neither is.
    structured = x.kind != "atom"
    x.parent = y
    reasons = x.reasons | y.reasons
    if structured and x.kind == y.kind:
        match = _match_products if x.kind == "product" else _match_sums
        match(_flat(x), _flat(y))
    elif structured:
        reasons = reasons | {"a sum that is a product elsewhere"}
        for part in x.parts:
            part.freeze("a sum that is a product elsewhere")
    for reason in reasons:
        y.freeze(reason)
    return y


def _flat(space: Space) -> list[Space]:
    """Return the parts, with those of parts of the same kind in their place."""
    flat = []
    for part in space.parts:
        root = part.root
        flat += _flat(root) if root.kind == space.kind else [root]
    return flat


def _match_products(a: list[Space], b: list[Space]) -> None:
    _ = join(tuple((s, s.size) for s in a), tuple((s, s.size) for s in b))


def _match_sums(a: list[Space], b: list[Space]) -> None:
    a, b = a[::-1], b[::-1]
    while a and b:
        x, y = a.pop(), b.pop()
        if x.size != y.size:
            small = min(x.size, y.size)
            longer, large = (a, x) if x.size > y.size else (b, y)
            parts = Space(small), Space(large.size - small)
            _ = _unified(large, Space(large.size, "sum", parts))
            longer.append(parts[1])
            x, y = (parts[0], y) if large is x else (x, parts[0])
        _ = _unified(x, y)
