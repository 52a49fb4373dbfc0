"""Corners that random inputs do not reach: ties, rounding, extremes, empty arrays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rmda_jax as rj
from tests._table import ARGUMENTS, ORACLES, TABLE, make, regularizer

pytestmark = pytest.mark.costly

INDICATORS = sorted(name for name in ARGUMENTS if regularizer(name).is_indicator)


@functools.partial(jax.jit, static_argnums=0)
def prox(regularizer, x, step_size):
    return regularizer.prox(x, step_size)


# --- steps at which a concave penalty stops being tamed -----------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "critical"),
    [
        (name, tried.arguments, tried.critical)
        for name, row in TABLE.items()
        for tried in row.tries
        if tried.critical is not None
    ],
)
def test_prox_is_a_global_minimiser_where_convexity_ends(
    name, arguments, critical, x64
):
    # At the critical step the objective is flat between two knees: quotients are 0/0.
    oracle = ORACLES[name]
    knees = [critical, critical / 3, 0.1, 0.3, 0.5, 1.0, 1.1, 2.0, 3.0, 3.7, 0.35]
    near = 1 + np.array([0, 1e-16, -1e-16, 2e-16, 1e-14, -1e-14, 1e-9, -1e-9, 1e-6])
    x = np.outer(knees, near)
    for step_size in critical * near:
        y = np.asarray(prox(make(name, arguments), x, step_size))
        best = oracle.prox(x, step_size, **arguments)
        for got, wanted, centre in zip(y.flat, best.flat, x.flat, strict=True):
            losses = [
                (z - centre) ** 2 / 2 + step_size * oracle.value([z], **arguments)
                for z in (got, wanted)
            ]
            # Both terms are of the size of the centre squared, and rounded.
            assert losses[0] <= losses[1] + 64 * np.finfo(float).eps * centre**2


@pytest.mark.parametrize("q", [0.02, 0.3, 0.5, 2 / 3, 0.9, 0.98, 0.995])
def test_lq_solves_its_equation_right_above_the_jump(q, x64):
    steps = 10.0 ** np.arange(-4, 5)
    jump = (2 - q) / (2 * (1 - q)) * (2 * steps * (1 - q)) ** (1 / (2 - q))
    each = jax.jit(jax.vmap(rj.regularizers.lq(q).prox))
    assert not np.asarray(each(jump * (1 - 1e-12), steps)).any()
    for above in (1e-12, 1e-9, 1e-6, 1e-3, 0.1, 10.0):
        x = jump * (1 + above)
        y = np.asarray(each(x, steps))
        assert (y > 0).all()
        np.testing.assert_allclose(y + steps * q * y ** (q - 1), x, rtol=1e-15)


def test_ties_fall_to_zero_and_to_the_first():
    assert rj.regularizers.l0().prox(np.float32(1), 0.5) == 0
    x = jnp.array([[2.0, -2.0, 2.0, 1.0]])
    np.testing.assert_array_equal(rj.top_k(2).prox(x, 1.0), [[2, -2, 0, 0]])
    np.testing.assert_array_equal(rj.n_m(1, 2).prox(x, 1.0), [[2, 0, 2, 0]])
    halfway = rj.regularizers.uniform_levels(2, 0.0, 3.0).prox(
        jnp.array([0.5, 1.5, 2.5]), 1.0
    )
    np.testing.assert_array_equal(halfway, [1, 2, 3])


# --- rounding -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "r",
    [rj.regularizers.l1_ball(), rj.regularizers.group_linf((), weighted=False)],
    ids=str,
)
def test_rounding_at_the_radius_makes_no_zero_nonzero(r):
    # The water level is 1e-10 or so, below what sums of order 1 resolve in float32.
    generator = np.random.default_rng(0)
    x = np.abs(generator.normal(size=(2000, 600)))
    x[:, :300] = 0
    x /= x.sum(axis=1, keepdims=True)
    x[:, 1:300] = 2e-10 * np.abs(generator.normal(size=(2000, 299)))
    x = x.astype(np.float32)
    y = np.asarray(jax.jit(jax.vmap(lambda x: r.prox(x, 1.0)))(x))
    assert (y[:, 0] == 0).all()
    assert (y >= 0).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
    "levels",
    [rj.regularizers.binary(0.7), rj.ternary(0.7), rj.regularizers.uniform_levels(4)],
    ids=str,
)
def test_snap_restores_the_very_bits_of_levels(levels, dtype):
    x, before = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 500)), dtype)
    quantised = levels.prox(x, 1.0)
    blurred = before + (quantised - before)
    assert (blurred != quantised).any()
    np.testing.assert_array_equal(levels.snap(blurred), quantised)
    assert levels.value(quantised) == 0
    assert levels.support(quantised).all()


@pytest.mark.parametrize("soft", [False, True])
def test_levels_are_not_everywhere_where_half_precision_is_coarse(soft):
    # Eight bits on [-1, 1] are 0.008 apart, a bfloat16 near 1 is 0.004 to 0.008 long.
    levels = rj.regularizers.uniform_levels(8, soft=soft)
    midpoints = (np.linspace(-1, 1, 256)[96:160] + 1 / 255).astype(jnp.bfloat16)
    assert not levels.support(midpoints).any()


def test_soft_levels_move_small_entries_by_the_step_itself():
    # Far from the level, going there and back would lose the entry to rounding.
    x = np.float32(1e-6)
    y = rj.regularizers.binary(soft=True).prox(x, 1e-7)
    np.testing.assert_allclose(y, 1.1e-6, rtol=1e-6)


def test_total_variation_of_a_huge_step_is_the_mean_and_constant():
    x = np.linspace(0.1, 0.2, 9, dtype=np.float32)
    for step_size in (1.0, 1e5, 1e30):
        y = np.asarray(prox(rj.regularizers.total_variation(), x, step_size))
        assert (y == y[0]).all()
        np.testing.assert_allclose(y, 0.15, rtol=1e-6)


def test_total_variation_poisons_the_row_and_no_other():
    x = np.ones((3, 5), np.float32)
    x[1, 2] = np.nan
    y = np.asarray(prox(rj.regularizers.total_variation(), x, 0.3))
    assert np.isnan(y[1]).all()
    np.testing.assert_array_equal(y[[0, 2]], 1)


def test_l2_ball_lets_no_poisoned_group_through():
    x = np.array([[np.nan, 5.0], [3.0, 4.0]], np.float32)
    y = np.asarray(rj.regularizers.l2_ball(1.0, group_axes=0).prox(x, 0.3))
    assert np.isnan(y[0]).all()
    np.testing.assert_allclose(y[1], [0.6, 0.8], rtol=1e-6)


# --- extremes -----------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_empty_arrays_are_let_through(name):
    r = regularizer(name)
    shape = (0, 4)
    use = jax.jit(lambda x: (r.prox(x, 1.0), r.snap(x), r.support(x), r.value(x)))
    y, snapped, support, value = use(np.zeros(shape, np.float32))
    assert y.shape == snapped.shape == shape
    assert not np.asarray(support).any()
    if name != "simplex":  # no empty array sums to 1
        assert value == 0
    sizes = np.broadcast_to(r.unit_sizes(shape), support.shape)
    assert sizes.sum() == 0 or sizes.size == support.size


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("block", [None, 2])
def test_groups_of_empty_arrays(shape, axis, block):
    r = rj.group_lasso(axis, block=block)
    use = jax.jit(lambda x: (r.prox(x, 1.0), r.metric_prox(x, 1.0, 1.0), r.value(x)))
    y, z, value = use(np.zeros(shape, np.float32))
    assert y.shape == z.shape == shape
    assert value == 0


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_groups_of_float32_survive_extreme_scales(scale):
    # Squares of 1e15 and 1e-15 are still float32 numbers; beyond 1e19 they are not.
    x = np.float32(scale) * np.array([3.0, 4.0], np.float32)
    y = rj.group_lasso((), weighted=False).prox(x, 2.5 * scale)
    np.testing.assert_allclose(y, x / 2, rtol=1e-6)


# --- predicates ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", sorted(n for n in ARGUMENTS if not regularizer(n).is_convex)
)
def test_what_does_not_call_itself_convex_is_not(name):
    # The prox of a convex function never drives two points apart.
    r = regularizer(name)
    generator = np.random.default_rng(0)
    shape = (2, 4) if name != "l_half_ball" else (3,)
    x = generator.normal(size=(400, *shape)).astype(np.float32)
    y = x + 0.3 * generator.normal(size=x.shape).astype(np.float32)
    pairs = jax.jit(jax.vmap(r.prox, (0, None)))
    axes = tuple(range(1, x.ndim))
    for step_size in (0.3, 3.0):
        p, q = (np.asarray(pairs(z, step_size)) for z in (x, y))
        before, after = (np.sum(d**2, axis=axes) for d in (x - y, p - q))
        if (after > 1.1 * before).any():
            return
    pytest.fail(f"{r} never drives points apart")


@pytest.mark.parametrize(
    "name", sorted(n for n in ARGUMENTS if not regularizer(n).is_separable)
)
def test_what_does_not_call_itself_separable_is_not(name):
    r = regularizer(name)
    x = np.random.default_rng(0).normal(size=(50, 4, 4)).astype(np.float32)
    other = x.copy()
    other[:, 0, 0] += 2
    pairs = jax.jit(jax.vmap(r.prox, (0, None)))
    p, q = (np.asarray(pairs(z, 0.5)) for z in (x, other))
    assert (np.abs(p - q).reshape(50, -1)[:, 1:] > 1e-3).any()


def test_indicators_say_so():
    sets = "binary box l1_ball l2_ball l_half_ball max_rank n_m simplex ternary"
    sets += " top_groups top_k uniform_levels"
    assert sets.split() == INDICATORS
