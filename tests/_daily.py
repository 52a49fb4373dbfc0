"""Which cases of a table run by default; all others run at night, with `RMDA_LONG`.

What a case stands for, its kind, is said where the table is used: a geometry, a solver,
a mechanism. By default the first case of every kind runs.
"""

import enum
import itertools
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any

import pytest

_PARAMETER = type(pytest.param())


def first_of_each(kind: Callable[..., Hashable], values: Iterable[Any]) -> list[Any]:
    """Return a parameter for every value; all but the first of every kind are `long`.

    A tuple holds the values of several parameters, which `kind` gets one by one. What
    is marked as `long` already stays so, and stands for no kind.
    """
    found, seen = [], set()
    for value in values:
        parameter = _as_parameter(value)
        if not any(mark.name == "long" for mark in parameter.marks):
            key = kind(*parameter.values)
            if key in seen:
                parameter = _at_night(parameter)
            seen.add(key)
        found.append(parameter)
    return found


def only(is_daily: Callable[..., bool], values: Iterable[Any]) -> list[Any]:
    """Return a parameter for every value; those that are not daily are `long`."""
    parameters = [_as_parameter(value) for value in values]
    return [p if is_daily(*p.values) else _at_night(p) for p in parameters]


def these(chosen: Collection[Any], values: Iterable[Any]) -> list[Any]:
    """Return a parameter for every value; those that are not chosen are `long`."""
    return only(lambda value: value in chosen, values)


def daily(
    kind: Callable[..., Hashable], mark: pytest.MarkDecorator
) -> pytest.MarkDecorator:
    """Return a `parametrize` that runs the first value of every kind by default."""
    names, values = mark.args
    return pytest.mark.parametrize(names, first_of_each(kind, values), **mark.kwargs)


def product(
    kind: Callable[..., Hashable], /, **values: Iterable[Any]
) -> pytest.MarkDecorator:
    """Return a `parametrize` over all combinations of named values, likewise."""
    combined = list(itertools.product(*values.values()))
    return pytest.mark.parametrize(
        tuple(values), first_of_each(kind, combined), ids=_name
    )


def _name(value: Any) -> str:
    return value.name if isinstance(value, enum.Enum) else str(value)


def _as_parameter(value: Any) -> Any:
    if isinstance(value, _PARAMETER):
        return value
    return pytest.param(*value) if isinstance(value, tuple) else pytest.param(value)


def _at_night(parameter: Any) -> Any:
    marks = (*parameter.marks, pytest.mark.long)
    return pytest.param(*parameter.values, marks=marks, id=parameter.id)
