"""Which index sets are the same: unification, by union-find, of axes and their dims.

Index sets that are found to be the same become one, with the parts of both: the parts
of two products, or of two sums, are unified in turn.
"""

import itertools
import math
from collections.abc import Sequence

from rmda_jax.shrink.interpret._index_sets import (
    EMPTY,
    Axis,
    Dim,
    IndexSet,
    freeze,
    fresh,
    frozen_if_uniform,
    is_uniform,
    length,
    uniform,
)


def unify(a: Axis, b: Axis) -> Axis:
    """Unify two axes of the same length, and return what both are then."""
    if length(a) == 0:
        return _empty(a, b)
    # From the slowest dims to the fastest: both stacks have the slowest on top.
    unified, left, right = [], list(reversed(a)), list(reversed(b))
    while left and right:
        (x, n), (y, m) = left.pop(), right.pop()
        if n != m:
            small, large = min(n, m), max(n, m)
            if large % small:
                reason = "factors that do not match"
                freeze(((x, n), (y, m), *left, *right, *unified), reason)
                return fresh(length(a), reason)
            # Factor the larger dim; its slower part is unified with the smaller dim,
            # and the faster one goes back onto the stack.
            longer, rest = (left, x) if n > m else (right, y)
            first, second = _factored(rest, small, large // small)
            longer.append((second, large // small))
            x, y = (first, y) if n > m else (x, first)
        unified.append((_union(x, y), min(n, m)))
    return tuple(unified)


def reshaped(axes: Sequence[Axis], shape: Sequence[int]) -> list[Axis]:
    """Return the axes after a reshape, which splits and merges dims in C order."""
    if 0 in shape:
        # No entry tells which index of the result is which of the operand.
        _ = _empty(*axes)
        return [fresh(n, EMPTY) for n in shape]
    dims = [dim for axis in axes for dim in axis if dim[1] != 1][::-1]
    out: list[Axis] = []
    for size_out in shape:
        found: list[Dim] = []
        missing = size_out
        while missing > 1:
            index_set, size = dims.pop()
            if missing % size == 0:
                found.append((index_set, size))
                missing //= size
            elif size % missing == 0:
                first, second = _factored(index_set, missing, size // missing)
                dims.append((second, size // missing))
                found.append((first, missing))
                missing = 1
            else:
                # (4, 3) -> (6, 2): no product of dims describes the result.
                reason = "a reshape across factors"
                freeze(((index_set, size), *dims, *found), reason)
                for axis in out:
                    freeze(axis, reason)
                return [fresh(n, reason) for n in shape]
        out.append(tuple(found) or uniform(size_out))
    return out


def concatenated(axes: Sequence[Axis]) -> Axis:
    """Return the axis of a concatenation."""
    axes = [axis for axis in axes if length(axis) > 0]
    if not axes:
        return uniform(0)
    # The length of a part that no leaf indexes, such as zeros, is not known to follow
    # from the params: it must stay.
    parts = tuple(_merged(frozen_if_uniform(axis, "concatenate")) for axis in axes)
    size = sum(part.size for part in parts)
    return ((IndexSet(size, "sum", parts), size),)


def sliced(axis: Axis, start: int, stop: int, *, counted: bool = True) -> Axis:
    """Return the part of an axis from start to stop; its index set becomes a sum.

    A single index stays. If it is ``counted``, so do the units before it.
    """
    size = length(axis)
    if (start, stop) == (0, size):
        return axis
    if is_uniform(axis):
        return uniform(stop - start)
    if start == stop:
        freeze(axis, EMPTY)
        return uniform(0)
    ends = [0, start, stop, size]
    lengths = [b - a for a, b in itertools.pairwise(ends)]
    parts = tuple(IndexSet(n) for n in lengths if n)
    whole = IndexSet(size, "sum", parts)
    _ = unify(axis, ((whole, size),))
    chosen = parts[1 if start else 0]
    if chosen.size == 1:
        # A single index, as h[3], counts the units before it: they must stay.
        before_too = parts[: 2 if start else 1]
        for part in before_too if counted else [chosen]:
            part.freeze("an index")
    return ((chosen, chosen.size),)


def _empty(*axes: Axis) -> Axis:
    """Freeze the index sets of axes of length 0, and return one of these axes."""
    for axis in axes:
        freeze(axis, EMPTY)
    return uniform(0)


def _merged(axis: Axis) -> IndexSet:
    """Return one index set for a whole axis."""
    parts = tuple(index_set for index_set, _ in axis if index_set is not None)
    if len(parts) == 1:
        return parts[0]
    return IndexSet(math.prod(part.size for part in parts), "product", parts)


def _factored(
    index_set: IndexSet | None, slow: int, fast: int
) -> tuple[IndexSet, IndexSet] | tuple[None, None]:
    """Make an index set a product of two, and return them."""
    if index_set is None:
        return None, None
    parts = IndexSet(slow), IndexSet(fast)
    _ = _union(index_set, IndexSet(slow * fast, "product", parts))
    return parts


def _union(x: IndexSet | None, y: IndexSet | None) -> IndexSet | None:
    """Make two index sets one, with the parts of both."""
    if x is None or y is None:
        return x or y
    x, y = x.root, y.root
    if x is y:
        return x
    # The root is the one that has parts, if only one of the two does.
    if y.kind == "atom":
        x, y = y, x
    both_have_parts = x.kind != "atom"
    x.parent = y
    reasons = x.reasons | y.reasons
    if both_have_parts and x.kind == y.kind:
        match = _match_products if x.kind == "product" else _match_sums
        match(_flat(x), _flat(y))
    elif both_have_parts:
        # Only y keeps its parts, so that units of x's parts could not be removed
        # from y: neither can go.
        reason = "a sum that is a product elsewhere"
        reasons = reasons | {reason}
        for part in x.parts:
            part.freeze(reason)
    for reason in reasons:
        y.freeze(reason)
    return y


def _flat(index_set: IndexSet) -> list[IndexSet]:
    """Return the parts; those of the same kind are replaced by their own parts."""
    flat = []
    for part in index_set.parts:
        root = part.root
        flat += _flat(root) if root.kind == index_set.kind else [root]
    return flat


def _match_products(a: list[IndexSet], b: list[IndexSet]) -> None:
    """Unify the parts of two products, as the dims of two axes."""
    _ = unify(tuple((s, s.size) for s in a), tuple((s, s.size) for s in b))


def _match_sums(a: list[IndexSet], b: list[IndexSet]) -> None:
    """Unify the parts of two sums, from the first to the last; the longer is split."""
    a, b = a[::-1], b[::-1]
    while a and b:
        x, y = a.pop(), b.pop()
        if x.size != y.size:
            small = min(x.size, y.size)
            longer, large = (a, x) if x.size > y.size else (b, y)
            parts = IndexSet(small), IndexSet(large.size - small)
            _ = _union(large, IndexSet(large.size, "sum", parts))
            longer.append(parts[1])
            x, y = (parts[0], y) if large is x else (x, parts[0])
        _ = _union(x, y)
