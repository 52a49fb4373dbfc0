"""PARQ's annealing: against the inverse slopes that its authors' code recorded."""

import jax
import numpy as np
import pytest

import rmda_jax as rj
from tests.fixtures.trajectories import load


def test_inverse_slopes_are_theirs():
    trajectory = load("parq/lsbq_1bit_tensor")
    hyper = trajectory.hyper
    with jax.enable_x64(True):
        schedule = rj.parq_annealing(
            hyper["anneal_start"], hyper["anneal_end"], steepness=hyper["steepness"]
        )
        found = 1 - np.array([schedule(step) for step in range(40)])
    # Theirs is recorded no more when annealing is over.
    end = hyper["anneal_end"]
    recorded = trajectory.recorded["inv_slope"]
    np.testing.assert_allclose(found[:end], recorded[:end], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(found[end:], 0)


@pytest.mark.parametrize("steps", [(-1, 5), (5, 5), (6, 5)])
def test_bad_steps(steps):
    with pytest.raises(ValueError, match="0 or more, and increase"):
        rj.parq_annealing(*steps)


@pytest.mark.parametrize("steepness", [0.0, float("inf"), float("nan")])
def test_bad_steepness(steepness):
    with pytest.raises(ValueError, match="positive and finite"):
        rj.parq_annealing(0, 5, steepness=steepness)
