"""Which index sets are the same: unification, by union-find, of axes and their dims.

Index sets that are found to be the same become one, with the parts of both: the parts
of two products, or of two sums, are unified in turn.
"""

import itertools
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from rmda_jax.shrink.interpret._index_sets import (
    EMPTY,
    SUM_AND_PRODUCT,
    Axis,
    Dim,
    IndexSet,
    digits_of,
    freeze,
    fresh,
    frozen_if_uniform,
    is_uniform,
    length,
    sum_of_digits,
    uniform,
)

Term: TypeAlias = tuple[IndexSet, np.ndarray]
"""A part of a sum, and where in the sum its elements lie."""

PERMUTED = "a permutation of units among themselves"


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


def reshaped(
    axes: Sequence[Axis], shape: Sequence[int], *, digits: bool = False
) -> list[Axis]:
    """Return the axes after a reshape, which splits and merges dims in C order.

    A sum that is split becomes a product, if it is not to be ``digits`` of itself.
    """
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
                sizes = missing, size // missing
                if digits and index_set is not None and index_set.root.kind == "sum":
                    first, second = digits_of(index_set, sizes)
                else:
                    first, second = _factored(index_set, *sizes)
                dims.append((second, sizes[1]))
                found.append((first, missing))
                missing = 1
            else:
                # (4, 3) -> (6, 2): no product of dims describes the result.
                reason = "a reshape across factors"
                freeze(((index_set, size), *dims, *found), reason)
                for axis in out:
                    freeze(axis, reason)
                return [fresh(n, reason) for n in shape]
        out.append(_joined(found) or uniform(size_out))
    return out


def _joined(dims: Sequence[Dim]) -> Axis:
    """Put sums in place of their digits, where all of them lie side by side."""
    joined: list[Dim] = []
    for dim in dims:
        joined.append(dim)
        for start in range(len(joined)):
            whole = sum_of_digits(joined[start:])
            if whole is not None:
                joined[start:] = [(whole, whole.size)]
                break
    return tuple(joined)


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
    digits_as_factors(axis)
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
    if index_set.root.kind == "digit":
        first, second = digits_of(index_set, (slow, fast))
        return first, second
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
    if "digit" in (x.kind, y.kind):
        return _union_of_digits(x, y)
    # The root is the one that has parts, if only one of the two does.
    if y.kind == "atom":
        x, y = y, x
    a: list[Term] = []
    b: list[Term] = []
    if "sum" in (x.kind, y.kind):
        a, b = _terms(x), _terms(y)
        if len(a) == len(b) == 1 and a[0][0] is b[0][0]:
            if (a[0][1] != b[0][1]).any():
                y.freeze(PERMUTED)
            return y
    both_have_parts = x.kind != "atom"
    if y.kind == "sum":
        # So that x is none of them, nor a part of one.
        y.parts, y.order = _arranged(b)
    x.parent = y
    reasons = x.reasons | y.reasons
    if both_have_parts and x.kind == y.kind == "product":
        _match_products(_factors(x), _factors(y))
    elif both_have_parts and x.kind == y.kind:
        _match_sums(a, b)
    elif both_have_parts:
        terms, product = (a, y) if x.kind == "sum" else (b, x)
        if not _distributed(terms, _factors(product)):
            # Only y keeps its parts, so that units of x's parts could not be removed
            # from y: neither can go.
            reasons = reasons | {SUM_AND_PRODUCT}
            for part in x.parts:
                part.freeze(SUM_AND_PRODUCT)
    x.digits, y.digits = [], x.digits + y.digits
    for reason in reasons:
        y.freeze(reason)
    return y


def _union_of_digits(x: IndexSet, y: IndexSet) -> IndexSet | None:
    """Unify two roots of which at least one is a digit."""
    place = lambda digit: (digit.kind, digit.size, digit.stride)
    if place(x) == place(y) and x.parts[0].size == y.parts[0].size:
        _ = _union(x.parts[0], y.parts[0])
        x.parent = y
        return y
    digits_as_factors(((x, x.size), (y, y.size)))
    return _union(x, y)


def digits_as_factors(axis: Axis) -> None:
    """Make sums whose digits lie along an axis products of all their digits.

    An equation mixes the positions along it, or they are something else as well.
    """
    for index_set, _ in axis:
        if index_set is None or index_set.root.kind != "digit":
            continue
        whole = index_set.root.parts[0].root
        digits, whole.digits = whole.digits, []
        digits = [digit for digit in digits if digit.parent is None]
        ends = {end for d in digits for end in (d.stride, d.stride * d.size)}
        strides = sorted({1, whole.size, *ends})
        pairs = list(itertools.pairwise(strides))
        if any(b % a for a, b in pairs):
            whole.freeze("factors that do not match")
            pairs = []
        factors = {a: IndexSet(b // a) for a, b in pairs}  # by stride, fastest first
        for digit in digits:
            last = digit.stride * digit.size
            of_digit = [x for a, x in factors.items() if digit.stride <= a < last]
            digit.kind, digit.parts = "atom", ()
            if of_digit:
                _ = _union(digit, _product(of_digit[::-1]))
            else:
                digit.freeze("factors that do not match")
        if factors:
            _ = _union(whole, _product(list(factors.values())[::-1]))


def _product(factors: Sequence[IndexSet]) -> IndexSet:
    """Return the product of index sets, the slowest first."""
    if len(factors) == 1:
        return factors[0]
    return IndexSet(math.prod(x.size for x in factors), "product", tuple(factors))


def _distributed(terms: Sequence[Term], factors: Sequence[IndexSet]) -> bool:
    """Unify a sum with a product, if each of its parts is some of the same rows.

    Then (a + b) x rows = a x rows + b x rows: if two layers of 2 and 6 channels are
    concatenated and split into 4 groups of 2, one makes 1 group, and the other 3.

    Args:
      terms: The sum.
      factors: The product, the slowest factor first.

    Returns:
      Whether they are the same now; otherwise nothing has changed.
    """
    positions = np.concatenate([at for _, at in terms])
    if not np.array_equal(positions, np.arange(len(positions))):
        return False
    for n_slow in range(1, len(factors)):
        slow, rows = _product(factors[:n_slow]), _product(factors[n_slow:])
        if any(part.size % rows.size for part, _ in terms):
            continue
        groups = []
        for part, _ in terms:
            groups.append(IndexSet(part.size // rows.size))
            alone = groups[-1].size == 1
            _ = _union(part, rows if alone else _product([groups[-1], rows]))
        if all(group.size == 1 for group in groups):
            slow.freeze(SUM_AND_PRODUCT)
            return True
        for group in groups:
            if group.size == 1:
                group.freeze(SUM_AND_PRODUCT)
        _ = _union(slow, IndexSet(slow.size, "sum", tuple(groups)))
        return True
    return False


def _factors(index_set: IndexSet) -> list[IndexSet]:
    """Return the parts of a product; those that are products become their own parts."""
    found = []
    for part in index_set.parts:
        root = part.root
        found += _factors(root) if root.kind == "product" else [root]
    return found


def _match_products(a: list[IndexSet], b: list[IndexSet]) -> None:
    """Unify the parts of two products, as the dims of two axes."""
    _ = unify(tuple((s, s.size) for s in a), tuple((s, s.size) for s in b))


def _terms(index_set: IndexSet) -> list[Term]:
    """Return the parts of a sum that are no sums; an index set is the sum of itself."""
    root = index_set.root
    if root.kind != "sum":
        return [(root, np.arange(root.size))]
    found, offset = [], 0
    place = np.arange(root.size) if root.order is None else np.argsort(root.order)
    for part in root.parts:
        found += [(term, place[offset + at]) for term, at in _terms(part)]
        offset += part.size
    return found


def _match_sums(a: list[Term], b: list[Term]) -> None:
    """Unify the parts of two sums, where they lie at the same positions.

    What a part of one shares with a part of the other is a part of both.
    """
    size = sum(part.size for part, _ in a)
    owner, element = np.zeros(size, int), np.zeros(size, int)
    for j, (part, positions) in enumerate(b):
        owner[positions], element[positions] = j, np.arange(part.size)
    of_a: list[list[Term]] = [[] for _ in a]
    of_b: list[list[Term]] = [[] for _ in b]
    for i, (part, positions) in enumerate(a):
        owners = owner[positions]
        for j in dict.fromkeys(owners.tolist()):
            mine = np.flatnonzero(owners == j)
            theirs = element[positions[mine]]
            other = b[j][0]
            if len(mine) == part.size:
                shared = part
            elif len(mine) == other.size:
                shared, by = other, np.argsort(theirs)
                mine, theirs = mine[by], theirs[by]
            else:
                shared = IndexSet(len(mine))
            of_a[i].append((shared, mine))
            of_b[j].append((shared, theirs))
    for (part, _), shares in zip([*a, *b], [*of_a, *of_b], strict=True):
        (shared, *others), order = _arranged(shares)
        if others or order is not None:
            shared = IndexSet(part.size, "sum", (shared, *others), order=order)
        _ = _union(part, shared)


def _arranged(terms: Sequence[Term]) -> tuple[tuple[IndexSet, ...], np.ndarray | None]:
    """Return the parts and the order of a sum that has parts at these positions."""
    order = np.argsort(np.concatenate([positions for _, positions in terms]))
    in_order = np.array_equal(order, np.arange(len(order)))
    return tuple(part for part, _ in terms), None if in_order else order
