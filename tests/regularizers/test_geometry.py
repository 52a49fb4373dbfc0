"""Groups of any axes and tiles of arrays of any shape, against lists of indices."""

import os

import jax
import numpy as np
from hypothesis import given, settings, strategies as st

import rmda_jax as rj
from tests._table import ORACLES
from tests._x64 import float64
from tests.oracles._groups import groups


@st.composite
def layouts(draw):
    """A shape, some of its axes in any order and counted from either end, tiles."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=0, max_size=4)))
    axes = draw(st.permutations(range(len(shape))))
    axes = axes[: draw(st.integers(0, len(shape)))]
    axes = tuple(a - len(shape) * draw(st.booleans()) for a in axes)
    tiles = st.lists(st.integers(1, 5), min_size=len(axes), max_size=len(axes))
    block = draw(st.none() | tiles.map(tuple)) if axes else None
    return shape, axes, block


def in_c_order(axes, shape):
    """The axes from first to last, as the units of a support are laid out."""
    return tuple(sorted(a % len(shape) for a in axes))


@settings(max_examples=200 if "RMDA_LONG" in os.environ else 12)
@given(layouts())
def test_unit_sizes_are_those_of_the_lists(layout):
    shape, axes, block = layout
    lasso = rj.group_lasso(axes, block=block)
    tiles = dict(zip((a % len(shape) for a in axes), block or (1,) * 9, strict=False))
    ordered = in_c_order(axes, shape)
    lists = groups(shape, ordered, [tiles[a] for a in ordered] if block else None)
    units = tuple(-(-shape[a] // tiles[a]) for a in ordered)
    support = jax.eval_shape(lasso.support, np.zeros(shape, np.float32))
    assert support.shape == units
    sizes = np.broadcast_to(lasso.unit_sizes(shape), units)
    np.testing.assert_array_equal(sizes.ravel(), [len(g) for g in lists])


@settings(max_examples=30 if "RMDA_LONG" in os.environ else 4)
@given(layouts(), st.booleans())
def test_group_lasso_is_that_of_the_lists(layout, weighted):
    shape, axes, block = layout
    x = np.random.default_rng(0).normal(size=shape)
    lasso = rj.group_lasso(axes, weighted=weighted, block=block)
    keywords = {"group_axes": axes, "weighted": weighted, "block": block}
    with float64():
        use = jax.jit(lambda x: (lasso.prox(x, 0.6), lasso.value(x)))
        y, value = map(np.asarray, use(x))
    wanted = ORACLES["group_lasso"].prox(x, 0.6, **keywords)
    # A handful of roundings of numbers of order 1.
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-14)
    assert ((y == 0) == (wanted == 0)).all()
    wanted = ORACLES["group_lasso"].value(x, **keywords)
    np.testing.assert_allclose(value, wanted, rtol=1e-14)
