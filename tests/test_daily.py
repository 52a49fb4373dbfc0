"""The tables of the tests lose no case and no kind by default."""

import pytest

from tests._daily import daily, first_of_each, only, product


def split(parameters):
    """Return what runs by default, and what at night."""
    is_long = lambda p: any(mark.name == "long" for mark in p.marks)
    return (
        [p.values for p in parameters if not is_long(p)],
        [p.values for p in parameters if is_long(p)],
    )


def test_the_first_of_every_kind_runs_by_default():
    found = first_of_each(len, ["a", "bb", "c", "dd", "eee"])
    assert split(found) == ([("a",), ("bb",), ("eee",)], [("c",), ("dd",)])


def test_what_is_long_stays_so_and_stands_for_no_kind():
    long = pytest.param("a", marks=pytest.mark.long, id="first")
    found = first_of_each(len, [long, "b"])
    assert split(found) == ([("b",)], [("a",)])
    assert found[0].id == "first"


def test_a_tuple_is_several_parameters():
    found = first_of_each(lambda name, size: size, [("a", 1), ("b", 1), ("c", 2)])
    assert split(found) == ([("a", 1), ("c", 2)], [("b", 1)])


def test_daily_are_those_of_which_it_is_said():
    assert split(only(str.isupper, ["a", "B", "c"])) == ([("B",)], [("a",), ("c",)])


def test_a_parametrization_keeps_its_names():
    mark = daily(len, pytest.mark.parametrize("x", ["a", "b"], ids=["one", "two"]))
    names, values = mark.args
    assert (names, mark.kwargs) == ("x", {"ids": ["one", "two"]})
    assert split(values) == ([("a",)], [("b",)])


def test_of_combinations_the_first_of_every_kind_run_by_default():
    mark = product(lambda size, word: size, size=[1, 2], word=["a", "b"])
    names, values = mark.args
    assert names == ("size", "word")
    assert split(values) == ([(1, "a"), (2, "a")], [(1, "b"), (2, "b")])
