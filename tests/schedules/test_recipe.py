"""The recipe as a table, and what its check against the length of a run finds."""

import re
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import rmda_jax as rj


def test_recipe_prints_its_stages():
    recipe = rj.stages(0.1, [2, 4], averaging=0.01, steps_per_epoch=391)
    assert str(recipe).splitlines() == [
        "stage  updates       epochs  learning rate  averaging",
        "-----  ------------  ------  -------------  ---------",
        "1      0 to 781      from 0  0.1            0.01",
        "2      782 to 1,563  from 2  0.01           0.1",
        "3      from 1,564    from 4  0.001          1",
        "The averaging is 1, and zeros of the params exact, from 1,564 on.",
    ]


def test_recipe_prints_what_it_holds_now():
    recipe = rj.stages(0.1, [20], averaging=0.1, ramp="sqrt", total_steps=200)
    assert "2      20 to 199  0.01           0.1 to 1\n" in str(recipe)
    assert str(recipe).endswith("from 119 on.")
    recipe["averaging"] = 0.5
    assert "2      20 to 199  0.01           0.5\n" in str(recipe)
    assert "does not reach 1 within 200 updates: the params have no" in str(recipe)


def test_recipe_of_one_stage_prints_one():
    lines = str(rj.stages(0.5, [], averaging=0.1)).splitlines()
    assert lines[2] == "1      from 0   0.5            0.1"
    assert lines[3].startswith("The averaging does not reach 1: the params")


@pytest.mark.parametrize("averaging", [0.1, 0.25, 0.7])
def test_recipe_knows_the_first_exact_update(averaging):
    recipe = rj.stages(1.0, [7], averaging=averaging, ramp="sqrt")
    count = recipe.first_exact()
    assert float(recipe["averaging"](count)) == 1
    assert float(recipe["averaging"](count - 1)) < 1


def test_recipe_is_splatted_into_a_transformation():
    recipe = rj.stages(0.1, [2], averaging=0.1)
    state = rj.rmda(regularizer=rj.l1(), strength=0.1, **recipe).init(jnp.ones(2))
    assert state.count == 0
    assert set(recipe) == {"learning_rate", "averaging", "restart_steps"}


@pytest.mark.parametrize("spe", [1, 10])
def test_milestone_beyond_the_run(spe):
    fits = {"averaging": 0.1, "steps_per_epoch": spe}
    assert rj.stages(0.1, [5], total_steps=5 * spe + 1, **fits)
    message = (
        f"`milestones` must lie within the run of {5 * spe} updates, got (5,), the "
        f"last at update {5 * spe}, with {spe} updates per epoch."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        rj.stages(0.1, [5], total_steps=5 * spe, **fits)


@pytest.mark.parametrize(
    ("bad", "error"), [(0, ValueError), (1.5, TypeError), ("9", TypeError)]
)
def test_total_steps_that_are_no_count(bad, error):
    with pytest.raises(error, match="`total_steps` must be"):
        rj.stages(0.1, [], total_steps=bad)


def test_averaging_that_does_not_reach_one_in_the_run():
    message = "does not reach 1 within 100 updates: .* deploy the structured_params"
    with pytest.warns(UserWarning, match=message):
        rj.stages(0.1, [50], averaging=0.01, total_steps=100)
    with pytest.warns(UserWarning, match=message):
        rj.stages(0.1, [50], averaging=0.1, ramp="sqrt", total_steps=100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rj.stages(0.1, [50], averaging=0.1, total_steps=100)
        rj.stages(0.1, [50], averaging=0.2, ramp="sqrt", total_steps=100)


def test_milestones_in_epochs_without_their_length():
    message = r"the last of `milestones`, \(5, 9\), is update 9 of 5000.*steps_per_epoc"
    with pytest.warns(UserWarning, match=message):
        rj.stages(0.1, [5, 9], averaging=0.01, total_steps=5000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rj.stages(0.1, [5, 9], averaging=0.01, steps_per_epoch=500, total_steps=5000)
        rj.stages(0.1, [500, 900], averaging=0.01, total_steps=5000)


def test_milestones_that_are_no_sequence():
    message = (
        "`milestones` must be a sequence of integers, got 50. A single one is written "
        "in brackets: [50]."
    )
    for bad in (50, np.array(50), jnp.array(50)):
        with pytest.raises(TypeError, match=re.escape(message)):
            rj.stages(0.1, bad)


def test_milestones_may_be_an_array():
    for milestones in (np.array([2, 4]), jnp.array([2, 4])):
        assert rj.stages(0.1, milestones)["restart_steps"] == (2, 4)


@pytest.mark.parametrize("name", ["learning_rate", "gamma", "averaging"])
def test_schedule_in_the_place_of_a_number(name):
    def schedule(count):
        return 0.1

    arguments = {"learning_rate": 0.1, "milestones": [5], name: schedule}
    message = (
        f"`{name}` must be a number, got .* a schedule of your own goes to the tra"
    )
    with pytest.raises(TypeError, match=message):
        rj.stages(**arguments)
    for bad in (None, "0.1", True, [0.1]):
        with pytest.raises(TypeError, match=f"`{name}` must be a number, got "):
            rj.stages(**{**arguments, name: bad})


def test_numbers_may_be_arrays_of_rank_zero():
    recipe = rj.stages(jnp.float32(0.5), [5], gamma=np.float64(0.5), averaging=0.5)
    assert float(recipe["learning_rate"](5)) == 0.25


@pytest.mark.parametrize(
    "make",
    [
        lambda c: rj.rmda(0.1, rj.l1(), 0.1, averaging=c),
        lambda c: rj.ramda(0.1, rj.l1(), 0.1, averaging=c),
        lambda c: rj.proxsgd(0.1, rj.l1(), 0.1, averaging=c),
        lambda c: rj.proxsgd_adaptive(0.1, rj.l1(), 0.1, averaging=c),
        lambda c: rj.stages(0.1, [5], averaging=c),
    ],
    ids=["rmda", "ramda", "proxsgd", "proxsgd_adaptive", "stages"],
)
def test_momentum_in_the_place_of_averaging(make):
    message = (
        "`averaging` of 0.9 is almost none: .* a momentum of 0.9 is an averaging o"
    )
    with pytest.warns(UserWarning, match=message) as caught:
        make(0.9)
    assert caught[0].filename == __file__  # the user's own line
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for c in (0.01, 0.5, 1, 1.0):
            make(c)
