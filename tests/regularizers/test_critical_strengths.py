"""Critical strengths against bisection on the slow oracles, and at their corners.

The laws hold them against the library's own prox, to a few rounding units.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rmda_jax as rj
from rmda_jax import regularizers as named, testing
from tests._daily import first_of_each
from tests._table import ORACLES, PENALTIES, TABLE, kind, make
from tests.oracles import _scalar

pytestmark = pytest.mark.costly

NEAR = np.concatenate([1 + s * 10.0 ** np.arange(-15, -1) for s in (1, -1)])
WIDE = np.geomspace(1e-3, 1e3, 31)
# By default the first row of every factory.
by_factory = functools.partial(first_of_each, lambda name, arguments: name)
ENTRIES = [(name, t.arguments) for name in PENALTIES for t in TABLE[name].tries[-3:]]
# What each may be sharp, flat or bent at, in magnitude.
CORNERS = [1.0, 3.0, 0.5, 0.35, 3.7, 4.7, 1.1, 1.6, 0.1, 2.0, 4.0]


def bisected(vanishes, like, n_steps=40):  # to 5e-11
    """Return where `vanishes`, which is false and then true, changes; or infinity."""
    low, high = np.full(like.shape, 1e-12), np.full(like.shape, 1e12)
    never = ~vanishes(high)
    for _ in range(n_steps):
        middle = np.sqrt(low * high)
        above = vanishes(middle)
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.where(never, np.inf, high)


@pytest.mark.parametrize(("name", "arguments"), by_factory(ENTRIES), ids=str)
def test_entries_vanish_where_the_oracle_says(name, arguments, x64):
    r = np.concatenate([WIDE, np.outer(CORNERS, NEAR).ravel()])
    penalty = PENALTIES[name](**arguments)
    vanishes = lambda t: _scalar.minimise(r, t, penalty) == 0
    found = np.asarray(make(name, arguments).critical_strengths(-r, 1.0))
    # The oracle takes objectives for equal that differ by 1e-14, and where the prox
    # begins to jump they are flat. Its logarithm of 1 + r loses what r has below 1e-16,
    # which the objective near its minimum feels as the square root.
    rtol = 1e-6 if name == "log_sum" else 1e-9
    np.testing.assert_allclose(found, bisected(vanishes, r), rtol=rtol)


GROUPS = [
    ("group_lasso", {}),
    ("group_lasso", {"weighted": False}),
    ("group_mcp", {}),
    ("group_mcp", {"lam": 0.5, "gamma": 0.4}),
    ("group_l0", {}),
    ("sparse_group_lasso", {"l1_ratio": 0.1}),
    ("sparse_group_lasso", {"l1_ratio": 0.9}),
    ("sparse_group_lasso", {"l1_ratio": 1.0}),
    ("on_groups", {"regularizer": rj.elastic_net(0.3)}),
    ("group_linf", {}),
    ("group_scad", {}),
    ("group_log_sum", {}),
    ("on_groups", {"regularizer": named.laplace(0.5)}),
]
IN_METRIC = GROUPS[:9]
CENTERS = [
    np.array([3.0, -0.5, 0.0, 0.2]),
    np.array([1.0, 1.0, -1.0, 1.0]),
    np.array([0.01, 0.2, 0.03, -0.004]),
]
METRICS = [np.array([1.0, 4.0, 0.1, 30.0]), np.array([5.0, 0.2, 0.2, 1e-3])]


@pytest.mark.parametrize(("name", "arguments"), by_factory(GROUPS), ids=str)
def test_groups_vanish_where_the_oracle_says(name, arguments, x64):
    regularizer = make(name, {**arguments, "group_axes": ()})
    for x in CENTERS:
        solve = functools.partial(ORACLES[name].prox, group_axes=(), **arguments)
        vanishes = lambda t, x=x, solve=solve: np.array(not solve(x, t).any())
        found = regularizer.critical_strengths(x, 1.0)
        wanted = bisected(vanishes, np.zeros(()))
        np.testing.assert_allclose(found, wanted, rtol=1e-9)


@pytest.mark.not_daily
@pytest.mark.parametrize(("name", "arguments"), by_factory(IN_METRIC), ids=str)
def test_groups_vanish_in_a_metric_where_the_oracle_says(name, arguments, x64):
    regularizer = make(name, {**arguments, "group_axes": ()})
    solve = functools.partial(ORACLES[name].metric_prox, group_axes=(), **arguments)
    for x in CENTERS:
        for d in METRICS:
            vanishes = lambda t, x=x, d=d: np.array(not solve(x, t, d).any())
            found = regularizer.critical_strengths(x, 1.0, d)
            wanted = bisected(vanishes, np.zeros(()))
            np.testing.assert_allclose(found, wanted, rtol=1e-9)


@pytest.mark.parametrize(
    "regularizer",
    first_of_each(
        kind,
        [
            rj.mcp(),
            named.log_sum(),
            named.laplace(),
            rj.group_lasso(),
            rj.group_mcp(),
            rj.sparse_group_lasso(),
            rj.nuclear_norm(),
        ],
    ),
    ids=str,
)
def test_float32_keeps_the_law(regularizer):
    x = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
    testing.check_critical_strengths(regularizer, x, 0.7)


def test_tied_groups_are_a_group_of_all_their_entries():
    leaves = (np.eye(3, 4, dtype=np.float32), np.ones((2, 3), jnp.bfloat16))
    metric = (2.0, np.full((2, 3), 3.0, np.float32))
    whole = np.concatenate([leaves[0], leaves[1].astype(np.float32).T], axis=1)
    d = np.concatenate([np.full((3, 4), 2.0), np.full((3, 2), 3.0)], axis=1)
    for penalty in (rj.l1(), rj.mcp(), named.l0()):
        tied = rj.regularizers.on_tied_groups(penalty, (0, 1))
        alone = rj.regularizers.on_groups(penalty, 0)
        for found, wanted in [
            (
                tied.critical_strengths(leaves, 0.5),
                alone.critical_strengths(whole, 0.5),
            ),
            (
                tied.critical_strengths(leaves, 0.5, metric),
                alone.critical_strengths(whole, 0.5, d),
            ),
        ]:
            assert found.dtype == jnp.float32
            np.testing.assert_allclose(found, wanted, rtol=1e-6)


# --- corners ------------------------------------------------------------------------


def test_what_is_zero_needs_no_strength_and_step_zero_moves_nothing():
    x = jnp.array([0.0, -2.0, jnp.nan])
    for regularizer in (
        rj.l1(),
        named.squared_l2(),
        named.scad(),
        named.log_sum(),
        named.lq(0.5),
    ):
        for step_size in (0.0, 0.5):
            found = np.asarray(regularizer.critical_strengths(x, step_size))
            assert found[0] == 0
            assert np.isnan(found[2])
        assert regularizer.critical_strengths(x, 0.0)[1] == jnp.inf
    assert named.squared_l2().critical_strengths(x, 0.5)[1] == jnp.inf


@pytest.mark.parametrize(
    ("lower", "upper", "wanted"),
    [
        (-1.0, 1.0, [0, 2, 2]),
        (0.0, 1.0, [0, 2, 0]),
        (-1.0, 0.0, [0, 0, 2]),
        (0.0, 0.0, [0, 0, 0]),
        (0.5, 1.0, [np.inf, np.inf, np.inf]),
    ],
)
def test_boxes_decide_what_the_penalty_does_not(lower, upper, wanted):
    x = jnp.array([0.0, 2.0, -2.0])
    found = named.boxed(rj.l1(), lower, upper).critical_strengths(x, 1.0)
    np.testing.assert_array_equal(found, wanted)


def test_singular_values_of_the_size_of_rounding_are_zero():
    x = np.outer([1.0, 2.0, 3.0], [0.1, 0.7, -0.3]).astype(np.float32)
    found = np.asarray(rj.nuclear_norm().critical_strengths(x, 1.0))
    np.testing.assert_allclose(found[0], np.linalg.norm(x), rtol=1e-6)
    np.testing.assert_array_equal(found[1:], 0)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
@pytest.mark.parametrize(
    "make",
    [
        rj.group_lasso,
        rj.sparse_group_lasso,
        named.group_linf,
        named.group_l0,
    ],
)
def test_groups_of_nothing_need_no_strength(make, shape):
    found = np.asarray(make(0).critical_strengths(np.zeros(shape, np.float32), 1.0))
    np.testing.assert_array_equal(found, np.zeros(shape[0]))


@pytest.mark.parametrize(
    ("regularizer", "metric", "message"),
    [
        (rj.top_k(2), None, "top_k(2) is a set, of which no strength makes more"),
        (named.l1_ball(), 1.0, "is a set"),
        (
            named.total_variation(),
            None,
            "total_variation() has no critical strengths",
        ),
        (rj.ternary(soft=True), None, "Ask for them on penalties of entries, groups"),
        (rj.nuclear_norm(), 1.0, "Leave `metric` out for those of the plain prox"),
        (named.group_scad(0), 1.0, "group_scad(group_axes=0) has no formula"),
        (named.group_log_sum(0), 1.0, "iterates to a stationary point"),
        (
            named.group_lq(0),
            1.0,
            "or take group_lasso, group_mcp or group_l0",
        ),
    ],
    ids=str,
)
def test_what_has_none_says_so(regularizer, metric, message):
    with pytest.raises(NotImplementedError, match=re.escape(message)):
        regularizer.critical_strengths(np.ones((3, 4), np.float32), 1.0, metric)


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize(
    "regularizer",
    [rj.group_lasso(0), named.group_l0(0), named.group_linf(0)],
    ids=str,
)
def test_the_centre_is_not_written_out(regularizer, metric):
    shape = (64, 4096)

    def strengths(a, b, d):
        return regularizer.critical_strengths(a - 0.1 * b, 1.0, d if metric else None)

    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32)] * 3
    memory = jax.jit(strengths).lower(*arrays).compile().memory_analysis()
    assert memory.temp_size_in_bytes < np.prod(shape)
