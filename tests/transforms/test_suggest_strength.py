"""The suggested strength: its two bounds where they are known, and whole runs.

``RMDA_LONG=1 python -m pytest -s tests/transforms/test_suggest_strength.py`` counts the
successes that the docstring of `suggest_strength` names.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj
from tests.transforms._problems import RATES, problem, run

PARAMS = {"a": jnp.array([[3.0, 4.0], [0.6, 0.8], [0.0, 0.0]])}
ROWS = rj.group_lasso(0, weighted=False)
METHODS = list(RATES)


def linear(params, *slopes):
    """A loss whose gradient is what the batch holds."""
    pairs = zip(params.values(), slopes, strict=True)
    return sum(jnp.sum(w * slope) for w, slope in pairs)


def suggest(batches=((PARAMS["a"],),) * 2, **changes):
    arguments: dict = {"learning_rate": 1.0, "total_steps": 100, **changes}
    loss, params = arguments.pop("loss", linear), arguments.pop("params", PARAMS)
    regularizer = arguments.pop("regularizer", ROWS)
    return rj.suggest_strength(loss, params, regularizer, batches, **arguments)


def test_bounds_are_the_medians_of_time_and_gradient():
    guess = suggest(learning_rate=0.5)
    tau = 0.5 * np.sum(np.sqrt(np.arange(1, 101))) / 10
    # Rows have norms 5 and 1, of start and of gradient; what is zero does not count.
    np.testing.assert_allclose(guess.nothing_dies, 3 / tau, rtol=1e-5)
    np.testing.assert_allclose(guess.everything_dies, 3, rtol=1e-5)
    np.testing.assert_allclose(guess.suggested, 3 / tau**0.25, rtol=1e-5)


def test_the_weakest_rule_bounds_above_and_multipliers_count():
    slopes = (PARAMS["a"], 0.1 * PARAMS["a"])
    both = {"a": PARAMS["a"], "b": PARAMS["a"]}
    rules = rj.RegularizerMap([("a", ROWS), ("b", ROWS, 0.5)])
    guess = suggest([slopes] * 2, params=both, regularizer=rules)
    np.testing.assert_allclose(guess.everything_dies, 3 * 0.1 / 0.5, rtol=1e-5)


def test_restarts_begin_the_time_anew():
    pieces = [np.sum(np.sqrt(np.arange(1, n + 1))) / np.sqrt(n) for n in (60, 40)]
    guess = suggest(restart_steps=(60, 200))
    np.testing.assert_allclose(guess.nothing_dies, 3 / sum(pieces), rtol=1e-5)


def test_a_schedule_is_added_up():
    schedule = optax.cosine_decay_schedule(1.0, 100)
    guess = suggest(method="proxsgd", learning_rate=schedule)
    total = sum(float(schedule(count)) for count in range(100))
    np.testing.assert_allclose(guess.nothing_dies, 3 / total, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_time_is_that_of_the_method(method):
    """Gradients that cancel hold nothing: all units go a little above the bound."""
    params = {"a": jnp.ones(4), "b": jnp.zeros(1)}
    signs = [(jnp.full(4, s), jnp.full(1, 9.0)) for s in (0.1, -0.1)]
    n, rate = 200, 0.01
    with pytest.warns(UserWarning, match="hidden by the noise"):
        bound = suggest(
            signs,
            params=params,
            regularizer=rj.l1(),
            method=method,
            learning_rate=rate,
            total_steps=n,
        ).nothing_dies

    def alive(strength):
        averaging = {} if method == "proxgen" else {"averaging": 1.0}
        tx = getattr(rj, method)(rate, rj.l1(), strength, **averaging)

        def step(carry, sign):
            w, state = carry
            updates, state = tx.update(sign * jnp.full(4, 0.1), state, w)
            return (optax.apply_updates(w, updates), state), None

        start = jnp.ones(4), tx.init(jnp.ones(4))
        (w, _), _ = jax.lax.scan(step, start, (-1.0) ** jnp.arange(n))
        return jnp.sum(w != 0)

    assert alive(0.85 * bound) == 4
    assert alive(1.15 * bound) == 0


def test_noise_is_taken_off_the_gradient():
    """Of four batches 1 + (3, -1, -1, -1) s the mean is 1, whatever the noise."""
    ones, s = jnp.ones((1, 2)), 0.5
    batches = [(ones + s * sign * jnp.ones((1, 2)),) for sign in (3, -1, -1, -1)]
    guess = suggest(batches, params={"a": ones})
    spread = s**2 * 12 / 3 / 4  # of the mean, in each entry
    expected = np.sqrt(2) * np.sqrt(1 - spread)
    np.testing.assert_allclose(guess.everything_dies, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_a_batch_may_be_one_array_and_params_of_any_width(dtype):
    params = {"a": PARAMS["a"].astype(dtype)}
    guess = suggest([params["a"], params["a"]], params=params)
    np.testing.assert_allclose(guess.everything_dies, 3, rtol=1e-2)


def test_printed_it_is_a_sentence():
    assert str(suggest()) == (
        "strength 1: below 0.045 the run is too short for zeros, near 3 layers die"
    )


def test_a_run_that_is_too_short_warns():
    with pytest.warns(UserWarning, match="Raise `total_steps` or `learning_rate`"):
        _ = suggest(learning_rate=1e-3)


NANS = (np.full((3, 2), np.nan, np.float32),)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"method": "adam"}, ValueError, "one of rmda, ramda, proxsgd, proxgen"),
        ({"method": "proxsgd", "restart_steps": (5,)}, ValueError, "no restarts"),
        ({"total_steps": 1.5}, TypeError, "`total_steps` must be an integer"),
        ({"total_steps": 0}, ValueError, "`total_steps` must be positive"),
        ({"learning_rate": -1.0}, ValueError, "`learning_rate` must lie in"),
        ({"learning_rate": 0.0}, ValueError, "positive somewhere in the run"),
        ({"batches": PARAMS["a"]}, TypeError, "an iterable of batches"),
        ({"batches": [(PARAMS["a"],)]}, ValueError, "at least 2 batches, got 1"),
        ({"batches": [NANS, NANS]}, ValueError, "finite, got NaN .* 'a'"),
        ({"params": {"a": jnp.zeros((3, 2))}}, ValueError, "units other than zero"),
        ({"params": {"a": jnp.ones(3, int)}}, TypeError, "real floating"),
        ({"regularizer": None}, ValueError, "must act on some leaf"),
        ({"regularizer": rj.box(0, 1)}, NotImplementedError, "no strength makes"),
    ],
)
def test_what_cannot_be_answered_is_an_error(changes, error, message):
    with pytest.raises(error, match=message):
        _ = suggest(**changes)


def succeeds(number, method):
    """Whether a quarter is zero, no layer all zero, and the accuracy far above chance.

    That is, above the middle between all right and the most frequent class.
    """
    case = problem(number)
    recipe = case.recipe(method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        guess = rj.suggest_strength(
            case.loss,
            case.params,
            case.rules,
            case.batches(8),
            method=method,
            total_steps=case.n_steps,
            **{name: recipe[name] for name in recipe if name != "averaging"},
        )
    train = jax.jit(lambda strength: run(case, method, strength))
    accuracy, zero, n_dead = map(float, train(guess.suggested))
    chance = np.bincount(case.test[1]).max() / len(case.test[1])
    success = accuracy >= (chance + 1) / 2 and zero >= 0.25 and n_dead == 0
    print(
        f"{method:8} {number} {case.kind:22} {'' if success else 'NOT'} {guess}; "
        f"accuracy {accuracy:.2f}, chance {chance:.2f}, zero {zero:.2f}, "
        f"dead layers {n_dead:.0f}"
    )
    return success


@pytest.mark.long
def test_a_run_at_the_suggestion_succeeds():
    assert succeeds(0, "rmda")


# The rule was chosen on problems like 0 to 19.
@pytest.mark.long
def test_successes_on_problems_that_the_rule_has_not_seen():
    assert sum(succeeds(number, "rmda") for number in range(20, 40)) >= 15
