"""The rules of the primitives are registered in pairs, and one loop applies them."""

import jax
import jax.numpy as jnp
import pytest

from rmda_jax.shrink.interpret._axes import AxisInterpreter, AxisValue
from rmda_jax.shrink.interpret._index_sets import fresh
from rmda_jax.shrink.interpret._interpreter import RULES, register
from rmda_jax.shrink.interpret._values import all_or_nothing
from rmda_jax.shrink.interpret.elementwise import same_axes

# Primitives that have a rule of axes and no better rule of values, each for a reason.
ALL_OR_NOTHING = {"iota"}  # has no operands


def test_rules_without_a_better_one_for_values_are_the_named_ones():
    found = {name for name, rules in RULES.items() if rules.values is all_or_nothing}
    assert found == ALL_OR_NOTHING


def test_register_wants_both_rules():
    with pytest.raises(TypeError, match="values"):
        register("no_such_primitive", axes=same_axes)
    assert "no_such_primitive" not in RULES


def test_register_refuses_a_second_pair_of_rules():
    with pytest.raises(AssertionError, match="tanh has rules already"):
        register("tanh", axes=same_axes, values=all_or_nothing)


def test_eqns_in_calls_are_kept_by_their_callers():
    # Both calls share one jaxpr, and their axes differ.
    square = jax.jit(lambda x: x * x)
    closed = jax.make_jaxpr(lambda x, y: square(x) + square(y))(*jnp.ones((2, 3)))
    inputs = [AxisValue((fresh(3),), leaf) for leaf in "xy"]
    interpreter = AxisInterpreter()
    _ = interpreter.eval_closed_jaxpr(closed, inputs)
    products = [
        found.operands[0].leaf
        for path, found in interpreter.eqns.items()
        if found.eqn.primitive.name == "mul" and len(path) == 2
    ]
    assert products == ["x", "y"]
    assert interpreter.path == ()
