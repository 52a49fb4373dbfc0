"""Sums of index sets, in any order, against a union-find of single elements."""

import itertools

import numpy as np
import pytest

from rmda_jax.shrink.interpret._index_sets import (
    IndexSet,
    atoms_of,
    fresh,
    length,
    removed_along,
)
from rmda_jax.shrink.interpret._unification import (
    PERMUTED,
    concatenated,
    digits_as_factors,
    reshaped,
    sliced,
    unify,
)

SHUFFLED = np.arange(8).reshape(2, 4).T.ravel()  # of two groups of four


def shuffled(axis, groups):
    """Return an axis with its groups interleaved, as a program has it."""
    split = reshaped([axis], (groups, length(axis) // groups), digits=True)
    return reshaped(split[::-1], (length(axis),), digits=True)[0]


def atom_at(axis):
    """Return for each position along an axis the atom, and which of its units."""
    found = [None] * length(axis)
    for atom, positions in atoms_of(axis):
        for unit, places in enumerate(positions):
            for place in places:
                assert found[place] is None
                found[place] = atom, unit
    return found


def test_shuffled_sums_have_the_units_of_their_parts():
    a, b = fresh(3), fresh(5)
    axis = shuffled(concatenated([a, b]), 2)
    units = [*((a[0][0], i) for i in range(3)), *((b[0][0], i) for i in range(5))]
    assert atom_at(axis) == [units[i] for i in SHUFFLED]


def test_shuffled_twice_is_as_before():
    axis = concatenated([fresh(3), fresh(5)])
    assert atom_at(shuffled(shuffled(axis, 2), 4)) == atom_at(axis)


def test_digits_are_split_and_merged_with_others():
    whole = concatenated([fresh(5), fresh(7)])
    first, second, other = reshaped([whole, fresh(3)], (4, 3, 3), digits=True)
    two = reshaped([other, first, second], (3, 2, 2, 3), digits=True)
    assert all(not list(atoms_of(axis)) for axis in two[1:])
    (merged,) = reshaped(two, (36,), digits=True)
    found = [atom for atom, _ in atoms_of(merged)]
    assert [atom.size for atom in found] == [3, 5, 7]
    assert not any(atom.reasons for atom in found)
    # The axis itself, where its digits lie in order.
    assert merged[1][0] is whole[0][0]


def test_digits_that_meet_something_else_are_factors():
    a, b = fresh(4), fresh(8)
    first, second = reshaped([concatenated([a, b])], (3, 4), digits=True)
    other = fresh(4)
    _ = unify(second, other)
    assert first[0][0].root.kind == "sum"
    found = [[atom for atom, _ in atoms_of(axis)] for axis in (a, b, first, second)]
    rows = other[0][0].root
    group = first[0][0].root.parts[1].root
    assert found[0] == found[3] == [rows]
    assert found[1] == [group, rows]
    assert [atom.size for atom in found[2]] == [1, 2]
    assert not rows.reasons | group.reasons


def test_digits_that_meet_what_cuts_across_them_freeze_the_sum():
    for meet in (
        lambda x, y: unify(x, fresh(2)),
        lambda x, y: unify(y, fresh(4)),
        lambda x, y: digits_as_factors(x),
        lambda x, y: concatenated([x, fresh(3)]),
        lambda x, y: sliced(y, 0, 2),
        lambda x, y: unify(y, reshaped([concatenated([y, y])], (2, 4), digits=True)[1]),
    ):
        parts = fresh(3), fresh(5)
        _ = meet(*reshaped([concatenated(parts)], (2, 4), digits=True))
        assert all(axis[0][0].reasons for axis in parts), meet


def test_digits_of_two_sums_that_meet_are_those_of_one():
    sums = [concatenated([fresh(n), fresh(8 - n)]) for n in (3, 6)]
    (a, b), (c, d) = (reshaped([axis], (2, 4), digits=True) for axis in sums)
    assert unify(a, c)[0][0].root.kind == unify(b, d)[0][0].root.kind == "digit"
    assert atom_at(sums[0]) == atom_at(sums[1])
    (left,), (right,) = (reshaped(x, (8,), digits=True) for x in ([b, a], [d, c]))
    assert atom_at(left) == atom_at(right) == [atom_at(sums[0])[i] for i in SHUFFLED]


def ordered(axis, *order):
    """Return an axis with its elements in another order."""
    ((index_set, size),) = axis
    return ((IndexSet(size, "sum", (index_set,), order=np.array(order)), size),)


def test_elements_that_are_permuted_among_themselves_are_frozen():
    a, b = fresh(4), fresh(4)
    _ = unify(a, ordered(b, 2, 3, 0, 1))
    assert [unit for _, unit in atom_at(a)] == [2, 3, 0, 1]
    _ = unify(a, ordered(b, 2, 3, 0, 1))
    assert not any(atom.reasons for atom, _ in atoms_of(a))
    _ = unify(b, ordered(a, 3, 1, 0, 2))
    assert all(atom.reasons == {PERMUTED} for x in (a, b) for atom, _ in atoms_of(x))


@pytest.mark.parametrize("seed", range(30))
def test_sums_that_are_unified_have_the_equal_elements(seed):
    rng = np.random.default_rng(seed)
    parts = [fresh(int(n)) for n in rng.integers(2, 7, size=6)]
    names = [(i, k) for i, axis in enumerate(parts) for k in range(length(axis))]
    parent = {name: name for name in names}

    def root(name):
        while parent[name] != name:
            name = parent[name]
        return name

    elements = lambda i: [(i, k) for k in range(length(parts[i]))]
    n, is_shuffled = 12, False
    for _ in range(4):
        sides = []
        for _ in range(2):
            # Some parts, one after the other, cut to a length; then shuffled or not.
            chosen = rng.permutation(len(parts))
            axis = concatenated([parts[i] for i in chosen])
            where = list(itertools.chain.from_iterable(map(elements, chosen)))
            axis, where = sliced(axis, 0, n), where[:n]
            if rng.random() < 0.5:
                is_shuffled, groups = True, int(rng.choice([2, 3, 4]))
                axis = shuffled(axis, groups)
                order = np.arange(n).reshape(groups, -1).T.ravel()
                where = [where[i] for i in order]
            sides.append((axis, where))
        (left, a), (right, b) = sides
        _ = unify(left, right)
        for x, y in zip(a, b, strict=True):
            parent[root(x)] = root(y)
    found = dict(
        zip(names, itertools.chain.from_iterable(map(atom_at, parts)), strict=True)
    )
    assert is_shuffled or not any(atom.reasons for atom, _ in found.values())
    for x, y in itertools.combinations(names, 2):
        if root(x) == root(y):
            # The same unit, or both frozen.
            same = found[x] == found[y]
            assert same or (found[x][0].reasons and found[y][0].reasons)
        else:
            assert found[x] != found[y]


@pytest.mark.parametrize("seed", range(30))
def test_sums_and_products_that_are_unified_lose_the_same_positions(seed):
    rng = np.random.default_rng(seed)
    axes, pairs = [], []
    for _ in range(2):
        sizes = 4 * np.diff([0, *np.sort(rng.choice([1, 2, 3], 2, replace=False)), 4])
        parts = [fresh(int(n)) for n in sizes]
        whole = concatenated(parts)
        shape = [(8, 2), (4, 2, 2), (2, 8), (4, 4)][rng.integers(4)]
        dims = reshaped([whole], shape, digits=bool(rng.integers(2)))
        if rng.random() < 0.5:
            pairs.append((dims[-1], fresh(shape[-1])))
            _ = unify(*pairs[-1])
        dims = dims[::-1] if rng.random() < 0.3 else dims
        merged = reshaped(dims, (16,), digits=True)
        pairs.append((merged[0], fresh(16)))
        _ = unify(*pairs[-1])
        axes += [whole, *parts, *merged]
    if rng.random() < 0.5:
        pairs.append((axes[0], axes[-1]))
        _ = unify(*pairs[-1])
    atoms = {atom for axis in axes for atom, _ in atoms_of(axis)}
    removed = {a: rng.random(a.size) < 0.4 for a in atoms if not a.reasons}
    for x, y in pairs:
        np.testing.assert_array_equal(
            removed_along(x, removed), removed_along(y, removed)
        )
