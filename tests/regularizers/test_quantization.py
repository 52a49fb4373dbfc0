"""PARQ's prox and its levels: against recorded calls of its authors' code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rmda_jax as rj
from tests.fixtures.trajectories import arrays, load, manifest

pytestmark = pytest.mark.costly

R = rj.regularizers
PROX_CALLS = manifest()["parq/prox_calls"]["calls"]
QUANTIZER_CALLS = manifest()["parq/quantizer_calls"]["calls"]
# Their greedy levels; the others are heuristics, or not the best (see the fixtures).
GREEDY = [
    call
    for call in QUANTIZER_CALLS
    if call["quantizer"] == "LSBQuantizer"
    and call["bits"] > 0
    and not call.get("optimal")
    and not call.get("center")
]


# Before annealing they take no prox; with another centre the slope is cut.
REPLAYED = [
    call
    for call in PROX_CALLS
    if call["step"] >= call["anneal_start"] and call["anneal_center"] == 0.5
]


@pytest.mark.parametrize("call", REPLAYED, ids=lambda call: str(call["id"]))
def test_prox_is_theirs(call):
    stored, axis = arrays("parq/prox_calls"), 0 if call["dim"] == -1 else None
    p, levels, expected = (
        stored[f"{call['id']}/{key}"] for key in ("p", "levels", "x")
    )
    schedule = rj.parq_annealing(
        call["anneal_start"], call["anneal_end"], steepness=call["steepness"]
    )
    with jax.enable_x64(True):
        regularizer = R.piecewise_affine(levels, channel_axis=axis)
        t = float(schedule(call["step"]))
        found = np.asarray(regularizer.prox(jnp.asarray(p), t))
    if call["step"] >= call["anneal_end"]:
        # Halfway between two levels either is nearest.
        np.testing.assert_allclose(np.abs(found - p), np.abs(expected - p), atol=1e-15)
        found, expected = np.delete(found, 1, axis=1), np.delete(expected, 1, axis=1)
    # The slope is 1 / (1 - t) with t rounded: as large as it is, so is the error.
    scale = 1 / (1 - t) if t < 1 else 1.0
    np.testing.assert_allclose(found, expected, rtol=0, atol=4e-16 * max(scale, 4))


@pytest.mark.parametrize("call", GREEDY, ids=lambda call: str(call["id"]))
def test_levels_are_theirs(call):
    stored, axis = arrays("parq/quantizer_calls"), 0 if call["dim"] == -1 else None
    with jax.enable_x64(True):
        p = jnp.asarray(stored[f"p/{call['what']}"])
        found = R.least_squares_levels(p, call["bits"], channel_axis=axis)
    expected = np.sort(stored[f"{call['id']}/levels"], axis=-1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("step_size", [0.0, 0.6, 1.0])
def test_every_channel_has_its_own_levels(axis, step_size):
    rng = np.random.default_rng(0)
    x = 2 * rng.normal(size=(3, 4, 5)).astype(np.float32)
    levels = np.sort(rng.normal(size=(x.shape[axis], 4)), axis=1)
    found = R.piecewise_affine(levels, channel_axis=axis).prox(x, step_size)
    channels = np.moveaxis(x, axis, 0)
    expected = [
        R.piecewise_affine(row).prox(channel, step_size)
        for row, channel in zip(levels, channels, strict=True)
    ]
    np.testing.assert_array_equal(np.moveaxis(found, axis, 0), expected)


@pytest.mark.parametrize("axis", [None, -1])
def test_levels_of_a_trajectory_are_theirs(axis):
    trajectory = load(f"parq/lsbq_2bit_{'tensor' if axis is None else 'channel'}")
    for step in range(0, 40, trajectory.hyper["quant_period"]):
        for leaf in ("conv", "lin"):
            with jax.enable_x64(True):
                z = jnp.asarray(trajectory.latent[leaf][step])
                found = R.least_squares_levels(z, 2, channel_axis=axis)
            expected = trajectory.recorded[f"levels/{leaf}"][step]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def squared_error(x, levels) -> float:
    return float((np.min((x[..., None] - levels) ** 2, axis=-1)).sum())


@pytest.mark.parametrize("seed", range(5))
def test_ternary_levels_have_the_least_error(seed):
    x = np.random.default_rng(seed).laplace(size=30)
    with jax.enable_x64(True):
        _, _, v = np.asarray(R.least_squares_levels(jnp.asarray(x), 0))
    grid = np.linspace(0, np.abs(x).max(), 20001)
    least = min(squared_error(x, np.array([-u, 0, u])) for u in grid)
    found = squared_error(x, np.array([-v, 0, v]))
    # Never above the best of the grid, and that is near.
    assert found <= least <= found + 30 * (grid[1] / 2) ** 2 + 1e-12


def test_levels_of_zeros_are_zero():
    for bits in (0, 1, 2):
        levels = R.least_squares_levels(jnp.zeros((2, 3)), bits, channel_axis=0)
        assert levels.shape == (2, 3 if bits == 0 else 2**bits)
        assert not levels.any()
        found = R.piecewise_affine(levels, channel_axis=0).prox(jnp.ones((2, 3)), 1.0)
        assert not found.any()


def test_traced_levels_give_the_same_and_compile_once():
    x, compiled = jnp.linspace(-2, 2, 9), []

    @jax.jit
    def prox(levels):
        compiled.append(levels)
        return R.piecewise_affine(levels).prox(x, 0.5)

    for levels in ([-1.0, 0.0, 1.0], [-2.0, 0.5, 1.5]):
        expected = jax.jit(R.piecewise_affine(levels).prox)(x, 0.5)
        np.testing.assert_array_equal(prox(jnp.array(levels)), expected)
    assert len(compiled) == 1


@pytest.mark.parametrize(
    ("levels", "axis", "message"),
    [
        ([1.0], None, "two levels or more"),
        ([[0.0, 1.0]], None, "an array of 1 axes"),
        ([0.0, 1.0], 0, "an array of 2 axes"),
        ([1.0, 0.0], None, "must be finite and must not decrease"),
        ([0.0, np.inf], None, "must be finite and must not decrease"),
    ],
)
def test_bad_levels(levels, axis, message):
    with pytest.raises(ValueError, match=message):
        R.piecewise_affine(levels, channel_axis=axis)


def test_other_channels():
    regularizer = R.piecewise_affine([[0.0, 1.0], [0.0, 2.0]], channel_axis=-1)
    with pytest.raises(ValueError, match="levels of 2 channels along axis -1"):
        regularizer.prox(jnp.ones((2, 3)), 1.0)


def test_bad_bits():
    with pytest.raises(ValueError, match="from 0 to 8"):
        R.least_squares_levels(jnp.ones(3), 9)
