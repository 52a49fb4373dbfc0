"""The referee: whose turn it is, what is timed, and when it waits."""

import jax
import numpy as np
import pytest

from benchmarks._timing import Referee, Times, busy_share


class Clock:
    """A clock that runs only when a contestant, or a pause, takes time."""

    def __init__(self):
        self.now = 0.0
        self.turns = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def contestant(self, name, *durations):
        calls = iter(durations)

        def turn():
            self.turns.append(name)
            self.now += next(calls)

        return turn


def referee(clock, rounds=3, patience=0.0, busy=lambda: 0.0):
    return Referee(rounds, patience, clock=clock, sleep=clock.sleep, busy=busy)


def test_contestants_take_turns_every_other_round_backwards():
    clock = Clock()
    contestants = {name: clock.contestant(name, 1, 1, 1) for name in "abc"}
    _ = referee(clock).race(contestants, warm=False)
    assert "".join(clock.turns) == "abccbaabc"


def test_first_call_of_a_turn_is_not_timed_and_repeats_are_averaged():
    clock = Clock()
    times = referee(clock, 2).race(
        {"a": clock.contestant("a", 9, 1, 3, 9, 5, 7)}, repeats=2
    )
    np.testing.assert_allclose(times.seconds["a"], [2, 6])


def test_rounds_of_a_race_may_differ():
    clock = Clock()
    times = referee(clock).race({"a": clock.contestant("a", 1)}, rounds=1, warm=False)
    assert len(times.seconds["a"]) == 1


def test_row_has_medians_of_ratios_within_rounds():
    seconds = {"a": np.array([1.0, 20.0, 3.0]), "b": np.array([2.0, 10.0, 4.0])}
    row = Times(seconds, True).row("a", b="b", absent="c")
    assert row == {
        "milliseconds": 3000.0,
        "times_b": 0.75,
        "times_b_iqr": pytest.approx((0.75 + 2) / 2 - (0.5 + 0.75) / 2),
        "idle": True,
    }


def test_round_waits_for_idle_cores():
    clock, loads = Clock(), iter([0.9, 0.5, 0.0, 0.0, 0.0])
    rules = referee(clock, patience=10.0, busy=lambda: next(loads))
    times = rules.race({"a": clock.contestant("a", 1, 1, 1)}, warm=False)
    assert times.idle is True
    assert 0 < rules.patience < 10


def test_patience_is_one_budget_and_its_end_is_told():
    clock = Clock()
    rules = referee(clock, 2, patience=1.0, busy=lambda: 0.9)
    for _ in range(2):
        times = rules.race({"a": clock.contestant("a", 1, 1)}, warm=False)
        assert times.idle is False
    assert rules.patience == 0


def test_one_busy_round_of_many_is_told():
    clock, loads = Clock(), iter([0.0, 0.9, 0.0])
    rules = referee(clock, busy=lambda: next(loads))
    assert rules.race({"a": clock.contestant("a", 1, 1, 1)}, warm=False).idle is False


def test_idleness_is_unknown_where_nothing_tells_it():
    clock = Clock()
    rules = referee(clock, 1, busy=lambda: None)
    assert rules.race({"a": clock.contestant("a", 1)}, warm=False).idle is None


def test_contestant_may_donate():
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    carry = jax.numpy.zeros(3)

    def turn():
        nonlocal carry
        carry = step(carry)
        return carry

    _ = Referee(2, 0.0, busy=lambda: 0.0).race({"a": turn}, repeats=2)
    np.testing.assert_array_equal(carry, 6)


def test_busy_share_is_a_share_or_unknown():
    busy = busy_share()
    assert busy is None or 0 <= busy <= 1
