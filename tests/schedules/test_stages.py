"""The recipes, against the recorded hyperparameters of the authors' schedulers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rmda_jax as rj
from tests.fixtures.trajectories import load, manifest, names

pytestmark = pytest.mark.costly

SCHEDULED = [
    name
    for name in (*names("rmda/rmda_"), *names("ramda/R_RMDA"), *names("ramda/R_RAMDA"))
    if manifest()[name]["hyper"].get("scheduler")
]


@pytest.mark.parametrize("name", SCHEDULED)
def test_stages_are_the_recorded_ones(name, x64):
    """Also the default learning rate, and every restart."""
    trajectory = load(name)
    hyper, scheduler = trajectory.hyper, trajectory.hyper["scheduler"]
    groups = hyper.get("groups", [{}]) if name.startswith("rmda/") else [{}]
    counts = jnp.arange(len(trajectory.learning_rates))
    for column, group in enumerate(groups):
        recipe = rj.stages(
            group.get("lr", hyper.get("lr", hyper.get("ctor_lr"))),
            scheduler["milestones"],
            gamma=scheduler["gamma"],
            averaging=group.get(
                "momentum", hyper.get("momentum", hyper.get("ctor_momentum"))
            ),
            ramp="sqrt" if name.startswith("ramda/") else "geometric",
            steps_per_epoch=trajectory.steps_per_epoch,
        )
        np.testing.assert_allclose(
            jax.vmap(recipe["learning_rate"])(counts),
            trajectory.learning_rates[:, column],
            rtol=1e-15,
        )
        averages = jax.vmap(recipe["averaging"])(counts)
        np.testing.assert_allclose(averages, trajectory.averages[:, column], rtol=1e-15)
        # Exactly 1 where the reference is: a little less would leave no exact zeros.
        recorded_ones = trajectory.averages[:, column] == 1
        np.testing.assert_array_equal(np.asarray(averages) == 1, recorded_ones)
        (restarts,) = np.nonzero(trajectory.recorded["restart_after_step"])
        assert recipe["restart_steps"] == tuple(restarts + 1)


@pytest.mark.parametrize(
    ("gamma", "averaging", "n_stages"),
    [(0.1, 0.001, 4), (0.3, 0.09, 3), (0.7, 0.49, 3)],
)
def test_averaging_ends_at_exactly_one(gamma, averaging, n_stages):
    recipe = rj.stages(1.0, list(range(1, n_stages)), gamma=gamma, averaging=averaging)
    assert recipe["averaging"](n_stages) == 1


def test_sqrt_ramp_reaches_one_after_the_inverse_square():
    averaging = rj.stages(1.0, [5], averaging=0.25, ramp="sqrt")["averaging"]
    assert [float(averaging(count)) for count in (0, 4, 5)] == [0.25] * 3
    assert averaging(5 + 14) < 1
    assert averaging(5 + 15) == 1


def test_without_milestones_there_is_one_stage():
    recipe = rj.stages(0.5, [], averaging=0.1)
    assert recipe["restart_steps"] == ()
    assert recipe["learning_rate"](1000) == 0.5
    assert recipe["averaging"](1000) == np.float32(0.1)
